/**
 * The message bus on one SQLite file, shared by the processes of one machine (docs/decisions/0004). Its parts:
 *
 * - `embedded-schema.ts` opens the file and has the tables; `embedded-tables.ts` has each step on them;
 * - `embedded-transactions.ts` gathers steps into transactions;
 * - `embedded-consumer.ts` runs handlers;
 * - `embedded-recovery.ts` finds open buses that died; `embedded-process.ts` asks the system about a process.
 *
 * State owned here: the open file, this bus's consumers, and its row among the instances, under which its unsettled
 * deliveries are kept. Other processes' messages are noticed by `PRAGMA data_version`, looked at after signs of a write
 * (`../write-signs.ts`).
 */

import type Database from "better-sqlite3";
import { systemClock, type Clock } from "../clock.ts";
import { AppError } from "../errors.ts";
import { EmbeddedConsumer, type ConsumerHost } from "./embedded-consumer.ts";
import { ownProcess, type ProcessIdentity } from "./embedded-process.ts";
import { DeadInstances } from "./embedded-recovery.ts";
import { isBusy, openQueueFile } from "./embedded-schema.ts";
import { QueueTables, type Claimed } from "./embedded-tables.ts";
import { TransactionQueue, unavailable } from "./embedded-transactions.ts";
import { WriteSigns, type Look } from "../write-signs.ts";
import { retryDelayMs } from "./retry-delay.ts";
import { MAX_DEAD_LETTER_BYTES, MAX_DEAD_LETTERS } from "./dead-letters.ts";
import { checkOutgoing, prefetchOf, queueProperties } from "./message-checks.ts";
import type {
  ConsumeOptions,
  Consumer,
  DeadLetter,
  DeliveryHandler,
  MessageBus,
  OutgoingMessage,
  QueueOptions,
  QueueStatus,
  Settlement,
} from "./message-bus.ts";

/** How the embedded bus is opened. */
export interface EmbeddedBusOptions {
  /** The SQLite file; made with its folder if missing. It must lie on a local disk. */
  readonly path: string;
  readonly clock?: Clock;
  /** How long a call waits for the file's lock, in milliseconds. Default 10,000. */
  readonly deadlineMs?: number;
  /** What this handle lets the file grow to; publishing beyond it is `unavailable`, as with a full disk. Default: no bound. */
  readonly maxFileBytes?: number;
}

const DEFAULT_DEADLINE_MS = 10_000;
/** A settlement that cannot be stored for so long ends the bus; the delivery is then somebody else's. */
const GIVE_UP_AFTER_MS = 30_000;
const SWEEP_MS = 1000;
/** Heartbeats are writes, which every other process then looks at: this many sweeps from one to the next. */
const SWEEPS_PER_BEAT = 3;
/** What grows slowly is looked at this seldom, in sweeps. */
const SWEEPS_PER_TIDYING = 10;
/** Between two looks for other processes' messages where the system gives no sign of them. */
const PACE_MS = 20;
/** And between two looks of a bus that has neither sent nor received for a while, where it gives many. */
const CALM_MS = 15;
/** Free space inside the file is used again; only what a burst left beyond this is given back. */
const FREE_BYTES_KEPT = 64 * 1024 * 1024;
const PAGES_PER_SHRINK = 1024;

/** Opens the embedded bus; `unavailable` when the file cannot be opened, `configuration_invalid` when it is of another format. */
export async function openEmbeddedBus(options: EmbeddedBusOptions): Promise<MessageBus> {
  const { path, clock = systemClock, deadlineMs = DEFAULT_DEADLINE_MS, maxFileBytes } = options;
  const db = await openQueueFile(path, { clock, deadlineMs, maxFileBytes });
  return new EmbeddedBus(db, path, clock, deadlineMs);
}

class EmbeddedBus implements MessageBus, ConsumerHost {
  readonly #db: Database.Database;
  readonly #clock: Clock;
  readonly #deadlineMs: number;
  readonly #tables: QueueTables;
  readonly #transactions: TransactionQueue;
  readonly #self: ProcessIdentity = ownProcess();
  readonly #deadInstances = new DeadInstances(this.#self);
  readonly #consumers = new Set<EmbeddedConsumer>();
  readonly #sweepTimer: NodeJS.Timeout;
  readonly #signs: WriteSigns;
  #instance: number | undefined;
  #sweeps = 0;
  #seenVersion = -1;
  /** Something happened here since the last look: a look finds no sign of this process's own writes. */
  #isTouched = false;
  /** When the next retry is due, by this bus's clock. */
  #dueAt = Infinity;
  #isChecking = false;
  #isClaiming = false;
  #isClaimWanted = false;
  #isSweeping = false;
  #troubledSince: number | undefined;
  /** Why calls fail from now on. */
  #ended: AppError | undefined;
  #closing: Promise<void> | undefined;

  constructor(db: Database.Database, path: string, clock: Clock, deadlineMs: number) {
    this.#db = db;
    this.#clock = clock;
    this.#deadlineMs = deadlineMs;
    this.#tables = new QueueTables(db);
    this.#transactions = new TransactionQueue(db, clock, deadlineMs);
    this.#signs = new WriteSigns({
      path,
      look: () => this.#look(),
      wroteAtMs: () => this.#transactions.committedAtMs,
      paceMs: PACE_MS,
      calmMs: CALM_MS,
    });
    this.#sweepTimer = setInterval(() => this.#sweep(), SWEEP_MS).unref();
    // What a crash left behind is in order before the first call.
    this.#sweep();
  }

  async declareQueue(queue: string, options: QueueOptions): Promise<void> {
    const properties = queueProperties(queue, options);
    await this.#write(() => this.#tables.declare(queue, properties, this.#clock.now()));
  }

  async deleteQueue(queue: string): Promise<void> {
    await this.#write(() => {
      const id = this.#tables.findQueue(queue);
      if (id !== undefined) this.#tables.deleteQueue(id);
    });
    this.#wake();
  }

  async publish(queue: string, message: OutgoingMessage): Promise<void> {
    checkOutgoing(queue, message);
    await this.#write(() => this.#tables.publish(queue, message), message.body.byteLength);
    this.#wake();
  }

  async consume(queue: string, handler: DeliveryHandler, options: ConsumeOptions = {}): Promise<Consumer> {
    const prefetch = prefetchOf(options);
    // Everything else still works while closing: handlers that are under way publish what they came to.
    if (this.#closing !== undefined) throw new AppError("unavailable", "This message bus is being closed.");
    const place = await this.#write(() => {
      const queueId = this.#tables.queueId(queue);
      return { queue, queueId, rowId: this.#tables.addConsumer(this.#registered(), queueId) };
    });
    const consumer = new EmbeddedConsumer(this, place, handler, options, prefetch);
    this.#consumers.add(consumer);
    this.#wake();
    return consumer;
  }

  async queueStatus(queue: string): Promise<QueueStatus | undefined> {
    return this.#read(() => this.#tables.status(queue, this.#clock.now()));
  }

  async deadLetters(limit: number): Promise<readonly DeadLetter[]> {
    return this.#read(() => this.#tables.deadLetters(limit));
  }

  async replayDeadLetter(id: string): Promise<void> {
    await this.#write(() => this.#tables.replayDeadLetter(id, this.#clock.now()));
    this.#wake();
  }

  async ping(): Promise<void> {
    await this.#read(() => this.#tables.ping());
  }

  close(): Promise<void> {
    this.#closing ??= this.#shutDown();
    return this.#closing;
  }

  async settle(claimed: Claimed, settlement: Settlement, isTaking: boolean): Promise<void> {
    const retryMs = isTaking ? retryDelayMs(claimed.delivery.redeliveryCount) : 0;
    const now = this.#clock.now();
    const stored = this.#transactions.run(
      () => this.#tables.settle(claimed.id, claimed.owner, settlement, now, retryMs),
      { retryForMs: GIVE_UP_AFTER_MS },
    );
    this.#isTouched = true;
    // Asked for now, the next claim shares the settlement's transaction.
    this.#claim();
    await stored.catch((error: unknown) => this.#fail(error));
  }

  async giveBack(claimed: Claimed): Promise<void> {
    const run = (): void => this.#tables.giveBack(claimed.id, claimed.owner);
    await this.#transactions.run(run, { retryForMs: GIVE_UP_AFTER_MS }).catch((error: unknown) => this.#fail(error));
  }

  async unregister(consumer: EmbeddedConsumer): Promise<void> {
    this.#consumers.delete(consumer);
    if (this.#ended !== undefined) return;
    const { rowId: id, queueId } = consumer;
    await this.#transactions.run(() => {
      // Without an instance, or with another since, the row is gone already.
      if (this.#instance === undefined) return;
      this.#tables.removeConsumer({ id, instance: this.#instance, queueId }, this.#clock.now());
    });
  }

  /** Lets the consumers look for messages soon: something was published here, or a slot became free. */
  #wake(): void {
    if (this.#consumers.size === 0 || this.#isChecking) return;
    this.#isChecking = true;
    setImmediate(() => {
      this.#isChecking = false;
      if (this.#ended !== undefined || this.#consumers.size === 0) return;
      this.#isTouched = true;
      this.#signs.start();
      this.#signs.lookNow();
    });
  }

  /** Without a sign of change only what is due by time alone: a retry. */
  #look(): Look {
    if (this.#consumers.size === 0) {
      this.#signs.stop();
      return { isNew: false };
    }
    try {
      const version = this.#tables.dataVersion();
      const isNew = version !== this.#seenVersion;
      if (isNew || this.#isTouched || this.#clock.now() >= this.#dueAt) this.#check();
      this.#seenVersion = version;
      return { isNew, dueMs: this.#dueAt - this.#clock.now() };
    } catch (error) {
      this.#troubled(error);
      return { isNew: false };
    }
  }

  /** Reading is cheap and takes no lock; a claim is asked for only when it will find something. */
  #check(): void {
    const now = this.#clock.now();
    let isAnythingWaiting = false;
    this.#isTouched = false;
    this.#dueAt = Infinity;
    for (const consumer of this.#consumers) {
      if (!this.#tables.hasQueue(consumer.queueId)) this.#lose(consumer);
      else if (consumer.room <= 0) continue;
      else if (this.#tables.isWaiting(consumer.queueId, now)) isAnythingWaiting = true;
      else this.#dueAt = Math.min(this.#dueAt, this.#tables.availableAt(consumer.queueId) ?? Infinity);
    }
    if (isAnythingWaiting) this.#claim();
  }

  #lose(consumer: EmbeddedConsumer): void {
    this.#consumers.delete(consumer);
    consumer.lose(
      new AppError("not_found", `The queue "${consumer.queue}" is gone: it was deleted, or expired unused.`),
    );
  }

  #claim(): void {
    // One that is under way may have read before what is to be claimed now was there.
    this.#isClaimWanted = this.#isClaiming;
    if (this.#isClaiming || this.#ended !== undefined) return;
    this.#isClaiming = true;
    this.#transactions
      .run(() => this.#claimAll())
      .then(
        (deliveries) => {
          this.#isClaiming = false;
          this.#troubledSince = undefined;
          this.#isTouched = true;
          if (deliveries.length > 0) this.#signs.takePart();
          for (const { consumer, claimed } of deliveries) consumer.start(claimed);
          if (this.#isClaimWanted) this.#claim();
        },
        (error: unknown) => {
          this.#isClaiming = false;
          this.#isTouched = true;
          this.#troubled(error);
        },
      );
  }

  #claimAll(): { readonly consumer: EmbeddedConsumer; readonly claimed: Claimed }[] {
    const now = this.#clock.now();
    const owner = this.#registered();
    return [...this.#consumers].flatMap((consumer) =>
      this.#tables.claim(consumer.queueId, owner, consumer.room, now).map((claimed) => ({ consumer, claimed })),
    );
  }

  /** This bus's instance, registered anew if the others took it for dead: what it then held is theirs. */
  #registered(): number {
    if (this.#instance !== undefined && this.#tables.hasInstance(this.#instance)) return this.#instance;
    const instance = this.#tables.addInstance(this.#self);
    for (const consumer of this.#consumers) {
      if (this.#tables.hasQueue(consumer.queueId))
        consumer.rowId = this.#tables.addConsumer(instance, consumer.queueId);
    }
    this.#instance = instance;
    return instance;
  }

  /** Every bus keeps the file in order: dead instances, expired messages and queues, bounds, free space. */
  #sweep(): void {
    if (this.#isSweeping || this.#ended !== undefined) return;
    try {
      const now = this.#clock.now();
      const dead = this.#deadInstances.among(this.#tables.instances(), this.#instance);
      const tasks: (() => void)[] = dead.map((id) => () => this.#tables.removeInstance(id, now));
      if (this.#instance !== undefined && this.#sweeps % SWEEPS_PER_BEAT === 0) {
        tasks.push(() => this.#tables.beat(this.#registered()));
      }
      if (this.#tables.isAnythingExpired(now)) tasks.push(() => this.#tables.expire(now));
      if (this.#sweeps % SWEEPS_PER_TIDYING === 0) tasks.push(...this.#tidying());
      this.#sweeps += 1;
      if (tasks.length > 0) this.#runSweep(tasks, dead.length > 0);
      else if (this.#instance === undefined) this.#troubledSince = undefined;
    } catch (error) {
      this.#troubled(error);
    }
  }

  #tidying(): readonly (() => void)[] {
    const tasks: (() => void)[] = [];
    if (this.#tables.areDeadLettersOver(MAX_DEAD_LETTERS, MAX_DEAD_LETTER_BYTES)) {
      tasks.push(() => this.#tables.trimDeadLetters(MAX_DEAD_LETTERS, MAX_DEAD_LETTER_BYTES));
    }
    if (this.#tables.freeBytes() > FREE_BYTES_KEPT) tasks.push(() => this.#tables.shrink(PAGES_PER_SHRINK));
    return tasks;
  }

  #runSweep(tasks: readonly (() => void)[], wake: boolean): void {
    this.#isSweeping = true;
    this.#transactions
      .run(() => tasks.forEach((task) => task()))
      .then(
        () => {
          this.#troubledSince = undefined;
          if (wake) this.#wake();
        },
        (error: unknown) => this.#troubled(error),
      )
      .finally(() => {
        this.#isSweeping = false;
      });
  }

  /** Background work failed: it comes again by itself, but not for ever. */
  #troubled(error: unknown): void {
    const now = this.#clock.now();
    this.#troubledSince ??= now;
    if (now - this.#troubledSince >= GIVE_UP_AFTER_MS) this.#fail(error);
  }

  /** Ends the bus: its consumers hear of it, and without a heartbeat its deliveries become free. */
  #fail(cause: unknown): void {
    if (this.#ended !== undefined) return;
    const error = unavailable(cause);
    this.#ended = error;
    this.#stopTimers();
    this.#transactions.failAll(error);
    for (const consumer of this.#consumers) consumer.lose(error);
    this.#consumers.clear();
  }

  async #shutDown(): Promise<void> {
    try {
      // Calls made before are still served; the consumers' own settlements as well.
      await Promise.all([...this.#consumers].map((consumer) => consumer.close()));
      if (this.#ended === undefined) await this.#transactions.run(() => this.#leave());
    } finally {
      this.#ended = new AppError("unavailable", "This message bus was closed.");
      this.#stopTimers();
      this.#transactions.failAll(this.#ended);
      this.#db.close();
    }
  }

  #leave(): void {
    if (this.#instance !== undefined) this.#tables.removeInstance(this.#instance, this.#clock.now());
  }

  #stopTimers(): void {
    this.#signs.stop();
    clearInterval(this.#sweepTimer);
  }

  async #write<T>(run: () => T, bytes = 0): Promise<T> {
    this.#assertOpen();
    return this.#transactions.run(run, { bytes });
  }

  async #read<T>(run: () => T): Promise<T> {
    const deadline = this.#clock.now() + this.#deadlineMs;
    for (;;) {
      this.#assertOpen();
      try {
        return run();
      } catch (error) {
        if (!isBusy(error) || this.#clock.now() >= deadline) throw unavailable(error);
        await this.#clock.sleep(2);
      }
    }
  }

  #assertOpen(): void {
    if (this.#ended !== undefined) throw this.#ended;
  }
}
