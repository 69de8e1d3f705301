/** Says that this agent is online, as long as it is: a record under a lease, made again when the lease was lost. */
import type { Clock } from "../lib/clock.ts";
import { onlineKeys } from "../lib/knowledge/keys.ts";
import type { KnowledgeStore, Lease } from "../lib/knowledge/knowledge-store.ts";
import type { OnlineRecord } from "../lib/messages.ts";
import type { Logger } from "../lib/telemetry/logger.ts";
import { toAppError } from "../lib/errors.ts";

/** How long to wait before registering again while the store is away; doubled each time up to the longest. */
const FIRST_RETRY_MS = 100;
const LONGEST_RETRY_MS = 5_000;

/** Keeps an online record; see {@link keepRegistered}. */
export interface Registration {
  /** Whether the record stands, as far as this process knows. */
  isRegistered(): boolean;
  /** Takes the record away: the agent is offline for everybody at once. */
  close(): Promise<void>;
}

/**
 * Registers, and registers again whenever the lease is lost, until closed.
 *
 * @throws AppError `unavailable` when the store does not answer at the start.
 */
export async function keepRegistered(
  store: KnowledgeStore,
  record: OnlineRecord,
  leaseMs: number,
  dependencies: { readonly clock: Clock; readonly logger: Logger },
): Promise<Registration> {
  const closing = new AbortController();
  let lease: Lease | undefined = await register(store, record, leaseMs);
  const keeper = (async () => {
    while (!closing.signal.aborted) {
      if (lease !== undefined) {
        await Promise.race([lease.lost, aborted(closing.signal)]);
        if (closing.signal.aborted) return;
        lease = undefined;
        dependencies.logger.warn("the online lease was lost; registering again");
      }
      lease = await registerUntilDone(store, record, leaseMs, dependencies, closing.signal);
    }
  })();
  return {
    isRegistered: () => lease !== undefined,
    close: async () => {
      closing.abort();
      await keeper;
      await lease?.release();
    },
  };
}

async function register(store: KnowledgeStore, record: OnlineRecord, ttlMs: number): Promise<Lease> {
  const lease = await store.grantLease({ ttlMs });
  try {
    await store.put(onlineKeys.key({ party: record.name, instanceId: record.instance }), record, { lease });
    return lease;
  } catch (error) {
    // It would renew itself for nothing; where the store is away, it ends by itself.
    await lease.release().catch(() => undefined);
    throw error;
  }
}

/** Tries until it succeeds or is closed: an agent without a record gets no work, so there is nothing better to do. */
async function registerUntilDone(
  store: KnowledgeStore,
  record: OnlineRecord,
  leaseMs: number,
  { clock, logger }: { readonly clock: Clock; readonly logger: Logger },
  signal: AbortSignal,
): Promise<Lease | undefined> {
  for (let waitMs = FIRST_RETRY_MS; !signal.aborted; waitMs = Math.min(waitMs * 2, LONGEST_RETRY_MS)) {
    try {
      const lease = await register(store, record, leaseMs);
      logger.info("registered as online");
      return lease;
    } catch (error) {
      logger.warn({ error: toAppError(error), waitMs }, "could not register; trying again");
      await Promise.race([clock.sleep(waitMs), aborted(signal)]);
    }
  }
  return undefined;
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", () => resolve(), { once: true });
  });
}
