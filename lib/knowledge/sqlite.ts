/**
 * The embedded knowledge store: one SQLite file, opened by every process of one machine.
 *
 * Siblings: `sqlite-file.ts` shares the file, `sqlite-tables.ts` has what is in it, `sqlite-watch.ts` and
 * `sqlite-lease.ts` are what their names say. Why SQLite, and how: `docs/decisions/0003-knowledge-store-on-sqlite.md`.
 */
import { randomUUID } from "node:crypto";
import { type Clock, systemClock } from "../clock.ts";
import { AppError } from "../errors.ts";
import {
  checkedKey,
  checkedPrefix,
  checkedTtl,
  guardChanged,
  leaseEnded,
  notAsDemanded,
  toJson,
} from "./argument-checks.ts";
import {
  type DeleteOptions,
  type Guard,
  type KnowledgeStore,
  type Lease,
  type LeaseOptions,
  type Listing,
  MIN_LEASE_TTL_MS,
  type PutOptions,
  type StoreWatch,
  type StoredDocument,
} from "./knowledge-store.ts";
import { SqliteFile } from "./sqlite-file.ts";
import { type LeaseContext, SqliteLease } from "./sqlite-lease.ts";
import { StoreTables, keyRange, prepareTables } from "./sqlite-tables.ts";
import { ChangeSignal, SqliteWatch } from "./sqlite-watch.ts";

/** Settings of {@link openSqliteKnowledgeStore}. */
export interface SqliteKnowledgeStoreOptions {
  /** The file; it and its folder are made when missing. */
  readonly path: string;
  /** Default: the machine's clock. All processes that share a file must share the clock: leases depend on it. */
  readonly clock?: Clock;
  /** Deadline of every call in milliseconds; default 5000. */
  readonly timeoutMs?: number;
  /** How often waiting watches look for changes of other processes, in milliseconds; default 25. */
  readonly pollMs?: number;
  /** How many changes are kept for watches that resume; default 10,000. */
  readonly keepChanges?: number;
  /** How many bytes of changes are kept at most, whatever their number; default 32 MiB. */
  readonly keepBytes?: number;
}

/**
 * Between two looks of a process for leases that have run out: when the next one is due, but not more often than that, and not less,
 * since another process may have granted one of {@link MIN_LEASE_TTL_MS} meanwhile.
 */
const LEAST_SWEEP_PAUSE_MS = 250;
const MOST_SWEEP_PAUSE_MS = MIN_LEASE_TTL_MS;

/**
 * Opens the store. Fails with `unavailable` when the file cannot be opened or is damaged, with `configuration_invalid`
 * when it is not a knowledge store of this version.
 */
export async function openSqliteKnowledgeStore(options: SqliteKnowledgeStoreOptions): Promise<KnowledgeStore> {
  const { path, clock = systemClock, timeoutMs = 5000 } = options;
  const file = new SqliteFile({ path, clock, timeoutMs });
  try {
    await file.configure();
    await file.write(() => prepareTables(file.database, path));
    const limits = { changes: options.keepChanges ?? 10_000, bytes: options.keepBytes ?? 32 * 1024 * 1024 };
    const tables = await file.call(() => new StoreTables(file.database, limits));
    return new SqliteKnowledgeStore(file, tables, clock, options.pollMs ?? 25);
  } catch (error) {
    file.close();
    throw error;
  }
}

class SqliteKnowledgeStore implements KnowledgeStore {
  readonly #file: SqliteFile;
  readonly #tables: StoreTables;
  readonly #signal: ChangeSignal;
  readonly #leases: LeaseContext;
  readonly #watches = new Set<StoreWatch>();
  #sweeper: NodeJS.Timeout | undefined;

  constructor(file: SqliteFile, tables: StoreTables, clock: Clock, pollMs: number) {
    this.#file = file;
    this.#tables = tables;
    this.#signal = new ChangeSignal(file, tables, pollMs);
    this.#leases = { file, tables, clock, renewing: new Set(), onChange: () => this.#signal.raise() };
    this.#sweepIn(LEAST_SWEEP_PAUSE_MS);
  }

  async get(key: string): Promise<StoredDocument | undefined> {
    return this.#file.call(() => this.#tables.get(checkedKey(key)));
  }

  async list(prefix: string): Promise<Listing> {
    return this.#file.call(() => this.#tables.list(keyRange(checkedPrefix(prefix))));
  }

  async put(key: string, value: unknown, options: PutOptions = {}): Promise<number> {
    const { ifRevision, guard, lease } = options;
    const json = toJson(value);
    const revision = await this.#file.write(() => {
      this.#demand(checkedKey(key), ifRevision, guard);
      if (lease && this.#tables.leaseTtlMs(lease.id, this.#leases.clock.now()) === undefined)
        throw leaseEnded(lease.id);
      return this.#tables.put(key, json, lease?.id ?? null);
    });
    this.#signal.raise();
    return revision;
  }

  async delete(key: string, options: DeleteOptions = {}): Promise<boolean> {
    const existed = await this.#file.write(() => {
      this.#demand(checkedKey(key), options.ifRevision, options.guard);
      if (this.#tables.revisionOf(key) === 0) return false;
      this.#tables.delete(key);
      return true;
    });
    this.#signal.raise();
    return existed;
  }

  watch(prefix: string, fromRevision: number, signal?: AbortSignal): StoreWatch {
    const onAbort = (): void => void watch.close();
    const watch = new SqliteWatch(this.#file, this.#tables, this.#signal, {
      prefix: checkedPrefix(prefix),
      fromRevision,
      onEnd: () => {
        this.#watches.delete(watch);
        signal?.removeEventListener("abort", onAbort);
      },
    });
    this.#watches.add(watch);
    signal?.addEventListener("abort", onAbort, { once: true });
    if (signal?.aborted) onAbort();
    return watch;
  }

  async grantLease({ ttlMs, renewal = "automatic" }: LeaseOptions): Promise<Lease> {
    const id = randomUUID();
    await this.#file.write(() => this.#tables.addLease(id, checkedTtl(ttlMs), this.#leases.clock.now()));
    const lease = new SqliteLease(this.#leases, id, ttlMs);
    if (renewal === "automatic") lease.renewAutomatically();
    return lease;
  }

  async attachLease(id: string): Promise<Lease> {
    const ttlMs = await this.#file.read(() => this.#tables.leaseTtlMs(id, this.#leases.clock.now()));
    if (ttlMs === undefined) throw leaseEnded(id);
    return new SqliteLease(this.#leases, id, ttlMs);
  }

  async ping(): Promise<void> {
    await this.#file.read(() => this.#tables.counters());
  }

  async close(): Promise<void> {
    clearTimeout(this.#sweeper);
    for (const lease of this.#leases.renewing) lease.abandon();
    await Promise.all([...this.#watches].map((watch) => watch.close()));
    this.#file.close();
  }

  #demand(key: string, ifRevision: number | undefined, guard: Guard | undefined): void {
    if (guard !== undefined) {
      const found = this.#tables.revisionOf(checkedKey(guard.key));
      if (found !== guard.revision) throw guardChanged(guard.key, guard.revision, found);
    }
    if (ifRevision === undefined) return;
    const found = this.#tables.revisionOf(key);
    if (found !== ifRevision) throw notAsDemanded(ifRevision, found);
  }

  #sweepIn(ms: number): void {
    this.#sweeper = setTimeout(() => {
      void this.#sweep().then((nextMs) => {
        if (this.#file.isOpen) this.#sweepIn(nextMs);
      });
    }, ms);
    this.#sweeper.unref();
  }

  /** Ends the leases whose time has run out, whoever granted them: their owners may be dead. Gives when to look again. */
  async #sweep(): Promise<number> {
    const { clock } = this.#leases;
    try {
      const leftMs = (await this.#file.call(() => this.#tables.nextExpiryMs())) - clock.now();
      if (leftMs > 0) return Math.min(Math.max(leftMs, LEAST_SWEEP_PAUSE_MS), MOST_SWEEP_PAUSE_MS);
      // Asked inside the transaction: meanwhile somebody may have swept, or renewed.
      await this.#file.write(() => this.#tables.expiredLeases(clock.now()).forEach((id) => this.#tables.endLease(id)));
      this.#signal.raise();
    } catch (error) {
      // Not reached just now, or closed meanwhile: the next turn, or another process, sweeps. Calls and watches of this
      // handle meet the same failure themselves, and report it.
      if (!(error instanceof AppError)) throw error;
    }
    return LEAST_SWEEP_PAUSE_MS;
  }
}
