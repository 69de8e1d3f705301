/** Leases of etcd: one process's handle on a lease that the server keeps. */
import { AppError } from "../errors.ts";
import { leaseEnded } from "./argument-checks.ts";
import { type EtcdCalls } from "./etcd-calls.ts";
import { EtcdFailure } from "./etcd-errors.ts";
import { type Lease } from "./knowledge-store.ts";
import { type StoreMetrics } from "./store-metrics.ts";

/** Renewals per time to live: two may fail before the lease is in danger. */
const RENEWALS_PER_TTL = 3;
/** After a renewal that failed the next one comes sooner: the server may be back for a short time only. */
const RENEW_AGAIN_MS = 500;

/** What a lease needs of its store. */
export interface EtcdLeaseContext {
  readonly calls: EtcdCalls;
  readonly metrics: StoreMetrics;
  /** The leases of this handle that are renewed in the background. */
  readonly renewing: Set<EtcdLease>;
}

/**
 * A lease is `held` until it is `released` (by this handle) or found to be `lost`; neither ends again. Only the server's
 * word makes it lost: as long as it cannot be reached nobody knows, and nothing can be registered anew either.
 */
export class EtcdLease implements Lease {
  readonly id: string;
  readonly ttlMs: number;
  readonly lost: Promise<void>;
  readonly #context: EtcdLeaseContext;
  #state: "held" | "released" | "lost" = "held";
  #timer: NodeJS.Timeout | undefined;
  #reportLost: () => void = () => undefined;

  constructor(context: EtcdLeaseContext, id: string, ttlMs: number) {
    this.#context = context;
    this.id = id;
    this.ttlMs = ttlMs;
    this.lost = new Promise((resolve) => (this.#reportLost = resolve));
  }

  /** Renews in the background from now on, without keeping the process alive. */
  renewAutomatically(afterMs = this.ttlMs / RENEWALS_PER_TTL): void {
    this.#context.renewing.add(this);
    this.#timer = setTimeout(() => void this.#renewInBackground(), afterMs);
    this.#timer.unref();
  }

  async renew(): Promise<void> {
    const { calls } = this.#context;
    const ttlSeconds = await calls.during("renewLease", "", (call) => calls.keepAlive(call, this.id));
    if (ttlSeconds > 0) return;
    this.#end("lost");
    throw leaseEnded(this.id);
  }

  async release(): Promise<void> {
    // First of all it is renewed no more: should the store not be reached now, the lease still ends by itself.
    this.#end("released");
    const { calls } = this.#context;
    await calls.during("releaseLease", "", async (call) => {
      try {
        await calls.unary(call, "Lease.leaseRevoke", { ID: this.id }, "safe");
      } catch (error) {
        if (!(error instanceof EtcdFailure && error.kind === "lease-ended")) throw error;
      }
    });
  }

  /** Stops renewing: the lease runs out by itself. */
  abandon(): void {
    this.#context.renewing.delete(this);
    clearTimeout(this.#timer);
  }

  async #renewInBackground(): Promise<void> {
    let nextMs = this.ttlMs / RENEWALS_PER_TTL;
    try {
      await this.renew();
    } catch (error) {
      // Not reached: tried again at the next turn, as long as the store is open. Ended: told by `lost`.
      if (!(error instanceof AppError)) throw error;
      if (error.retryable) nextMs = Math.min(nextMs, RENEW_AGAIN_MS);
    }
    if (this.#context.renewing.has(this)) this.renewAutomatically(nextMs);
  }

  #end(state: "released" | "lost"): void {
    if (this.#state !== "held") return;
    this.#state = state;
    this.abandon();
    if (state === "released") return;
    this.#context.metrics.leaseLost();
    this.#reportLost();
  }
}
