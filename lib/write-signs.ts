/**
 * When to look whether another process has written to a SQLite file that several processes share: soon after each write, and
 * hardly ever without one. Whether there is anything new is asked of SQLite itself (`PRAGMA data_version`); this says when.
 *
 * The sign is the system's notice (inotify(7), kqueue(2)) that the file's write-ahead log was written, https://sqlite.org/wal.html.
 * A commit is visible a moment after that, when the log's index has it; so one looks again at growing distances. Where there are no
 * notices (no watch is left to be had, or a file system gives none) one looks at a steady pace instead.
 *
 * Every write is a notice to every process, several each. Who takes no part in what is going on hears some, and then looks from time to
 * time without hearing any, until nothing new has been found for a moment.
 */
import { watch, type FSWatcher } from "node:fs";

/**
 * From one look to the next: so many times as long; once the write was found and notices are heard (again), it is only to be sure that
 * there was no other, whose notice came unheard.
 */
const GROWTH = 1.5;
const GROWTH_ONCE_FOUND = 4;
/** The pace of rest where signs come. */
const REST_MS = 500;
/** Between two looks of who takes part in what is going on, however many signs come. */
const LEAST_MS = 1;
/** Who did something takes part for so long. */
const TAKING_PART_MS = 100;

/** Who takes no part hears so many notices, those of a write or two. */
const NOTICES_HEARD = 4;
/** Who takes no part hears notices again when nothing new was found for about so long. */
const HEAR_AGAIN_MS = 30;

/** A notice that comes so soon after a write of this process, or one that was found, is of that one: hardly a look will find more. */
const SAME_WRITE_MS = 20;

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
  /** When this process wrote last, by `performance.now()`; -Infinity where it has not. */
  readonly wroteAtMs: () => number;
  /** The pace of rest where no signs come. */
  readonly paceMs: number;
  /**
   * Between two looks, however many signs come, of who takes no part in what is going on: every write is a sign to every process, and
   * on a busy machine they would take the processor from those whom it is for.
   */
  readonly calmMs: number;
}

/** Calls `look` from {@link WriteSigns.start} to {@link WriteSigns.stop}. */
export class WriteSigns {
  readonly #options: WriteSignsOptions;
  #watcher: FSWatcher | undefined;
  #timer: NodeJS.Timeout | undefined;
  #isRunning = false;
  #pauseMs = LEAST_MS;
  #growth = GROWTH;
  #takesPartUntil = -Infinity;
  #lookedAt = -Infinity;
  #dueAt = Infinity;
  #isNoticed = false;
  #unnoticed = 0;
  /** Without a watch by its own will. */
  #isDeaf = false;
  #foundAt = -Infinity;
  /** Notices since it was last calm. */
  #heard = 0;
  /** What is looked for was found, or is this process's own. */
  #hasFound = false;

  constructor(options: WriteSignsOptions) {
    this.#options = options;
  }

  /** Begins; without effect where it has begun. */
  start(): void {
    if (this.#isRunning) return;
    this.#isRunning = true;
    this.#unnoticed = 0;
    this.#watcher = this.#watch();
    this.#restartPauses();
    this.#look();
  }

  /** Ends; it may begin again. */
  stop(): void {
    this.#isRunning = false;
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#dueAt = Infinity;
    this.#isDeaf = false;
    this.#stopWatching();
  }

  /** Looks now, and then at growing distances: for whoever has written, and waits for what comes of it. */
  lookNow(): void {
    this.takePart();
    this.#restartPauses();
    this.#look();
  }

  /** What is going on is for this process: it looks at short distances for a while. */
  takePart(): void {
    this.#takesPartUntil = performance.now() + TAKING_PART_MS;
    if (this.#isRunning) this.#hearAgain();
  }

  readonly #onNotice = (): void => {
    this.#isNoticed = true;
    this.#unnoticed = 0;
    this.#restartPauses();
    if (this.#takesPart) this.#heard = 0;
    else {
      this.#hasFound = performance.now() - Math.max(this.#options.wroteAtMs(), this.#foundAt) < SAME_WRITE_MS;
      this.#heard += 1;
      if (this.#heard >= NOTICES_HEARD) {
        this.#isDeaf = true;
        this.#stopWatching();
      }
    }
    const leftMs = this.#pauseMs - (performance.now() - this.#lookedAt);
    if (leftMs <= 0) this.#look();
    else this.#lookWithin(leftMs);
  };

  get #takesPart(): boolean {
    return performance.now() < this.#takesPartUntil;
  }

  #restartPauses(): void {
    this.#pauseMs = this.#takesPart ? LEAST_MS : this.#options.calmMs;
    this.#growth = GROWTH;
    this.#hasFound = false;
  }

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
    // Before looking: what is written from now on is heard of.
    if (this.#pauseMs >= HEAR_AGAIN_MS) this.#hearAgain();
    const { isNew, dueMs = Infinity } = this.#options.look();
    if (isNew && isResting && !this.#isNoticed && ++this.#unnoticed >= UNNOTICED) this.#goWithoutNotices();
    this.#isNoticed = false;
    const restMs = this.#watcher === undefined && !this.#isDeaf ? this.#options.paceMs : REST_MS;
    if (isNew && this.#isDeaf) this.#restartPauses();
    else if (isNew || this.#hasFound) this.#growth = GROWTH_ONCE_FOUND;
    this.#hasFound ||= isNew;
    if (isNew) this.#foundAt = this.#lookedAt;
    const pauseMs = Math.min(this.#pauseMs, restMs);
    this.#pauseMs = Math.min(pauseMs * this.#growth, restMs);
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

  #hearAgain(): void {
    this.#heard = 0;
    if (!this.#isDeaf) return;
    this.#isDeaf = false;
    this.#watcher = this.#watch();
  }

  #stopWatching(): void {
    this.#watcher?.close();
    this.#watcher = undefined;
  }

  #goWithoutNotices(): void {
    this.#stopWatching();
    this.#restartPauses();
    this.#lookWithin(LEAST_MS);
  }
}
