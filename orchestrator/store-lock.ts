/**
 * A lock in the knowledge store: work that replicas do one after the other. Its key stands under a lease, so that it does not
 * outlive a process that dies with it.
 */
import type { Clock } from "../lib/clock.ts";
import { AppError, toAppError } from "../lib/errors.ts";
import { lockKeys } from "../lib/knowledge/keys.ts";
import type { KnowledgeStore, Lease } from "../lib/knowledge/knowledge-store.ts";

/** How soon a lock is free again whose holder died. */
const LEASE_MS = 5_000;
/** Beyond twice the lease: a dead holder's lock is waited for. */
const WAIT_MS = 15_000;
const LOOK_AGAIN_MS = 25;

/** The lock, while it is held. */
export interface HeldLock {
  /** Makes sure that it is still held, before a step that needs it. Fails with `unavailable` when it was lost. */
  confirm(): Promise<void>;
}

/** Does work while holding the lock of this name. Fails with `unavailable` when others hold it too long. */
export async function withStoreLock<Result>(
  name: string,
  { store, clock }: { readonly store: KnowledgeStore; readonly clock: Clock },
  work: (lock: HeldLock) => Promise<Result>,
): Promise<Result> {
  const lease = await store.grantLease({ ttlMs: LEASE_MS });
  try {
    await takeLock(name, lease, store, clock);
    return await work({ confirm: () => confirm(name, lease) });
  } finally {
    await lease.release();
  }
}

async function takeLock(name: string, lease: Lease, store: KnowledgeStore, clock: Clock): Promise<void> {
  const giveUpAtMs = clock.now() + WAIT_MS;
  for (;;) {
    try {
      await store.put(lockKeys.key({ name }), {}, { ifRevision: 0, lease });
      return;
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

async function confirm(name: string, lease: Lease): Promise<void> {
  try {
    await lease.renew();
  } catch (thrown) {
    if (toAppError(thrown).code !== "not_found") throw thrown;
    throw new AppError("unavailable", `The lock of the ${name} was lost meanwhile. Try again.`, { cause: thrown });
  }
}
