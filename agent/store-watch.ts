/** Following the keys under one prefix for as long as the process lives: a list, then each change; from a list again where the watch breaks. */
import type { Clock } from "../lib/clock.ts";
import { toAppError } from "../lib/errors.ts";
import type { KnowledgeStore, Listing, StoreChange } from "../lib/knowledge/knowledge-store.ts";
import type { Logger } from "../lib/telemetry/logger.ts";

const FIRST_RETRY_MS = 100;
const LONGEST_RETRY_MS = 5_000;

/** Who follows. What it throws is logged, and it begins again with a list. */
export interface StoreFollower {
  /** The state as of a revision; what changed before it is not told otherwise. */
  onList(listing: Listing): Promise<void>;
  onChange(change: StoreChange): Promise<void>;
}

/**
 * Follows until the signal; resolves then.
 *
 * @param listing what the follower has seen already; absent: it begins with a list.
 */
export async function followPrefix(
  store: KnowledgeStore,
  prefix: string,
  follower: StoreFollower,
  { clock, logger, signal }: { readonly clock: Clock; readonly logger: Logger; readonly signal: AbortSignal },
  listing?: Listing,
): Promise<void> {
  let revision = listing?.revision;
  for (let waitMs = FIRST_RETRY_MS; !signal.aborted;) {
    try {
      if (revision === undefined) {
        const listed = await store.list(prefix);
        await follower.onList(listed);
        revision = listed.revision;
      }
      for await (const change of store.watch(prefix, revision, signal)) {
        await follower.onChange(change);
        waitMs = FIRST_RETRY_MS;
      }
    } catch (error) {
      if (signal.aborted) return;
      logger.warn({ error: toAppError(error), waitMs, prefix }, "a watch of the knowledge store broke; watching again");
      await clock.sleep(waitMs, signal).catch(() => undefined); // Over meanwhile: the loop ends.
      waitMs = Math.min(waitMs * 2, LONGEST_RETRY_MS);
    }
    revision = undefined;
  }
}
