/** Waiting with an end. */

import type { Clock } from "../clock.ts";
import { OVER } from "../over.ts";

/** The work's outcome, or the error when it takes longer. The work goes on; whoever needs it stopped does that. */
export async function within<T>(clock: Clock, ms: number, work: Promise<T>, error: () => Error): Promise<T> {
  const stop = new AbortController();
  const tooLate = clock.sleep(Math.max(0, ms), stop.signal).then(() => {
    throw error();
  });
  try {
    return await Promise.race([work, tooLate]);
  } finally {
    stop.abort(OVER);
  }
}
