/** Whether an attempt failed because its chain was dead, so that another chain may serve the same attempt. Pure. */
import type { AppError, ErrorCode } from "../../lib/errors.ts";

/**
 * What a chain that nobody used ends with: its job failed, never came up, outgrew its memory, was stopped, or is gone with its queue.
 *
 * Others say nothing of the chain. `unavailable`, `access_refused` and the like: the bus or the job runner does not answer, and would
 * answer no better for the next chain. `deadline_exceeded`: there is no time left for one.
 */
const DEATHS: ReadonlySet<ErrorCode> = new Set([
  "cancelled",
  "job_failed",
  "job_start_failed",
  "memory_limit_exceeded",
  "not_found",
]);

/**
 * Whether this error tells of a chain's death.
 *
 * @param error of an attempt whose chain had not taken the request, and which nobody called off. One of another party, which a third
 * party asked meanwhile, is not the chain's.
 * @param steward whose chain it is: job runners name it.
 */
export function tellsOfDeadChain({ code, party }: Pick<AppError, "code" | "party">, steward: string): boolean {
  return (party === undefined || party === steward) && DEATHS.has(code);
}
