/** Starting a job where a quota may be full of chains that only wait. */
import { toAppError } from "../../lib/errors.ts";
import type { JobRunner, JobSpec } from "../../lib/jobs/job-runner.ts";

/**
 * Starts the job; where the quota is full, once more after room was made.
 *
 * @param makeRoom whether something was ended, so that there may be room now.
 * @throws AppError as `JobRunner.start`.
 */
export async function startWithRoom(
  runner: Pick<JobRunner, "start">,
  spec: JobSpec,
  makeRoom: () => Promise<boolean>,
): Promise<void> {
  try {
    await runner.start(spec);
  } catch (error) {
    const isFull = toAppError(error).details["reason"] === "QuotaExceeded";
    if (!isFull || !(await makeRoom())) throw error;
    await runner.start(spec);
  }
}
