/**
 * A lock in the knowledge store: work that replicas do one after the other. Its key stands under a lease, so that it does not
 * outlive a process that dies with it; and every write under the lock is guarded by it, so that a holder who stood still for
 * longer than the lease changes nothing afterwards.
 */
import type { Clock } from "../lib/clock.ts";
import { AppError, toAppError } from "../lib/errors.ts";
import { lockKeys } from "../lib/knowledge/keys.ts";
import type { Guard, KnowledgeStore, Lease } from "../lib/knowledge/knowledge-store.ts";

/** How soon a lock is free again whose holder died. */
const LEASE_MS = 5_000;
/** Beyond twice the lease: a dead holder's lock is waited for. */
const WAIT_MS = 15_000;
const LOOK_AGAIN_MS = 25;

/** The lock, while it is held. */
export interface HeldLock {
  /** What every write under the lock is to be given: without the lock it fails, and changes nothing. */
  readonly guard: Guard;
}

/**
 * Does work while holding the lock of this name. Fails with `unavailable` when others hold it too long, or when it was lost
 * before a guarded write; then that write and all after it were not done.
 */
export async function withStoreLock<Result>(
  name: string,
  { store, clock }: { readonly store: KnowledgeStore; readonly clock: Clock },
  work: (lock: HeldLock) => Promise<Result>,
): Promise<Result> {
  const lease = await store.grantLease({ ttlMs: LEASE_MS });
  try {
    const guard = await takeLock(name, lease, store, clock);
    return await work({ guard });
  } catch (thrown) {
    throw asLostLock(name, thrown);
  } finally {
    await endLease(lease);
  }
}

async function takeLock(name: string, lease: Lease, store: KnowledgeStore, clock: Clock): Promise<Guard> {
  const key = lockKeys.key({ name });
  const giveUpAtMs = clock.now() + WAIT_MS;
  for (;;) {
    try {
      return { key, revision: await store.put(key, {}, { ifRevision: 0, lease }) };
    } catch (thrown) {
      if (toAppError(thrown).code !== "precondition_failed") throw thrown;
    }
    if (clock.now() >= giveUpAtMs) {
      throw new AppError(
        "unavailable",
        `Others have been at work on the ${name} for ${String(WAIT_MS)} ms. Try again.`,
        {
          details: { retryAfterSeconds: 5 },
        },
      );
    }
    await clock.sleep(LOOK_AGAIN_MS);
  }
}

/** A write that failed for its guard says nothing about the document that was to be written. */
function asLostLock(name: string, thrown: unknown): unknown {
  const error = toAppError(thrown);
  const isLost = error.code === "precondition_failed" && error.details["guard"] === lockKeys.key({ name });
  if (!isLost) return thrown;
  return new AppError("unavailable", `The lock of the ${name} was lost meanwhile. Try again.`, { cause: thrown });
}

/** A lease that cannot be released now runs out by itself; what was done under it is done, and its outcome counts. */
async function endLease(lease: Lease): Promise<void> {
  try {
    await lease.release();
  } catch (thrown) {
    if (!toAppError(thrown).retryable) throw thrown;
  }
}
