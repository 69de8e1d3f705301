/** An absolute deadline as a signal. */
import type { Clock } from "../lib/clock.ts";
import { AppError } from "../lib/errors.ts";
import { OVER } from "../lib/over.ts";

/** See {@link withDeadline}. */
export interface DeadlineSignal {
  /** Aborted at the deadline, or with `outer`; the reason is an AppError. */
  readonly signal: AbortSignal;
  /** Forgets the deadline; the signal stays as it is. */
  clear(): void;
}

/** A signal that follows `outer`, and is aborted with `deadline_exceeded` at `deadlineMs` (milliseconds since the epoch). */
export function withDeadline(outer: AbortSignal, deadlineMs: number, clock: Clock): DeadlineSignal {
  const passing = new AbortController();
  const clearing = new AbortController();
  clock.sleep(Math.max(0, deadlineMs - clock.now()), clearing.signal).then(
    () => {
      const at = new Date(deadlineMs).toISOString();
      const detail = `The request was not answered by its deadline, ${at} (DYNAMOS_REQUEST_DEADLINE_MS).`;
      passing.abort(new AppError("deadline_exceeded", detail));
    },
    () => undefined, // Cleared before.
  );
  return { signal: AbortSignal.any([outer, passing.signal]), clear: () => clearing.abort(OVER) };
}
