/** Leases of the embedded knowledge store: one process's handle on a row of the lease table. */
import { type Clock } from "../clock.ts";
import { AppError } from "../errors.ts";
import { leaseEnded } from "./argument-checks.ts";
import { type Lease } from "./knowledge-store.ts";
import { type SqliteFile } from "./sqlite-file.ts";
import { type StoreTables } from "./sqlite-tables.ts";

/** Renewals per time to live: two may fail before the lease is in danger. */
const RENEWALS_PER_TTL = 3;

/** What a lease needs of its store. */
export interface LeaseContext {
  readonly file: SqliteFile;
  readonly tables: StoreTables;
  readonly clock: Clock;
  /** The leases of this handle that are renewed in the background. */
  readonly renewing: Set<SqliteLease>;
  /** To be called when the store has changed: wakes the watches. */
  readonly onChange: () => void;
}

/**
 * A lease is `held` until it is `released` (by this handle) or found to be `lost`; neither ends again. While it is held
 * and automatic, a timer renews it.
 */
export class SqliteLease implements Lease {
  readonly id: string;
  readonly ttlMs: number;
  readonly lost: Promise<void>;
  readonly #context: LeaseContext;
  #state: "held" | "released" | "lost" = "held";
  #timer: NodeJS.Timeout | undefined;
  #reportLost: () => void = () => undefined;

  constructor(context: LeaseContext, id: string, ttlMs: number) {
    this.#context = context;
    this.id = id;
    this.ttlMs = ttlMs;
    this.lost = new Promise((resolve) => (this.#reportLost = resolve));
  }

  /** Renews in the background from now on, without keeping the process alive. */
  renewAutomatically(): void {
    this.#context.renewing.add(this);
    this.#timer = setTimeout(() => void this.#renewInBackground(), this.ttlMs / RENEWALS_PER_TTL);
    this.#timer.unref();
  }

  async renew(): Promise<void> {
    const { file, tables, clock, onChange } = this.#context;
    const isRenewed = await file.write(() => {
      if (tables.renewLease(this.id, clock.now())) return true;
      // Its time may have run out without anybody having swept it: then its keys go now, so that "ended" is true.
      tables.endLease(this.id);
      return false;
    });
    if (isRenewed) return;
    onChange();
    this.#end("lost");
    throw leaseEnded(this.id);
  }

  async release(): Promise<void> {
    // First of all it is renewed no more: should the store not be reached now, the lease still ends by itself.
    this.#end("released");
    const { file, tables, onChange } = this.#context;
    await file.write(() => tables.endLease(this.id));
    onChange();
  }

  /** Stops renewing: the lease runs out by itself. */
  abandon(): void {
    this.#context.renewing.delete(this);
    clearTimeout(this.#timer);
  }

  async #renewInBackground(): Promise<void> {
    try {
      await this.renew();
    } catch (error) {
      // Not reached: tried again at the next turn, as long as the store is open. Ended: told by `lost`.
      if (!(error instanceof AppError)) throw error;
    }
    if (this.#context.renewing.has(this)) this.renewAutomatically();
  }

  #end(state: "released" | "lost"): void {
    if (this.#state !== "held") return;
    this.#state = state;
    this.abandon();
    if (state === "lost") this.#reportLost();
  }
}
