/**
 * One SQLite file shared by many local processes: transactions with a deadline that never block the event loop for
 * long, and SQLite's failures as our own.
 */
import { mkdirSync } from "node:fs";
import { dirname } from "node:path";
import Database from "better-sqlite3";
import { type Clock } from "../clock.ts";
import { AppError } from "../errors.ts";

/**
 * How long SQLite itself may wait for a lock, in milliseconds. It waits synchronously, so this is as long as the event
 * loop may stand still; longer waits are repeated calls with a sleep between them.
 */
const BLOCKING_WAIT_MS = 10;

/** Longest sleep between two tries for the lock, in milliseconds. */
const LONGEST_RETRY_MS = 50;

/** Settings of a {@link SqliteFile}. */
export interface SqliteFileOptions {
  /** The file; it and its folder are made when missing. */
  readonly path: string;
  readonly clock: Clock;
  /** How long a call waits for other processes, in milliseconds, before it fails with `unavailable`. */
  readonly timeoutMs: number;
}

/** An open file. Each transaction runs synchronously, so nothing of this process comes between its statements. */
export class SqliteFile {
  readonly #options: SqliteFileOptions;
  readonly #database: Database.Database;
  #dataVersion: Database.Statement<[], number> | undefined;
  #wroteAtMs = -Infinity;

  constructor(options: SqliteFileOptions) {
    this.#options = options;
    try {
      mkdirSync(dirname(options.path), { recursive: true });
      this.#database = new Database(options.path, { timeout: BLOCKING_WAIT_MS });
    } catch (error) {
      throw this.#unusable(error);
    }
  }

  /** The driver's handle, to prepare statements on. */
  get database(): Database.Database {
    return this.#database;
  }

  get path(): string {
    return this.#options.path;
  }

  /** When this process wrote last, by `performance.now()`; -Infinity where it has not. */
  get wroteAtMs(): number {
    return this.#wroteAtMs;
  }

  get isOpen(): boolean {
    return this.#database.open;
  }

  /**
   * Sets the modes that sharing needs: WAL, so that readers and the writer do not wait for each other, and FULL
   * synchronisation, so that a confirmed write also survives a power cut.
   */
  async configure(): Promise<void> {
    await this.call(() => {
      const mode = this.#database.pragma("journal_mode = WAL", { simple: true });
      if (mode !== "wal")
        throw this.#unusable(`its file system has no WAL mode (SQLite stayed in mode ${String(mode)})`);
      this.#database.pragma("synchronous = FULL");
    });
  }

  /** Runs `work` in a read transaction: all its statements see one state of the file. */
  read<Result>(work: () => Result): Promise<Result> {
    return this.call(() => this.#database.transaction(work).deferred());
  }

  /** Runs `work` in a write transaction: durable when this resolves, or undone when `work` throws. */
  write<Result>(work: () => Result): Promise<Result> {
    return this.call(() => {
      const result = this.#database.transaction(work).immediate();
      this.#wroteAtMs = performance.now();
      return result;
    });
  }

  /**
   * Calls `work`, again while another process has the file locked, until the deadline. Fails with `unavailable` when it
   * passes, when the file is closed, damaged or cannot be written.
   */
  async call<Result>(work: () => Result): Promise<Result> {
    const { clock, timeoutMs } = this.#options;
    const giveUpAtMs = clock.now() + timeoutMs;
    for (let attempt = 1; ; attempt++) {
      this.#throwIfClosed();
      try {
        return work();
      } catch (error) {
        if (!isBusy(error) || clock.now() >= giveUpAtMs) throw this.#asAppError(error);
      }
      await clock.sleep(Math.min(attempt * 2, LONGEST_RETRY_MS) * (0.5 + Math.random()));
    }
  }

  /**
   * A number that differs from the last one when another connection has written meanwhile (SQLite's
   * `PRAGMA data_version`). Undefined when a lock keeps it from being read just now.
   */
  dataVersion(): number | undefined {
    return this.readNow(() => {
      this.#dataVersion ??= this.#database.prepare<[], number>("PRAGMA data_version").pluck();
      return this.#dataVersion.get();
    });
  }

  /** What `work`, one statement, reads; undefined when a lock keeps it from being read just now. */
  readNow<Result>(work: () => Result): Result | undefined {
    this.#throwIfClosed();
    try {
      return work();
    } catch (error) {
      if (isBusy(error)) return undefined;
      throw this.#asAppError(error);
    }
  }

  /** Closes the file. May be called more than once. */
  close(): void {
    this.#database.close();
  }

  #throwIfClosed(): void {
    if (this.isOpen) return;
    throw new AppError("unavailable", `The knowledge store ${this.#options.path} was closed.`, { retryable: false });
  }

  #asAppError(error: unknown): unknown {
    const { path, timeoutMs } = this.#options;
    if (isBusy(error)) {
      const message = `The knowledge store ${path} stayed locked by another process for ${timeoutMs} ms.`;
      return new AppError("unavailable", message, { cause: error });
    }
    return error instanceof Database.SqliteError ? this.#unusable(error) : error;
  }

  #unusable(cause: unknown): AppError {
    const reason = cause instanceof Error ? cause.message : String(cause);
    return new AppError("unavailable", `The knowledge store ${this.#options.path} cannot be used: ${reason}.`, {
      cause,
    });
  }
}

function isBusy(error: unknown): boolean {
  return error instanceof Database.SqliteError && error.code.startsWith("SQLITE_BUSY");
}
