/** The embedded bus's file: opening it safely from many processes at once, and its tables. */

import { closeSync, mkdirSync, openSync } from "node:fs";
import { dirname } from "node:path";
import Database from "better-sqlite3";
import type { Clock } from "../clock.ts";
import { AppError } from "../errors.ts";

/** Raised with every change of the tables below; a file of another version is refused. */
const SCHEMA_VERSION = 2;
/** Large pages carry 256 KiB bodies faster; small transactions still touch only a handful. */
const PAGE_BYTES = 8192;
/** Pages in the log before it is copied back. A longer log copies a page once that was written often. */
const CHECKPOINT_PAGES = 2048;
const WAL_BYTES_KEPT = 64 * 1024 * 1024;

/**
 * Bodies have a table of their own, so that claiming or retrying a message rewrites a short row and not its megabyte.
 * `owner` is the instance that holds an unsettled delivery; a queue id is never used again, so whoever holds the id of
 * a deleted queue notices, even when the name lives again.
 */
const TABLES = `
  CREATE TABLE queue (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    expires_ms INTEGER,
    max_deliveries INTEGER,
    unused_since INTEGER
  );
  CREATE TABLE message (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    queue_id INTEGER NOT NULL,
    owner INTEGER,
    redeliveries INTEGER NOT NULL,
    available_at INTEGER NOT NULL,
    expires_at INTEGER,
    type TEXT NOT NULL,
    message_id TEXT NOT NULL,
    correlation_id TEXT,
    reply_to TEXT,
    headers TEXT NOT NULL
  );
  CREATE INDEX message_ready ON message (queue_id, id) WHERE owner IS NULL;
  CREATE INDEX message_unsettled ON message (owner, queue_id) WHERE owner IS NOT NULL;
  CREATE INDEX message_expiring ON message (expires_at) WHERE expires_at IS NOT NULL;
  CREATE TABLE body (id INTEGER PRIMARY KEY, bytes BLOB NOT NULL);
  CREATE TABLE dead_letter (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    queue TEXT NOT NULL,
    reason TEXT NOT NULL,
    at INTEGER NOT NULL,
    size INTEGER NOT NULL,
    redeliveries INTEGER NOT NULL,
    expires_at INTEGER,
    type TEXT NOT NULL,
    message_id TEXT NOT NULL,
    correlation_id TEXT,
    reply_to TEXT,
    headers TEXT NOT NULL,
    bytes BLOB NOT NULL
  );
  CREATE TABLE instance (
    id INTEGER PRIMARY KEY,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    started TEXT NOT NULL,
    beat INTEGER NOT NULL
  );
  CREATE TABLE consumer (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    instance_id INTEGER NOT NULL,
    queue_id INTEGER NOT NULL
  );
  CREATE INDEX consumer_of_queue ON consumer (queue_id);
`;

/**
 * Opens or makes the file, readable by its owner only. Fails with `unavailable` when that is not possible within
 * `deadlineMs`. `maxFileBytes` bounds what this handle lets the file grow to.
 */
export async function openQueueFile(
  path: string,
  options: { readonly clock: Clock; readonly deadlineMs: number; readonly maxFileBytes: number | undefined },
): Promise<Database.Database> {
  const deadline = options.clock.now() + options.deadlineMs;
  for (;;) {
    try {
      return openOnce(path, options.maxFileBytes);
    } catch (cause) {
      if (cause instanceof AppError) throw cause;
      // Two processes that make the file at once refuse each other instead of waiting (SQLite avoids a deadlock so).
      if (!isBusy(cause) || options.clock.now() > deadline) {
        throw new AppError("unavailable", `The embedded bus "${path}" cannot be opened: ${String(cause)}`, { cause });
      }
      await options.clock.sleep(5);
    }
  }
}

/** Whether SQLite failed only because another process holds a lock. */
export function isBusy(thrown: unknown): boolean {
  return thrown instanceof Database.SqliteError && thrown.code.startsWith("SQLITE_BUSY");
}

function openOnce(path: string, maxFileBytes: number | undefined): Database.Database {
  makePrivateFile(path);
  const db = new Database(path, { timeout: 1000 });
  try {
    db.pragma(`page_size = ${PAGE_BYTES}`);
    db.pragma("auto_vacuum = INCREMENTAL");
    db.pragma("journal_mode = WAL");
    db.pragma("synchronous = NORMAL");
    db.pragma(`wal_autocheckpoint = ${CHECKPOINT_PAGES}`);
    db.pragma(`journal_size_limit = ${WAL_BYTES_KEPT}`);
    if (maxFileBytes !== undefined) db.pragma(`max_page_count = ${Math.max(1, Math.floor(maxFileBytes / PAGE_BYTES))}`);
    makeTables(db, path);
    // From here on a lock held by another process is waited for by a timer, not by blocking this one.
    db.pragma("busy_timeout = 0");
    return db;
  } catch (error) {
    db.close();
    throw error;
  }
}

/** Only a file that did not exist is opened and closed by hand: closing a descriptor of an open one drops its locks. */
function makePrivateFile(path: string): void {
  try {
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
    closeSync(openSync(path, "ax", 0o600));
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === "EEXIST") return;
    throw new AppError("unavailable", `The embedded bus "${path}" cannot be made: ${String(cause)}`, { cause });
  }
}

function makeTables(db: Database.Database, path: string): void {
  db.transaction(() => {
    const version = db.pragma("user_version", { simple: true });
    if (version === SCHEMA_VERSION) return;
    if (version !== 0) {
      throw new AppError(
        "configuration_invalid",
        `The embedded bus "${path}" has format ${String(version)}; this version reads ${SCHEMA_VERSION}. Choose another file.`,
      );
    }
    db.exec(TABLES);
    db.pragma(`user_version = ${SCHEMA_VERSION}`);
  }).immediate();
}
