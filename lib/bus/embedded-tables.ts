/**
 * What the embedded bus does to its tables. Each method is one step inside a transaction that the caller holds, except
 * those marked as reads, which stand alone.
 */

import type Database from "better-sqlite3";
import { randomInt, randomUUID } from "node:crypto";
import { AppError } from "../errors.ts";
import type { ProcessIdentity } from "./embedded-process.ts";
import { noDeadLetter, replayed } from "./dead-letters.ts";
import type { QueueProperties } from "./message-checks.ts";
import type { DeadLetter, Delivery, OutgoingMessage, QueueStatus, Settlement } from "./message-bus.ts";

/** A delivery with what it takes to settle it. */
export interface Claimed {
  readonly id: number;
  readonly owner: number;
  readonly delivery: Delivery;
}

/** An open bus's row. `beat` rises while it lives. */
export interface InstanceRow extends ProcessIdentity {
  readonly id: number;
  readonly beat: number;
}

interface QueueRow {
  readonly id: number;
  readonly kind: string;
  readonly expires_ms: number | null;
  readonly max_deliveries: number | null;
}

interface EnvelopeRow {
  readonly id: number;
  readonly redeliveries: number;
  readonly expires_at: number | null;
  readonly type: string;
  readonly message_id: string;
  readonly correlation_id: string | null;
  readonly reply_to: string | null;
  readonly headers: string;
}

interface DeadLetterRow extends EnvelopeRow {
  readonly queue: string;
  readonly reason: DeadLetter["reason"];
  readonly at: number;
  readonly bytes: Buffer;
}

const ENVELOPE = "redeliveries, expires_at, type, message_id, correlation_id, reply_to, headers";
const WAITING = "owner IS NULL AND available_at <= @now AND (expires_at IS NULL OR expires_at > @now)";
const UNUSED_RUN_QUEUES =
  "SELECT id FROM queue WHERE kind = 'run' AND unused_since IS NOT NULL AND unused_since + expires_ms <= @now";
const EXPIRED = "SELECT id FROM message WHERE expires_at <= @now AND owner IS NULL";

/** The statements, prepared once per open file. */
export class QueueTables {
  readonly #db: Database.Database;
  readonly #sql: Statements;

  constructor(db: Database.Database) {
    this.#db = db;
    this.#sql = prepare(db);
  }

  /** Changes whenever another process commits. A read. */
  dataVersion(): number {
    return this.#sql.dataVersion.get() as number;
  }

  /** Adds the queue, or renews the time that a run queue may stay unused; `conflict` for other properties. */
  declare(name: string, properties: QueueProperties, now: number): void {
    const row = this.#sql.queueByName.get(name);
    const expiresMs = properties.expiresMs ?? null;
    const maxDeliveries = properties.maxDeliveries ?? null;
    if (row === undefined) {
      this.#sql.insertQueue.run(name, properties.kind, expiresMs, maxDeliveries, now);
      return;
    }
    if (row.kind !== properties.kind || row.expires_ms !== expiresMs || row.max_deliveries !== maxDeliveries) {
      throw new AppError(
        "conflict",
        `Queue "${name}" exists as kind=${row.kind}, expiresMs=${row.expires_ms ?? "-"}, maxDeliveries=${row.max_deliveries ?? "-"}; ` +
          `asked for kind=${properties.kind}, expiresMs=${expiresMs ?? "-"}, maxDeliveries=${maxDeliveries ?? "-"}. Delete it first, or declare it alike.`,
        { retryable: false },
      );
    }
    this.#sql.touchUnused.run(now, row.id);
  }

  /** The queue's id, or `not_found`. */
  queueId(name: string): number {
    const row = this.#sql.queueByName.get(name);
    if (row === undefined) throw new AppError("not_found", `There is no queue "${name}": declare it first.`);
    return row.id;
  }

  /** Whether a queue is still there. A read. */
  hasQueue(id: number): boolean {
    return this.#sql.queueById.get(id) !== undefined;
  }

  /** Deletes a queue with its messages and consumers. */
  deleteQueue(id: number): void {
    this.#sql.deleteBodiesOfQueue.run(id);
    this.#sql.deleteMessagesOfQueue.run(id);
    this.#sql.deleteConsumersOfQueue.run(id);
    this.#sql.deleteQueue.run(id);
  }

  /** The id of a queue by its name, if there is one. */
  findQueue(name: string): number | undefined {
    return this.#sql.queueByName.get(name)?.id;
  }

  /** Puts a message at the queue's end; `not_found` when there is no such queue. */
  publish(name: string, message: OutgoingMessage): void {
    const { lastInsertRowid } = this.#sql.insertMessage.run(
      this.queueId(name),
      message.expiresAtMs ?? null,
      message.type,
      message.messageId ?? randomUUID(),
      message.correlationId ?? null,
      message.replyTo ?? null,
      JSON.stringify(message.headers ?? {}),
    );
    const { buffer, byteOffset, byteLength } = message.body;
    this.#sql.insertBody.run(lastInsertRowid, Buffer.from(buffer, byteOffset, byteLength));
  }

  /** Whether a claim would find something. A read. */
  isWaiting(queueId: number, now: number): boolean {
    return this.#sql.anyWaiting.get({ queueId, now }) !== undefined;
  }

  /** When the next message of a queue in which none is waiting becomes available. A read. */
  availableAt(queueId: number): number | undefined {
    return this.#sql.availableAt.get(queueId) ?? undefined;
  }

  /** Takes up to `limit` waiting messages, oldest first. */
  claim(queueId: number, owner: number, limit: number, now: number): Claimed[] {
    return this.#sql.waiting.all({ queueId, now, limit }).map((row) => {
      this.#sql.setOwner.run(owner, row.id);
      return { id: row.id, owner, delivery: deliveryOf(row, this.#sql.body.get(row.id) as Buffer) };
    });
  }

  /**
   * Settles a delivery; without effect when its owner has lost it. A retry is available again after `retryMs`. Returns
   * whether the message became a dead letter.
   */
  settle(id: number, owner: number, settlement: Settlement, now: number, retryMs: number): boolean {
    const row = this.#sql.owned.get(id, owner);
    if (row === undefined) return false;
    if (settlement === "accept") this.#remove(id);
    else if (settlement === "reject") this.#bury(id, "rejected", now);
    else return this.#putBack(row, now, now + retryMs);
    return settlement === "reject";
  }

  /** Returns a claimed message that no handler saw, uncounted. */
  giveBack(id: number, owner: number): void {
    this.#sql.giveBack.run(id, owner);
  }

  /** A new instance's id: random, so that one from a transaction that was rolled back never becomes another's. */
  addInstance(self: ProcessIdentity): number {
    const id = randomInt(2 ** 48 - 1);
    this.#sql.insertInstance.run(id, self.host, self.pid, self.started);
    return id;
  }

  /** Raises the beat; false when others have declared this instance dead. */
  beat(instance: number): boolean {
    return this.#sql.beat.run(instance).changes === 1;
  }

  hasInstance(instance: number): boolean {
    return this.#sql.instanceById.get(instance) !== undefined;
  }

  /** All open buses that consume. A read. */
  instances(): readonly InstanceRow[] {
    return this.#sql.instances.all();
  }

  /** Forgets an instance: its unsettled deliveries return to their old places, counted, and its consumers end. */
  removeInstance(instance: number, now: number): void {
    for (const row of this.#sql.ownedBy.all(instance)) this.#putBack(row, now, 0);
    for (const { id, queue_id } of this.#sql.consumersOf.all(instance))
      this.removeConsumer({ id, instance, queueId: queue_id }, now);
    this.#sql.deleteInstance.run(instance);
  }

  addConsumer(instance: number, queueId: number): number {
    this.#sql.markUsed.run(queueId);
    return Number(this.#sql.insertConsumer.run(instance, queueId).lastInsertRowid);
  }

  /** The time that a run queue may stay unused begins with its last consumer's end. */
  removeConsumer(of: { readonly id: number; readonly instance: number; readonly queueId: number }, now: number): void {
    this.#sql.deleteConsumer.run(of.id, of.instance);
    this.#sql.touchUnused.run(now, of.queueId);
  }

  /** Whether {@link expire} has anything to do. A read. */
  isAnythingExpired(now: number): boolean {
    return this.#sql.anyExpired.get({ now }) !== undefined || this.#sql.anyUnused.get({ now }) !== undefined;
  }

  /** Expired messages become dead letters, unused run queues go. */
  expire(now: number): void {
    for (const { id } of this.#sql.unusedQueues.all({ now })) this.deleteQueue(id);
    for (const { id } of this.#sql.expired.all({ now })) this.#bury(id, "expired", now);
  }

  /** Figures of a queue. A read. */
  status(name: string, now: number): QueueStatus | undefined {
    const row = this.#sql.queueByName.get(name);
    return row === undefined ? undefined : (this.#sql.status.get({ id: row.id, now }) as QueueStatus);
  }

  /** A read. */
  deadLetters(limit: number): DeadLetter[] {
    return this.#sql.deadLetters.all(limit).map(deadLetterOf);
  }

  /** Puts a dead letter back to its queue's end, and forgets it; `not_found` when there is no such one or no such queue. */
  replayDeadLetter(id: string, now: number): void {
    const row = this.#sql.deadLetter.get(id);
    if (row === undefined) throw noDeadLetter(id);
    const { queue, message } = deadLetterOf(row);
    this.publish(queue, replayed(message, now));
    this.#sql.deleteDeadLetter.run(id);
  }

  /** Whether the dead letters are over their bound. A read. */
  areDeadLettersOver(maxCount: number, maxBytes: number): boolean {
    const { count, bytes } = this.#sql.deadLetterSize.get() as { count: number; bytes: number };
    return count > maxCount || bytes > maxBytes;
  }

  /** Forgets the oldest dead letters until both bounds hold. */
  trimDeadLetters(maxCount: number, maxBytes: number): void {
    this.#sql.trimDeadLetters.run(maxCount, maxBytes);
  }

  /** Bytes of free pages inside the file. A read. */
  freeBytes(): number {
    return (this.#sql.freePages.get() as number) * (this.#sql.pageSize.get() as number);
  }

  /** Gives up to `pages` free pages back to the file system. */
  shrink(pages: number): void {
    this.#db.pragma(`incremental_vacuum(${pages})`);
  }

  /** A read. */
  ping(): void {
    this.#sql.ping.get();
  }

  /** Returns whether it was the last delivery allowed, and the message is a dead letter now. */
  #putBack(row: Owned, now: number, at: number): boolean {
    if (row.max_deliveries !== null && row.redeliveries + 1 >= row.max_deliveries) {
      this.#bury(row.id, "max_deliveries", now);
      return true;
    }
    // A run queue does not count (classic queues of RabbitMQ cannot): once or more is 1.
    this.#sql.release.run({ at, id: row.id, redeliveries: row.max_deliveries === null ? 1 : row.redeliveries + 1 });
    return false;
  }

  #bury(id: number, reason: DeadLetter["reason"], now: number): void {
    this.#sql.copyToDeadLetters.run(reason, now, id);
    this.#remove(id);
  }

  #remove(id: number): void {
    this.#sql.deleteBody.run(id);
    this.#sql.deleteMessage.run(id);
  }
}

function deliveryOf(row: EnvelopeRow, body: Buffer): Delivery {
  return {
    type: row.type,
    body,
    messageId: row.message_id,
    headers: JSON.parse(row.headers) as Record<string, string>,
    redeliveryCount: row.redeliveries,
    ...(row.correlation_id === null ? {} : { correlationId: row.correlation_id }),
    ...(row.reply_to === null ? {} : { replyTo: row.reply_to }),
    ...(row.expires_at === null ? {} : { expiresAtMs: row.expires_at }),
  };
}

function deadLetterOf(row: DeadLetterRow): DeadLetter {
  return {
    id: String(row.id),
    queue: row.queue,
    reason: row.reason,
    atMs: row.at,
    message: deliveryOf(row, row.bytes),
  };
}

type Statements = ReturnType<typeof prepare>;
type AtNow = { readonly now: number };
type Owned = { readonly id: number; readonly redeliveries: number; readonly max_deliveries: number | null };

function prepare(db: Database.Database) {
  const owned = "SELECT m.id, m.redeliveries, q.max_deliveries FROM message m JOIN queue q ON q.id = m.queue_id WHERE";
  return {
    dataVersion: db.prepare("PRAGMA data_version").pluck(),
    freePages: db.prepare("PRAGMA freelist_count").pluck(),
    pageSize: db.prepare("PRAGMA page_size").pluck(),
    ping: db.prepare("SELECT 1 FROM queue LIMIT 1"),

    queueByName: db.prepare<[string], QueueRow>(
      "SELECT id, kind, expires_ms, max_deliveries FROM queue WHERE name = ?",
    ),
    queueById: db.prepare<[number]>("SELECT 1 FROM queue WHERE id = ?"),
    insertQueue: db.prepare(
      "INSERT INTO queue (name, kind, expires_ms, max_deliveries, unused_since) VALUES (?, ?, ?, ?, ?)",
    ),
    deleteQueue: db.prepare<[number]>("DELETE FROM queue WHERE id = ?"),
    touchUnused: db.prepare<[number, number]>(
      "UPDATE queue SET unused_since = ? WHERE id = ? AND NOT EXISTS (SELECT 1 FROM consumer WHERE queue_id = queue.id)",
    ),
    markUsed: db.prepare<[number]>("UPDATE queue SET unused_since = NULL WHERE id = ?"),
    unusedQueues: db.prepare<[AtNow], { id: number }>(UNUSED_RUN_QUEUES),
    anyUnused: db.prepare<[AtNow]>(`${UNUSED_RUN_QUEUES} LIMIT 1`),

    insertMessage: db.prepare(
      `INSERT INTO message (queue_id, redeliveries, available_at, expires_at, type, message_id, correlation_id, reply_to, headers)
       VALUES (?, 0, 0, ?, ?, ?, ?, ?, ?)`,
    ),
    insertBody: db.prepare("INSERT INTO body (id, bytes) VALUES (?, ?)"),
    body: db.prepare<[number]>("SELECT bytes FROM body WHERE id = ?").pluck(),
    deleteBody: db.prepare<[number]>("DELETE FROM body WHERE id = ?"),
    deleteMessage: db.prepare<[number]>("DELETE FROM message WHERE id = ?"),
    deleteBodiesOfQueue: db.prepare<[number]>(
      "DELETE FROM body WHERE id IN (SELECT id FROM message WHERE queue_id = ?)",
    ),
    deleteMessagesOfQueue: db.prepare<[number]>("DELETE FROM message WHERE queue_id = ?"),
    anyWaiting: db.prepare<[{ queueId: number } & AtNow]>(
      `SELECT 1 FROM message WHERE queue_id = @queueId AND ${WAITING} LIMIT 1`,
    ),
    availableAt: db
      .prepare<[number], number | null>("SELECT min(available_at) FROM message WHERE queue_id = ? AND owner IS NULL")
      .pluck(),
    waiting: db.prepare<[{ queueId: number; limit: number } & AtNow], EnvelopeRow>(
      `SELECT id, ${ENVELOPE} FROM message WHERE queue_id = @queueId AND ${WAITING} ORDER BY id LIMIT @limit`,
    ),
    setOwner: db.prepare<[number, number]>("UPDATE message SET owner = ? WHERE id = ?"),
    release: db.prepare<[{ id: number; at: number; redeliveries: number }]>(
      "UPDATE message SET owner = NULL, redeliveries = @redeliveries, available_at = @at WHERE id = @id",
    ),
    giveBack: db.prepare<[number, number]>("UPDATE message SET owner = NULL WHERE id = ? AND owner = ?"),
    owned: db.prepare<[number, number], Owned>(`${owned} m.id = ? AND m.owner = ?`),
    ownedBy: db.prepare<[number], Owned>(`${owned} m.owner = ?`),
    expired: db.prepare<[AtNow], { id: number }>(EXPIRED),
    anyExpired: db.prepare<[AtNow]>(`${EXPIRED} LIMIT 1`),
    status: db.prepare<[{ id: number } & AtNow]>(
      `SELECT (SELECT count(*) FROM message WHERE queue_id = @id AND owner IS NULL AND (expires_at IS NULL OR expires_at > @now)) AS ready,
              (SELECT count(*) FROM consumer WHERE queue_id = @id) AS consumers`,
    ),

    copyToDeadLetters: db.prepare<[string, number, number]>(
      `INSERT INTO dead_letter (queue, reason, at, size, bytes, ${ENVELOPE})
       SELECT (SELECT name FROM queue WHERE id = m.queue_id), ?, ?, length(b.bytes), b.bytes, ${ENVELOPE}
       FROM message m JOIN body b ON b.id = m.id WHERE m.id = ?`,
    ),
    deadLetters: db.prepare<[number], DeadLetterRow>(
      `SELECT id, queue, reason, at, bytes, ${ENVELOPE} FROM dead_letter ORDER BY id LIMIT ?`,
    ),
    deadLetter: db.prepare<[string], DeadLetterRow>(
      `SELECT id, queue, reason, at, bytes, ${ENVELOPE} FROM dead_letter WHERE id = ?`,
    ),
    deleteDeadLetter: db.prepare<[string]>("DELETE FROM dead_letter WHERE id = ?"),
    deadLetterSize: db.prepare("SELECT count(*) AS count, coalesce(sum(size), 0) AS bytes FROM dead_letter"),
    trimDeadLetters: db.prepare<[number, number]>(
      `DELETE FROM dead_letter WHERE id <= (SELECT max(id) FROM (
         SELECT id, row_number() OVER (ORDER BY id DESC) AS newest, sum(size) OVER (ORDER BY id DESC) AS bytes FROM dead_letter
       ) WHERE newest > ? OR bytes > ?)`,
    ),

    insertInstance: db.prepare("INSERT INTO instance (id, host, pid, started, beat) VALUES (?, ?, ?, ?, 0)"),
    beat: db.prepare<[number]>("UPDATE instance SET beat = beat + 1 WHERE id = ?"),
    instanceById: db.prepare<[number]>("SELECT 1 FROM instance WHERE id = ?"),
    instances: db.prepare<[], InstanceRow>("SELECT id, host, pid, started, beat FROM instance"),
    deleteInstance: db.prepare<[number]>("DELETE FROM instance WHERE id = ?"),

    insertConsumer: db.prepare<[number, number]>("INSERT INTO consumer (instance_id, queue_id) VALUES (?, ?)"),
    deleteConsumer: db.prepare<[number, number]>("DELETE FROM consumer WHERE id = ? AND instance_id = ?"),
    deleteConsumersOfQueue: db.prepare<[number]>("DELETE FROM consumer WHERE queue_id = ?"),
    consumersOf: db.prepare<[number], { id: number; queue_id: number }>(
      "SELECT id, queue_id FROM consumer WHERE instance_id = ?",
    ),
  };
}
