/** Waits for servers that are just being started. */
import { type Clock, systemClock } from "../../lib/clock.ts";
import { toAppError } from "../../lib/errors.ts";

/** Between two attempts, in milliseconds. */
const PAUSE_MS = 1000;

/**
 * Does it again until it does not fail as `unavailable` any more, or `waitMs` have passed since the first attempt; then fails as
 * the last one did. Everything else fails at once.
 */
export async function whenAvailable<Result>(
  work: () => Promise<Result>,
  waitMs: number,
  clock: Clock = systemClock,
): Promise<Result> {
  const end = clock.now() + waitMs;
  for (;;) {
    try {
      return await work();
    } catch (error) {
      if (toAppError(error).code !== "unavailable" || clock.now() + PAUSE_MS > end) throw error;
      await clock.sleep(PAUSE_MS);
    }
  }
}
