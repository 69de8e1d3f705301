/**
 * When to look whether another process has written to a SQLite file that several processes share: soon after each write, and
 * hardly ever without one. Whether there is anything new is asked of SQLite itself (`PRAGMA data_version`); this says when.
 *
 * The sign is the system's notice (inotify(7), kqueue(2)) that the file's write-ahead log was written, https://sqlite.org/wal.html.
 * A commit is visible a moment after that, when the log's index has it; so one looks again at growing distances. Where there are no
 * notices (no watch is left to be had, or a file system gives none) one looks at a steady pace instead.
 */
import { watch, type FSWatcher } from "node:fs";

/** Milliseconds until the second look after a sign; then four times as long each time, up to the pace of rest. */
const SECOND_LOOK_MS = 2;
const GROWTH = 4;
/** The pace of rest where signs come. */
const REST_MS = 500;
/** Between two looks, however many signs come. */
const LEAST_MS = 1;

/** So many writes that were found without any notice of them show that there are none. */
const UNNOTICED = 3;

/** What a look came to. */
export interface Look {
  /** Somebody else has written since the last one. */
  readonly isNew: boolean;
  /** In how many milliseconds something is due by time alone, if anything is. */
  readonly dueMs?: number | undefined;
}

/** See the file comment. */
export interface WriteSignsOptions {
  /** The database; its log lies beside it. */
  readonly path: string;
  /** Must not throw. */
  readonly look: () => Look;
  /** The pace of rest where no signs come. */
  readonly paceMs: number;
}

/** Calls `look` from {@link WriteSigns.start} to {@link WriteSigns.stop}. */
export class WriteSigns {
  readonly #options: WriteSignsOptions;
  #watcher: FSWatcher | undefined;
  #timer: NodeJS.Timeout | undefined;
  #isRunning = false;
  #pauseMs = SECOND_LOOK_MS;
  #lookedAt = -Infinity;
  #dueAt = Infinity;
  #isNoticed = false;
  #unnoticed = 0;

  constructor(options: WriteSignsOptions) {
    this.#options = options;
  }

  /** Begins; without effect where it has begun. */
  start(): void {
    if (this.#isRunning) return;
    this.#isRunning = true;
    this.#unnoticed = 0;
    this.#watcher = this.#watch();
    this.lookNow();
  }

  /** Ends; it may begin again. */
  stop(): void {
    this.#isRunning = false;
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#dueAt = Infinity;
    this.#watcher?.close();
    this.#watcher = undefined;
  }

  /** Looks now, and then at growing distances: for whoever knows of a write. */
  lookNow(): void {
    this.#pauseMs = SECOND_LOOK_MS;
    this.#look();
  }

  readonly #onNotice = (): void => {
    this.#isNoticed = true;
    this.#unnoticed = 0;
    if (performance.now() - this.#lookedAt >= LEAST_MS) return this.lookNow();
    this.#pauseMs = SECOND_LOOK_MS;
    this.#lookWithin(LEAST_MS);
  };

  #lookWithin(ms: number): void {
    const dueAt = performance.now() + ms;
    // One that comes sooner is kept: what this one would see, that one and those after it see.
    if (!this.#isRunning || dueAt >= this.#dueAt) return;
    clearTimeout(this.#timer);
    this.#dueAt = dueAt;
    this.#timer = setTimeout(this.#look, ms);
  }

  readonly #look = (): void => {
    if (!this.#isRunning) return;
    this.#dueAt = Infinity;
    this.#lookedAt = performance.now();
    const isResting = this.#pauseMs >= REST_MS;
    const { isNew, dueMs = Infinity } = this.#options.look();
    if (isNew && isResting && !this.#isNoticed && ++this.#unnoticed >= UNNOTICED) this.#goWithoutNotices();
    this.#isNoticed = false;
    const restMs = this.#watcher === undefined ? this.#options.paceMs : REST_MS;
    const pauseMs = Math.min(this.#pauseMs, restMs);
    this.#pauseMs = Math.min(pauseMs * GROWTH, restMs);
    this.#lookWithin(Math.min(pauseMs, Math.max(LEAST_MS, dueMs)));
  };

  /** Undefined where the system has no watch left to give: it is then looked at the steady pace. */
  #watch(): FSWatcher | undefined {
    try {
      const watcher = watch(`${this.#options.path}-wal`, { persistent: false }, this.#onNotice);
      watcher.once("error", () => this.#goWithoutNotices());
      return watcher;
    } catch (error) {
      if (typeof (error as NodeJS.ErrnoException).code === "string") return undefined;
      throw error;
    }
  }

  #goWithoutNotices(): void {
    this.#watcher?.close();
    this.#watcher = undefined;
    this.#pauseMs = SECOND_LOOK_MS;
    this.#lookWithin(LEAST_MS);
  }
}
