/** Group commit for the embedded bus: work asked for at the same time shares one transaction. */

import type Database from "better-sqlite3";
import type { Clock } from "../clock.ts";
import { AppError } from "../errors.ts";
import { isBusy } from "./embedded-schema.ts";

/** How one piece of work is treated. */
export interface WorkOptions {
  /** Bytes that it writes, to bound a transaction. */
  readonly bytes?: number;
  /** Tried again (and everything behind it waits) on any failure until this many milliseconds have passed. */
  readonly retryForMs?: number;
}

interface Work {
  readonly run: () => unknown;
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: unknown) => void;
  readonly bytes: number;
  readonly deadline: number;
  readonly persistent: boolean;
}

type Outcome = { readonly value: unknown } | { readonly error: AppError };

/** Long enough to be worth a commit, short enough that other processes wait only some milliseconds for the lock. */
const MAX_BATCH_BYTES = 2 * 1024 * 1024;
const MAX_BATCH_WORKS = 256;
/**
 * After a transaction the next one waits until so long after it for others' work: a commit costs as much as the work of several
 * messages, here and at everyone who looks what it was. Whoever has done nothing for a moment does not wait.
 */
const GATHER_MS = 2;
/** So much work, one piece or all that was gathered, is worth a transaction and waits for no more. */
const GATHER_BYTES = 64 * 1024;
const BUSY_RETRY_MS = 1;
const FAILURE_RETRY_MS = 100;

/**
 * Runs pieces of work in the order of the calls, many per write transaction. A piece may throw an {@link AppError}
 * before it writes anything: then it alone fails. When SQLite fails (disk full), nothing of the transaction happened,
 * and its pieces are tried one by one, so that one that cannot succeed takes no other with it.
 */
export class TransactionQueue {
  readonly #db: Database.Database;
  readonly #clock: Clock;
  readonly #deadlineMs: number;
  readonly #waiting: Work[] = [];
  #scheduled = false;
  /** The timer of the transaction that is scheduled, while that only waits for more work. */
  #gathering: NodeJS.Timeout | undefined;
  #gatheredBytes = 0;
  #singles = 0;
  #committedMs = -Infinity;

  constructor(db: Database.Database, clock: Clock, deadlineMs: number) {
    this.#db = db;
    this.#clock = clock;
    this.#deadlineMs = deadlineMs;
  }

  /** When it committed last, by `performance.now()`; -Infinity where it has not. */
  get committedAtMs(): number {
    return this.#committedMs;
  }

  /** Resolves with the work's value once it is committed; `unavailable` when that fails before the deadline. */
  run<T>(run: () => T, options: WorkOptions = {}): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      this.#waiting.push({
        run,
        resolve: resolve as (value: unknown) => void,
        reject,
        bytes: options.bytes ?? 0,
        deadline: this.#clock.now() + (options.retryForMs ?? this.#deadlineMs),
        persistent: options.retryForMs !== undefined,
      });
      this.#gather(options.bytes ?? 0);
    });
  }

  /** Fails everything that waits. */
  failAll(error: AppError): void {
    for (const work of this.#waiting.splice(0)) work.reject(error);
  }

  /** Schedules a transaction for a new piece of work: at once, if enough was gathered. What waits after a failure goes on waiting. */
  #gather(bytes: number): void {
    this.#gatheredBytes += bytes;
    const delayMs =
      this.#gatheredBytes >= GATHER_BYTES
        ? 0
        : Math.max(0, Math.ceil(this.#committedMs + GATHER_MS - performance.now()));
    if (delayMs === 0 && this.#gathering !== undefined) {
      clearTimeout(this.#gathering);
      this.#gathering = undefined;
      this.#scheduled = false;
    }
    const timer = this.#schedule(delayMs);
    if (timer !== undefined) this.#gathering = timer;
  }

  /** The timer that was set, if there is one. */
  #schedule(delayMs: number): NodeJS.Timeout | undefined {
    if (this.#scheduled || this.#waiting.length === 0) return undefined;
    this.#scheduled = true;
    const flush = (): void => {
      this.#scheduled = false;
      this.#gathering = undefined;
      this.#gatheredBytes = 0;
      this.#flush();
    };
    if (delayMs > 0) return setTimeout(flush, delayMs);
    setImmediate(flush);
    return undefined;
  }

  #flush(): void {
    const batch = this.#nextBatch();
    if (batch.length === 0) return;
    try {
      const outcomes = this.#commit(batch);
      this.#waiting.splice(0, batch.length);
      this.#singles = Math.max(0, this.#singles - batch.length);
      batch.forEach((work, index) => settle(work, outcomes[index] as Outcome));
      this.#schedule(0);
      this.#committedMs = performance.now();
    } catch (error) {
      this.#schedule(this.#afterFailure(batch, error));
    }
  }

  #nextBatch(): Work[] {
    if (this.#singles > 0) return this.#waiting.slice(0, 1);
    let bytes = 0;
    let count = 0;
    for (const work of this.#waiting) {
      bytes += work.bytes;
      if (count > 0 && (bytes > MAX_BATCH_BYTES || count >= MAX_BATCH_WORKS)) break;
      count += 1;
    }
    return this.#waiting.slice(0, count);
  }

  #commit(batch: readonly Work[]): Outcome[] {
    this.#db.exec("BEGIN IMMEDIATE");
    try {
      const outcomes = batch.map(runOne);
      this.#db.exec("COMMIT");
      return outcomes;
    } catch (error) {
      // SQLite has already rolled back by itself after some errors, a full disk among them.
      if (this.#db.inTransaction) this.#db.exec("ROLLBACK");
      throw error;
    }
  }

  /** Decides what becomes of a batch that was rolled back; returns when to go on. */
  #afterFailure(batch: readonly Work[], error: unknown): number {
    if (isBusy(error)) {
      this.#rejectOverdue(error);
      return BUSY_RETRY_MS;
    }
    if (batch.length > 1) {
      this.#singles = batch.length;
      return 0;
    }
    const work = batch[0] as Work;
    if (work.persistent && this.#clock.now() < work.deadline) {
      this.#rejectWaiting((other) => !other.persistent, error);
      return FAILURE_RETRY_MS;
    }
    this.#rejectWaiting((other) => other === work, error);
    return 0;
  }

  #rejectOverdue(cause: unknown): void {
    const now = this.#clock.now();
    this.#rejectWaiting((work) => work.deadline <= now, cause);
  }

  #rejectWaiting(which: (work: Work) => boolean, cause: unknown): void {
    const rejected = this.#waiting.filter(which);
    if (rejected.length === 0) return;
    const kept = this.#waiting.filter((work) => !which(work));
    this.#waiting.splice(0, this.#waiting.length, ...kept);
    this.#singles = Math.max(0, this.#singles - rejected.length);
    const error = unavailable(cause);
    for (const work of rejected) work.reject(error);
  }
}

/** A failure of SQLite as `unavailable`, with what to do about it. */
export function unavailable(cause: unknown): AppError {
  if (cause instanceof AppError) return cause;
  const code = (cause as { code?: unknown } | undefined)?.code;
  const hint =
    code === "SQLITE_FULL"
      ? " Its disk is full, or its file as large as maxBytes in the bus URL allows: make room, or raise that."
      : "";
  return new AppError("unavailable", `The embedded bus failed: ${String(cause)}.${hint}`, { cause });
}

function runOne(work: Work): Outcome {
  try {
    return { value: work.run() };
  } catch (error) {
    if (error instanceof AppError) return { error };
    throw error;
  }
}

function settle(work: Work, outcome: Outcome): void {
  if ("error" in outcome) work.reject(outcome.error);
  else work.resolve(outcome.value);
}
