/** How long a persistent chain that is full keeps a request it has taken from the queue, in the hope of a place. */

const LEAST_HOLD_MS = 50;
const MOST_HOLD_MS = 500;
const RUNS_WAITED_FOR = 2;

/**
 * Milliseconds to hold a request, from how many milliseconds the chain's runs last (0: none has ended yet). While runs are short there
 * soon is a place, and leaving the queue and coming back to it would cost as much as the run. While they are long there is none soon: the
 * request goes to another chain, or is counted as waiting, which starts one.
 */
export function holdMsFor(runMs: number): number {
  const soonMs = runMs * RUNS_WAITED_FOR;
  return soonMs <= MOST_HOLD_MS ? Math.max(LEAST_HOLD_MS, soonMs) : LEAST_HOLD_MS;
}
