/** Waiting for a condition instead of for time: the one polling helper of the tests. */
import { setTimeout as sleep } from "node:timers/promises";

/** How long to wait, how often to look, and what to call the condition when it does not come. */
export interface EventuallyOptions {
  /** Milliseconds until it gives up; default 10,000. */
  readonly timeoutMs?: number;
  /** Milliseconds between two looks; default 20. */
  readonly intervalMs?: number;
  /** Completes the sentence "Still waiting after … ms: …" of the failure. */
  readonly describe?: string;
}

/** What the last look may take: a condition that hangs must still fail. */
const LAST_LOOK_MS = 1_000;

/**
 * Asks `condition` until it answers with something truthy, and resolves with that.
 *
 * An attempt that throws counts as "not yet", so that assertions can stand inside; the last one thrown is the cause of
 * the failure. Each attempt itself counts against the time: a condition that hangs fails too. However late it is, there is a
 * last look after the end: where this process itself stood still, what it waits for may have come long ago.
 */
export async function eventually<Value>(
  condition: () => Value | Promise<Value>,
  options: EventuallyOptions = {},
): Promise<Exclude<Awaited<Value>, undefined | null | false | 0 | "">> {
  const { timeoutMs = 10_000, intervalMs = 20, describe = "the condition to hold" } = options;
  const giveUpAt = performance.now() + timeoutMs;
  let lastError: unknown;
  for (;;) {
    const leftMs = giveUpAt - performance.now();
    const isLast = leftMs <= 0;
    try {
      const value = await withinTime(condition, isLast ? LAST_LOOK_MS : leftMs);
      if (value) return value as Exclude<Awaited<Value>, undefined | null | false | 0 | "">;
      lastError = undefined;
    } catch (error) {
      lastError = error;
    }
    if (isLast) break;
    await sleep(Math.min(intervalMs, Math.max(0, giveUpAt - performance.now())));
  }
  const because = lastError instanceof Error ? ` (last attempt: ${lastError.message})` : "";
  throw new Error(`Still waiting after ${timeoutMs} ms: ${describe}${because}`, { cause: lastError });
}

async function withinTime<Value>(condition: () => Value | Promise<Value>, leftMs: number): Promise<Value> {
  const stop = new AbortController();
  const tooLate = sleep(leftMs, undefined, { signal: stop.signal }).then(() => {
    throw new Error("the attempt itself did not end");
  });
  // When the condition is first, the aborted timer rejects: that is its normal end.
  tooLate.catch(() => undefined);
  try {
    return await Promise.race([condition(), tooLate]);
  } finally {
    stop.abort();
  }
}
