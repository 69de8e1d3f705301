/** The plan that a job has now, once it is settled. */
import { AppError } from "../lib/errors.ts";
import { standsOnCurrentAgreements } from "./agreement-revisions.ts";
import type { OrchestratorContext } from "./context.ts";
import type { Plan } from "./plans.ts";
import { reconsiderJob } from "./recomposition.ts";

/** A re-composition takes one composition time-out and a little; this is how much more a request waits for it. */
const WAIT_MARGIN_MS = 5_000;
const LOOK_AGAIN_MS = 50;

/**
 * The plan, renewed by this use; decided again first where an agreement has changed that the watchers have not come to yet, so
 * that a changed agreement counts for the next request. Waits while parties are being told a new one. Fails with `job_unknown`, with
 * `agreement_gone` when the job is stopped, with `unavailable` when composing does not end.
 */
export async function currentPlan(jobName: string, context: OrchestratorContext, signal: AbortSignal): Promise<Plan> {
  const { clock, limits, plans } = context;
  const giveUpAtMs = clock.now() + limits.compositionTimeoutMs + WAIT_MARGIN_MS;
  for (let isReconsidered = false; ;) {
    const { document: plan } = await plans.get(jobName);
    if (plan.state !== "composing" && !isReconsidered && !(await standsOnCurrentAgreements(plan, context))) {
      await reconsiderJob(jobName, context, signal);
      isReconsidered = true;
      continue;
    }
    switch (plan.state) {
      case "ready":
        await plans.renew(plan);
        return plan;
      case "stopped":
        throw new AppError("agreement_gone", plan.stopped?.detail ?? "The job is stopped.", {
          details: { reason: plan.stopped?.code, refused: plan.refused, offline: plan.offline },
        });
      case "composing":
        if (clock.now() >= giveUpAtMs) {
          throw new AppError("unavailable", "The job is being composed anew since an agreement changed. Try again.", {
            details: { retryAfterSeconds: 5 },
          });
        }
        await clock.sleep(LOOK_AGAIN_MS, signal);
    }
  }
}
