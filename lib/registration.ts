/**
 * Says that this process lives, as long as it does: records under one lease, made again when the lease was lost. Other records
 * that live and die with the process may go under the same lease.
 */
import type { Clock } from "./clock.ts";
import { toAppError } from "./errors.ts";
import type { KnowledgeStore, Lease } from "./knowledge/knowledge-store.ts";
import type { Logger } from "./telemetry/logger.ts";
import { dynamosMeter } from "./telemetry/metrics.ts";

/** How long to wait before registering again while the store is away; doubled each time up to the longest. */
const FIRST_RETRY_MS = 100;
const LONGEST_RETRY_MS = 5_000;

/** What is registered. */
export interface RegistrationOptions {
  /** Keys and values of the records; see `lib/knowledge/keys.ts`. */
  readonly records: readonly { readonly key: string; readonly value: unknown }[];
  readonly leaseMs: number;
  /**
   * Called when the records stand again after a lost lease, before {@link Registration.isRegistered} says so: what else went
   * with the lease can be put under the new one. A failure makes the registration be tried again.
   */
  readonly onRegisteredAgain?: (lease: Lease) => Promise<void>;
}

/** Keeps the records; see {@link keepRegistered}. */
export interface Registration {
  /** Whether the records stand, as far as this process knows. */
  isRegistered(): boolean;
  /** The lease that they are under; undefined while there is none. */
  lease(): Lease | undefined;
  /** Takes one record away for good, before the others: such as the one that brings new work. */
  withdraw(key: string): Promise<void>;
  /** Ends the lease: all that is under it is gone at once. */
  close(): Promise<void>;
}

interface Dependencies {
  readonly clock: Clock;
  readonly logger: Logger;
}

/**
 * Registers, and registers again whenever the lease is lost, until closed. Counts losses as `dynamos.lease.losses`.
 *
 * @throws AppError `unavailable` when the store does not answer at the start.
 */
export async function keepRegistered(
  store: KnowledgeStore,
  options: RegistrationOptions,
  dependencies: Dependencies,
): Promise<Registration> {
  const keeper = new Keeper(store, options, dependencies);
  await keeper.start();
  return keeper;
}

class Keeper implements Registration {
  readonly #store: KnowledgeStore;
  readonly #options: RegistrationOptions;
  readonly #dependencies: Dependencies;
  readonly #closing = new AbortController();
  readonly #withdrawn = new Set<string>();
  readonly #losses = dynamosMeter().createCounter("dynamos.lease.losses", {
    description: "Leases that this process lost while it lived, and made anew",
  });
  #lease: Lease | undefined;
  #keeping: Promise<void> = Promise.resolve();

  constructor(store: KnowledgeStore, options: RegistrationOptions, dependencies: Dependencies) {
    this.#store = store;
    this.#options = options;
    this.#dependencies = dependencies;
  }

  async start(): Promise<void> {
    this.#lease = await this.#register();
    this.#keeping = this.#keep();
  }

  isRegistered(): boolean {
    return this.#lease !== undefined;
  }

  lease(): Lease | undefined {
    return this.#lease;
  }

  async withdraw(key: string): Promise<void> {
    this.#withdrawn.add(key);
    await this.#store.delete(key);
  }

  async close(): Promise<void> {
    this.#closing.abort();
    await this.#keeping;
    await this.#lease?.release();
  }

  async #keep(): Promise<void> {
    const { signal } = this.#closing;
    while (!signal.aborted) {
      if (this.#lease !== undefined) {
        await Promise.race([this.#lease.lost, aborted(signal)]);
        if (signal.aborted) return;
        this.#lease = undefined;
        this.#losses.add(1);
        this.#dependencies.logger.warn("the online lease was lost; registering again");
      }
      this.#lease = await this.#registerUntilDone();
    }
  }

  /** Tries until it succeeds or is closed: a process without a record gets no work, so there is nothing better to do. */
  async #registerUntilDone(): Promise<Lease | undefined> {
    const { clock, logger } = this.#dependencies;
    const { signal } = this.#closing;
    for (let waitMs = FIRST_RETRY_MS; !signal.aborted; waitMs = Math.min(waitMs * 2, LONGEST_RETRY_MS)) {
      try {
        const lease = await this.#register(this.#options.onRegisteredAgain);
        logger.info("registered as online");
        return lease;
      } catch (error) {
        logger.warn({ error: toAppError(error), waitMs }, "could not register; trying again");
        await Promise.race([clock.sleep(waitMs), aborted(signal)]);
      }
    }
    return undefined;
  }

  async #register(afterwards?: (lease: Lease) => Promise<void>): Promise<Lease> {
    const lease = await this.#store.grantLease({ ttlMs: this.#options.leaseMs });
    try {
      for (const { key, value } of this.#options.records) {
        if (this.#withdrawn.has(key)) continue;
        await this.#store.put(key, value, { lease });
        // Withdrawn meanwhile: its delete may have come before this.
        if (this.#withdrawn.has(key)) await this.#store.delete(key);
      }
      await afterwards?.(lease);
      return lease;
    } catch (error) {
      // It would renew itself for nothing; where the store is away, it ends by itself.
      await lease.release().catch(() => undefined);
      throw error;
    }
  }
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", () => resolve(), { once: true });
  });
}
