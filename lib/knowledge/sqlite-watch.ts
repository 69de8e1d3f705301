/** Watches of the embedded knowledge store: who waits for changes, and what they are given. */
import { toAppError } from "../errors.ts";
import { changesForgotten } from "./argument-checks.ts";
import { type StoreChange, type StoreWatch } from "./knowledge-store.ts";
import { WriteSigns, type Look } from "../write-signs.ts";
import { type SqliteFile } from "./sqlite-file.ts";
import { type KeyRange, type StoreTables, keyRange } from "./sqlite-tables.ts";

/** Changes read at a time, so that a watch that has much to catch up with holds little. */
const CHANGES_PER_READ = 64;

/**
 * Tells waiting watches of one handle that somebody, in whatever process, has written.
 *
 * Writes of this handle are told by {@link ChangeSignal.raise}; those of others show in the file's data version, which
 * is looked at after signs of a write (at the latest every `pollMs` where there are no signs) while anybody waits.
 */
export class ChangeSignal {
  readonly #file: SqliteFile;
  readonly #tables: StoreTables;
  readonly #signs: WriteSigns;
  readonly #waiting = new Set<(failure?: Error) => void>();
  #count = 0;
  #dataVersion: number | undefined;
  #revision: number | undefined;

  constructor(file: SqliteFile, tables: StoreTables, pollMs: number) {
    this.#file = file;
    this.#tables = tables;
    this.#signs = new WriteSigns({
      path: file.path,
      look: () => this.#look(),
      wroteAtMs: () => file.wroteAtMs,
      paceMs: pollMs,
      calmMs: pollMs,
    });
  }

  /** Take this before reading, and give it to {@link ChangeSignal.wait}: no write in between is missed. */
  get count(): number {
    return this.#count;
  }

  /** This handle has written. */
  raise(): void {
    this.#count++;
    this.#wake();
  }

  /** Resolves when there may have been a write since `count`, or on abort; rejects when the file cannot be read. */
  wait(count: number, signal: AbortSignal): Promise<void> {
    if (this.#count !== count || signal.aborted) return Promise.resolve();
    return new Promise((resolve, reject) => {
      const wake = (failure?: Error): void => {
        this.#waiting.delete(wake);
        signal.removeEventListener("abort", onAbort);
        if (failure === undefined) resolve();
        else reject(failure);
      };
      const onAbort = (): void => {
        wake();
        if (this.#waiting.size === 0) this.#signs.stop();
      };
      signal.addEventListener("abort", onAbort, { once: true });
      this.#waiting.add(wake);
      this.#signs.start();
    });
  }

  #look(): Look {
    if (this.#waiting.size === 0) {
      // Whoever waits again looks first.
      this.#signs.stop();
      return { isNew: false };
    }
    try {
      const dataVersion = this.#file.dataVersion();
      const isNew = dataVersion !== undefined && dataVersion !== this.#dataVersion;
      if (isNew) {
        this.#dataVersion = dataVersion;
        this.#raiseIfChanged();
      }
      return { isNew };
    } catch (error) {
      this.#wake(toAppError(error));
      return { isNew: false };
    }
  }

  /** Most writes of an idle exchange renew leases: they change no document, and nobody has to read. */
  #raiseIfChanged(): void {
    const revision = this.#file.readNow(() => this.#tables.counters().revision);
    if (revision !== undefined && revision === this.#revision) return;
    this.#revision = revision;
    this.raise();
  }

  #wake(failure?: Error): void {
    for (const wake of [...this.#waiting]) wake(failure);
  }
}

/**
 * One watch: a position in the store's revisions, and the keys that exist there.
 *
 * It reads on only when asked for more, so a slow reader costs no memory. Should the log have been compacted beyond its
 * position meanwhile, it leaps to the compacted revision: documents last written in between are put, keys that no longer
 * exist there are deleted; the log gives the rest. That is why it knows its keys.
 */
export class SqliteWatch implements StoreWatch {
  readonly #file: SqliteFile;
  readonly #tables: StoreTables;
  readonly #signal: ChangeSignal;
  readonly #range: KeyRange;
  readonly #end = new AbortController();
  readonly #keys: Promise<Set<string>>;
  readonly #iteration: AsyncGenerator<StoreChange, void, undefined>;
  readonly #onEnd: () => void;
  #position: number;

  constructor(
    file: SqliteFile,
    tables: StoreTables,
    signal: ChangeSignal,
    start: { readonly prefix: string; readonly fromRevision: number; readonly onEnd: () => void },
  ) {
    this.#file = file;
    this.#tables = tables;
    this.#signal = signal;
    this.#range = keyRange(start.prefix);
    this.#position = start.fromRevision;
    this.#onEnd = start.onEnd;
    this.#keys = this.#file.read(() => this.#keysAtStart());
    // Whoever iterates is told of a failure; nobody need iterate.
    this.#keys.catch(() => undefined);
    this.#iteration = this.#changes();
  }

  [Symbol.asyncIterator](): AsyncGenerator<StoreChange, void, undefined> {
    return this.#iteration;
  }

  async close(): Promise<void> {
    this.#end.abort();
    this.#onEnd();
  }

  async *#changes(): AsyncGenerator<StoreChange, void, undefined> {
    const end = this.#end.signal;
    try {
      const keys = await this.#keys;
      while (!end.aborted) {
        const count = this.#signal.count;
        const { changes, isLast } = await this.#file.read(() => this.#advance(keys));
        for (const change of changes) {
          if (end.aborted) return;
          yield change;
        }
        if (isLast) await this.#signal.wait(count, end);
      }
    } catch (error) {
      // Closing the store ends its watches; what they were reading just then does not matter.
      if (!end.aborted) throw error;
    } finally {
      await this.close();
    }
  }

  #keysAtStart(): Set<string> {
    const { compacted } = this.#tables.counters();
    if (this.#position < compacted) {
      throw changesForgotten(this.#position);
    }
    return this.#tables.keysAt(this.#range, this.#position);
  }

  /** The next changes, possibly none, and moves the position (and `keys`) behind them. */
  #advance(keys: Set<string>): { readonly changes: StoreChange[]; readonly isLast: boolean } {
    const { revision, compacted } = this.#tables.counters();
    if (this.#position < compacted) return { changes: this.#leapTo(compacted, keys), isLast: false };
    const logged = this.#tables.changes(this.#range, this.#position, CHANGES_PER_READ);
    const last = logged.at(-1);
    const isLast = last === undefined || logged.length < CHANGES_PER_READ;
    this.#position = isLast ? Math.max(this.#position, revision) : revisionOf(last);
    // After a leap the log may delete a key that was never announced.
    const changes = logged.filter((change) => {
      if (change.type === "delete") return keys.delete(change.key);
      keys.add(change.document.key);
      return true;
    });
    return { changes, isLast };
  }

  #leapTo(compacted: number, keys: Set<string>): StoreChange[] {
    const documents = this.#tables.documentsBetween(this.#range, this.#position, compacted);
    const present = this.#tables.keysAt(this.#range, compacted);
    const gone = [...keys].filter((key) => !present.has(key)).sort();
    for (const key of gone) keys.delete(key);
    for (const { key } of documents) keys.add(key);
    this.#position = compacted;
    return [
      ...documents.map((document): StoreChange => ({ type: "put", document })),
      ...gone.map((key): StoreChange => ({ type: "delete", key, revision: compacted })),
    ];
  }
}

function revisionOf(change: StoreChange): number {
  return change.type === "put" ? change.document.revision : change.revision;
}
