/** The plan that a job has now, once it is settled. */
import { AppError, ERROR_KINDS, isErrorCode, type ErrorCode } from "../lib/errors.ts";
import { standsOnCurrentDocuments } from "./agreement-revisions.ts";
import type { OrchestratorContext } from "./context.ts";
import type { Plan } from "./plans.ts";
import { isComposerAlive, reconsiderJob } from "./recomposition.ts";

/** A re-composition takes one composition time-out and a little; this is how much more a request waits for it. */
const WAIT_MARGIN_MS = 5_000;
const LOOK_AGAIN_MS = 50;

/** A decision that was begun is carried through, whoever goes meanwhile: its own time-outs end it. */
const NEVER = new AbortController().signal;

/**
 * The plan, renewed by this use; decided again first where an agreement has changed that the watchers have not come to yet, so
 * that a changed agreement counts for the next request, and where what stopped the job may have passed. Waits while parties
 * are being told a new one. Fails with `job_unknown`, with `agreement_gone` when the job is stopped (or with what keeps it from
 * running for now, such as `agent_timeout`), with `unavailable` when composing does not end.
 */
export async function currentPlan(jobName: string, context: OrchestratorContext, signal: AbortSignal): Promise<Plan> {
  const plan = await settledPlan(jobName, context, signal);
  await context.plans.renew(plan);
  return plan;
}

/** As {@link currentPlan}, of a job whose lease was granted just now: it is not renewed. */
export async function settledPlan(jobName: string, context: OrchestratorContext, signal: AbortSignal): Promise<Plan> {
  const { clock, limits, plans } = context;
  const giveUpAtMs = clock.now() + limits.compositionTimeoutMs + WAIT_MARGIN_MS;
  for (let isReconsidered = false; ;) {
    const { document: plan } = await plans.get(jobName);
    if (plan.state === "composing") {
      if (clock.now() >= giveUpAtMs) throw stillComposing();
      if (await isComposerAlive(plan, context)) await clock.sleep(LOOK_AGAIN_MS, signal);
      else await reconsiderJob(jobName, context, NEVER);
      continue;
    }
    if (!isReconsidered && (await needsDecision(plan, context))) {
      await reconsiderJob(jobName, context, NEVER);
      isReconsidered = true;
      continue;
    }
    if (plan.state === "stopped") throw stoppedError(plan);
    return plan;
  }
}

async function needsDecision(plan: Plan, context: OrchestratorContext): Promise<boolean> {
  return passingCode(plan) !== undefined || !(await standsOnCurrentDocuments(plan, context));
}

function stillComposing(): AppError {
  return new AppError("unavailable", "The job is being composed anew since an agreement changed. Try again.", {
    details: { retryAfterSeconds: 5 },
  });
}

function stoppedError(plan: Plan): AppError {
  return new AppError(passingCode(plan) ?? "agreement_gone", plan.stopped?.detail ?? "The job is stopped.", {
    details: { reason: plan.stopped?.code, refused: plan.refused, offline: plan.offline },
  });
}

/** What stopped a job, where that may pass without anybody changing an agreement. */
function passingCode({ stopped }: Plan): ErrorCode | undefined {
  if (stopped === undefined || !isErrorCode(stopped.code)) return undefined;
  return ERROR_KINDS[stopped.code].retryable ? stopped.code : undefined;
}
