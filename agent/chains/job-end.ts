/** The end of a job that has served its one attempt. */
import { toAppError } from "../../lib/errors.ts";
import type { JobRunner } from "../../lib/jobs/job-runner.ts";

/** Ends the job, after it has had some time (ms) to end by itself. */
export async function endJob(runner: JobRunner, name: string, lastStepsMs: number): Promise<void> {
  if (lastStepsMs > 0) await endOfItself(runner, name, AbortSignal.timeout(lastStepsMs));
  await runner.end(name);
}

/** Waits until the job has ended by itself, or the signal is aborted. */
async function endOfItself(runner: JobRunner, name: string, signal: AbortSignal): Promise<void> {
  try {
    for await (const { phase } of runner.watch(name, signal)) if (phase === "succeeded" || phase === "failed") return;
  } catch (error) {
    // A job that was never started has no end; one that takes too long is ended.
    if (!signal.aborted && toAppError(error).code !== "not_found") throw error;
  }
}
