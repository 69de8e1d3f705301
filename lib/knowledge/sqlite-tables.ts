/**
 * The tables of the embedded knowledge store, and the steps that its transactions consist of.
 *
 * Invariants, kept because every change goes through {@link StoreTables.put} and {@link StoreTables.delete}:
 * (R) each change raises the store's revision by exactly one;
 * (L) the change log holds every change with a revision in (`compacted`, `revision`], and no other.
 *
 * All methods are synchronous and expect to run inside a transaction of {@link SqliteFile}.
 */
import { type Database, type Statement } from "better-sqlite3";
import { AppError } from "../errors.ts";
import { type Listing, type StoreChange, type StoredDocument } from "./knowledge-store.ts";

/** Marks the file as ours (SQLite's application id): the letters "dyks". */
const APPLICATION_ID = 0x64796b73;
const SCHEMA_VERSION = 1;

/** Keys are TEXT in UTF-8 with binary collation: sorted by byte. Values are JSON. */
const SCHEMA = `
  CREATE TABLE counters (revision INTEGER NOT NULL, compacted INTEGER NOT NULL, log_bytes INTEGER NOT NULL);
  INSERT INTO counters VALUES (0, 0, 0);
  CREATE TABLE documents (
    key TEXT NOT NULL UNIQUE, value TEXT NOT NULL, revision INTEGER NOT NULL, lease_id TEXT REFERENCES leases (id)
  );
  CREATE INDEX documents_by_lease ON documents (lease_id) WHERE lease_id IS NOT NULL;
  CREATE TABLE changes (
    revision INTEGER PRIMARY KEY, key TEXT NOT NULL, value TEXT, existed INTEGER NOT NULL, bytes INTEGER NOT NULL
  );
  CREATE TABLE leases (id TEXT PRIMARY KEY, ttl_ms INTEGER NOT NULL, expires_at_ms INTEGER NOT NULL);
  CREATE INDEX leases_by_expiry ON leases (expires_at_ms);
  PRAGMA application_id = ${APPLICATION_ID};
  PRAGMA user_version = ${SCHEMA_VERSION};
`;

/** How much of the past is kept for watches that resume. */
export interface LogLimits {
  readonly changes: number;
  readonly bytes: number;
}

/** Where the store stands: its revision, and the one up to which (inclusive) the change log has been dropped. */
export interface Counters {
  readonly revision: number;
  readonly compacted: number;
}

interface DocumentRow {
  readonly key: string;
  readonly value: string;
  readonly revision: number;
}

interface ChangeRow {
  readonly key: string;
  readonly value: string | null;
  readonly revision: number;
}

/** The range of keys that start with a prefix: from it (inclusive) to `end` (exclusive); no end: all that follow. */
export interface KeyRange {
  readonly start: string;
  /** Bytes, since they need not be UTF-8. */
  readonly end: Buffer | null;
}

/** The keys that start with `prefix`. */
export function keyRange(prefix: string): KeyRange {
  if (prefix === "") return { start: "", end: null };
  const end = Buffer.from(prefix, "utf8");
  // No byte of UTF-8 is 0xFF, so the last one can always be raised.
  end.writeUInt8(end.readUInt8(end.length - 1) + 1, end.length - 1);
  return { start: prefix, end };
}

/** Makes the tables in an empty file. Fails with `configuration_invalid` when the file belongs to something else. */
export function prepareTables(database: Database, path: string): void {
  const applicationId = database.pragma("application_id", { simple: true });
  const version = database.pragma("user_version", { simple: true });
  if (applicationId === APPLICATION_ID && version === SCHEMA_VERSION) return;
  if (applicationId === APPLICATION_ID) {
    const message = `${path} is a knowledge store of version ${String(version)}; this program reads version ${SCHEMA_VERSION}.`;
    throw new AppError("configuration_invalid", message);
  }
  const { tables } = database.prepare("SELECT count(*) AS tables FROM sqlite_schema").get() as { tables: number };
  if (tables > 0) {
    const message = `${path} is a SQLite file of another program, not a knowledge store; name another file.`;
    throw new AppError("configuration_invalid", message);
  }
  database.exec(SCHEMA);
}

/** Prepared statements, and the steps made of them. */
export class StoreTables {
  readonly #limits: LogLimits;
  readonly #counters: Statement<[], Counters & { log_bytes: number }>;
  readonly #raiseRevision: Statement<[number], { revision: number }>;
  readonly #get: Statement<[string], DocumentRow>;
  readonly #list: Statement<[KeyRange], { readonly storeRevision: number } & (DocumentRow | { readonly key: null })>;
  readonly #upsert: Statement<[string, string, number, string | null]>;
  readonly #remove: Statement<[string]>;
  readonly #log: Statement<[number, string, string | null, number, number]>;
  readonly #changes: Statement<[KeyRange & { after: number; limit: number }], ChangeRow>;
  readonly #documentsBetween: Statement<[KeyRange & { after: number; upTo: number }], DocumentRow>;
  readonly #keysAt: Statement<[KeyRange & { at: number }], { key: string }>;
  readonly #byteCutoff: Statement<[number], { revision: number }>;
  readonly #dropLog: Statement<[number]>;
  readonly #setCompacted: Statement<[number]>;
  readonly #addLease: Statement<[string, number, number]>;
  readonly #lease: Statement<[string, number], { ttl_ms: number }>;
  readonly #renewLease: Statement<{ id: string; nowMs: number }>;
  readonly #dropLease: Statement<[string]>;
  readonly #leaseKeys: Statement<[string], { key: string }>;
  readonly #expiredLeases: Statement<[number], { id: string }>;
  readonly #nextExpiry: Statement<[], { atMs: number | null }>;

  constructor(database: Database, limits: LogLimits) {
    this.#limits = limits;
    const inRange = "key >= @start AND (@end IS NULL OR key < CAST(@end AS TEXT))";
    this.#counters = database.prepare("SELECT revision, compacted, log_bytes FROM counters");
    this.#raiseRevision = database.prepare(
      "UPDATE counters SET revision = revision + 1, log_bytes = log_bytes + ? RETURNING revision",
    );
    this.#get = database.prepare("SELECT key, value, revision FROM documents WHERE key = ?");
    // With the counters' row even where there is no document.
    this.#list = database.prepare(
      `SELECT counters.revision AS storeRevision, key, value, documents.revision AS revision
       FROM counters LEFT JOIN documents ON ${inRange} ORDER BY key`,
    );
    this.#upsert = database.prepare(
      `INSERT INTO documents (key, value, revision, lease_id) VALUES (?, ?, ?, ?) ON CONFLICT (key)
       DO UPDATE SET value = excluded.value, revision = excluded.revision, lease_id = excluded.lease_id`,
    );
    this.#remove = database.prepare("DELETE FROM documents WHERE key = ?");
    this.#log = database.prepare("INSERT INTO changes (revision, key, value, existed, bytes) VALUES (?, ?, ?, ?, ?)");
    this.#changes = database.prepare(
      `SELECT revision, key, value FROM changes WHERE revision > @after AND ${inRange} ORDER BY revision LIMIT @limit`,
    );
    this.#documentsBetween = database.prepare(
      `SELECT key, value, revision FROM documents
       WHERE revision > @after AND revision <= @upTo AND ${inRange} ORDER BY revision`,
    );
    // Present now and unchanged since; or changed since, and there before the first of those changes. (With min(),
    // SQLite takes the other columns from the row that has the minimum.)
    this.#keysAt = database.prepare(
      `SELECT key FROM documents WHERE revision <= @at AND ${inRange}
       UNION ALL
       SELECT key FROM (
         SELECT key, existed, min(revision) FROM changes WHERE revision > @at AND ${inRange} GROUP BY key
       ) WHERE existed`,
    );
    this.#byteCutoff = database.prepare(
      `SELECT revision FROM (SELECT revision, sum(bytes) OVER (ORDER BY revision DESC) AS total FROM changes)
       WHERE total > ? ORDER BY revision DESC LIMIT 1`,
    );
    this.#dropLog = database.prepare("DELETE FROM changes WHERE revision <= ?");
    this.#setCompacted = database.prepare(
      "UPDATE counters SET compacted = ?, log_bytes = (SELECT coalesce(sum(bytes), 0) FROM changes)",
    );
    this.#addLease = database.prepare("INSERT INTO leases (id, ttl_ms, expires_at_ms) VALUES (?, ?, ?)");
    this.#lease = database.prepare("SELECT ttl_ms FROM leases WHERE id = ? AND expires_at_ms > ?");
    this.#renewLease = database.prepare(
      "UPDATE leases SET expires_at_ms = @nowMs + ttl_ms WHERE id = @id AND expires_at_ms > @nowMs",
    );
    this.#dropLease = database.prepare("DELETE FROM leases WHERE id = ?");
    this.#leaseKeys = database.prepare("SELECT key FROM documents WHERE lease_id = ? ORDER BY key");
    this.#expiredLeases = database.prepare("SELECT id FROM leases WHERE expires_at_ms <= ?");
    this.#nextExpiry = database.prepare("SELECT min(expires_at_ms) AS atMs FROM leases");
  }

  counters(): Counters {
    return this.#readCounters();
  }

  /** The document of a key, by one statement. */
  get(key: string): StoredDocument | undefined {
    const row = this.#get.get(key);
    return row && toDocument(row);
  }

  /** The documents in a range, by key, and the store's revision: by one statement, which sees one state of the file by itself. */
  list(range: KeyRange): Listing {
    const rows = this.#list.all(range);
    const [first] = rows;
    if (first === undefined) throw countersMissing();
    return { documents: rows.filter((row) => row.key !== null).map(toDocument), revision: first.storeRevision };
  }

  /** Revision of the key's last write; 0 when there is no such key. */
  revisionOf(key: string): number {
    return this.#get.get(key)?.revision ?? 0;
  }

  /** Writes a document (`json` is its value), logs the change, and gives its revision. */
  put(key: string, json: string, leaseId: string | null): number {
    const existed = this.revisionOf(key) > 0;
    const revision = this.#record(key, json, existed);
    this.#upsert.run(key, json, revision, leaseId);
    return revision;
  }

  /** Deletes a key that exists, and logs the change. */
  delete(key: string): void {
    this.#record(key, null, true);
    this.#remove.run(key);
  }

  /** The logged changes with revisions above `after`, in order, at most `limit`. */
  changes(range: KeyRange, after: number, limit: number): StoreChange[] {
    return this.#changes.all({ ...range, after, limit }).map(toChange);
  }

  /** The documents whose last write has a revision in (`after`, `upTo`], by revision. */
  documentsBetween(range: KeyRange, after: number, upTo: number): StoredDocument[] {
    return this.#documentsBetween.all({ ...range, after, upTo }).map(toDocument);
  }

  /** The keys that existed at revision `at`, which must not lie before the compacted one. */
  keysAt(range: KeyRange, at: number): Set<string> {
    return new Set(this.#keysAt.all({ ...range, at }).map(({ key }) => key));
  }

  addLease(id: string, ttlMs: number, nowMs: number): void {
    this.#addLease.run(id, ttlMs, nowMs + ttlMs);
  }

  /** Time to live of a lease in milliseconds; undefined when it has ended. */
  leaseTtlMs(id: string, nowMs: number): number | undefined {
    return this.#lease.get(id, nowMs)?.ttl_ms;
  }

  /** Starts the lease's time anew, unless it has ended; gives whether it could. */
  renewLease(id: string, nowMs: number): boolean {
    return this.#renewLease.run({ id, nowMs }).changes > 0;
  }

  /** Ends a lease: its keys are deleted, each a change of its own. */
  endLease(id: string): void {
    for (const { key } of this.#leaseKeys.all(id)) this.delete(key);
    this.#dropLease.run(id);
  }

  /** When the first lease runs out, by the clock of those who renew; Infinity where there is none. */
  nextExpiryMs(): number {
    return this.#nextExpiry.get()?.atMs ?? Infinity;
  }

  /** Ids of the leases whose time has run out. */
  expiredLeases(nowMs: number): string[] {
    return this.#expiredLeases.all(nowMs).map(({ id }) => id);
  }

  /** Raises the revision, logs the change under it, and drops what the log need not keep. */
  #record(key: string, json: string | null, existed: boolean): number {
    const bytes = Buffer.byteLength(key) + (json === null ? 0 : Buffer.byteLength(json));
    const raised = this.#raiseRevision.get(bytes);
    if (!raised) throw countersMissing();
    this.#log.run(raised.revision, key, json, existed ? 1 : 0, bytes);
    this.#compact();
    return raised.revision;
  }

  /** Drops a tenth more than it must (half, by bytes), so that it has nothing to do for the next many writes. */
  #compact(): void {
    const { revision, compacted, log_bytes: bytes } = this.#readCounters();
    const { changes: maxChanges, bytes: maxBytes } = this.#limits;
    if (revision - compacted <= maxChanges * 1.1 && bytes <= maxBytes) return;
    const cutoff = Math.max(revision - maxChanges, this.#byteCutoff.get(maxBytes / 2)?.revision ?? 0);
    this.#dropLog.run(cutoff);
    this.#setCompacted.run(cutoff);
  }

  #readCounters(): Counters & { readonly log_bytes: number } {
    const counters = this.#counters.get();
    if (!counters) throw countersMissing();
    return counters;
  }
}

function countersMissing(): AppError {
  return new AppError("unavailable", "The knowledge store's file is damaged: its counters are missing.");
}

function toDocument(row: DocumentRow): StoredDocument {
  return { key: row.key, value: parse(row.value), revision: row.revision };
}

function toChange(row: ChangeRow): StoreChange {
  if (row.value === null) return { type: "delete", key: row.key, revision: row.revision };
  return { type: "put", document: { key: row.key, value: parse(row.value), revision: row.revision } };
}

function parse(json: string): unknown {
  try {
    return JSON.parse(json) as unknown;
  } catch (error) {
    throw new AppError("unavailable", "The knowledge store's file is damaged: a value is not JSON.", { cause: error });
  }
}
