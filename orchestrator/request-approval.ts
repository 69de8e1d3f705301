/**
 * Request approval, the story (thesis, section 4.3): ask the policy enforcer, see who is online, choose the archetype,
 * compose the parties, keep the plan. Each step is a file of its own:
 *
 * - `planning.ts` gathers and decides, with `policy-client.ts`, `authorized-providers.ts`, `archetype-selection.ts` and
 *   `compute-provider-selection.ts`;
 * - `composition.ts` tells the parties;
 * - `plans.ts` keeps the plan, `policy-updates.ts` changes it when an agreement changes.
 */
import { randomBytes } from "node:crypto";
import { toAppError } from "../lib/errors.ts";
import type { Lease } from "../lib/knowledge/knowledge-store.ts";
import { jobNameForLogs, makeJobName } from "../lib/model/names.ts";
import { withSpan } from "../lib/telemetry/tracing.ts";
import type { Selection } from "./archetype-selection.ts";
import { composeParties } from "./composition.ts";
import type { OrchestratorContext } from "./context.ts";
import { settledPlan } from "./current-plan.ts";
import { checkQuestion, decidePlan, type PlanDecision, type PlanQuestion } from "./planning.ts";
import type { Plan } from "./plans.ts";

const NEVER = new AbortController().signal;

/** A job's name and lease, taken before the approval by whoever must name it earlier. */
export interface JobSeed {
  readonly jobName: string;
  readonly lease: Lease;
}

/** A new job name with a lease of its own. */
export async function seedJob(userName: string, { knowledge, limits }: OrchestratorContext): Promise<JobSeed> {
  const jobName = makeJobName(userName, randomBytes(4).toString("hex"));
  return { jobName, lease: await knowledge.store.grantLease({ ttlMs: limits.jobLeaseMs, renewal: "manual" }) };
}

/**
 * Decides, and has the job's name and lease meanwhile; where nothing is approved, the lease is released again, unless it was given. Fails
 * with the refusal.
 */
async function decideAndSeed(
  question: PlanQuestion,
  context: OrchestratorContext,
  given: JobSeed | undefined,
): Promise<
  Omit<PlanDecision, "selection"> & JobSeed & { readonly selection: Extract<Selection, { readonly kind: "plan" }> }
> {
  const [decided, seeded] = await Promise.allSettled([
    decidePlan(question, context),
    given ?? seedJob(question.user.userName, context),
  ]);
  try {
    const { selection, ...decision } = fulfilled(decided);
    if (selection.kind === "refused") throw selection.error;
    return { ...decision, selection, ...fulfilled(seeded) };
  } catch (thrown) {
    if (given === undefined && seeded.status === "fulfilled") await releaseSeed(seeded.value, context);
    throw thrown;
  }
}

/** What was refused is the answer, also where the lease cannot be released: it then ends by its time. */
async function releaseSeed({ jobName, lease }: JobSeed, { logger }: OrchestratorContext): Promise<void> {
  try {
    await lease.release();
  } catch (error) {
    logger.warn(
      { job: jobNameForLogs(jobName), error: toAppError(error) },
      "the lease of a job that is not approved could not be released",
    );
  }
}

function fulfilled<Value>(result: PromiseSettledResult<Value>): Value {
  if (result.status === "rejected") throw result.reason;
  return result.value;
}

/**
 * Approves a request, or fails with the refusal: `no_authorized_providers`, `archetype_conflict`,
 * `compute_provider_unavailable`, or what an agent failed with. After a failure nothing of the job is left.
 */
export async function approveRequest(
  question: PlanQuestion,
  context: OrchestratorContext,
  seed?: JobSeed,
): Promise<Plan> {
  return withSpan(
    "orchestrator.approve",
    question.trace,
    { "dynamos.request_type": question.requestType },
    async (trace) => {
      const traced = { ...question, trace };
      await checkQuestion(question, context);
      const { selection, jobName, lease, ...decision } = await decideAndSeed(traced, context, seed);
      const plan: Plan = {
        jobName,
        user: question.user,
        requestType: question.requestType,
        options: question.options,
        dataSets: [...decision.dataSets],
        approved: [...selection.plan.providers],
        version: 1,
        state: "ready",
        archetype: selection.plan.archetype,
        providers: [...selection.plan.providers],
        ...(selection.plan.computeProvider === undefined ? {} : { computeProvider: selection.plan.computeProvider }),
        acceptedComputeProviders: [...decision.acceptedComputeProviders],
        agreements: Object.fromEntries(
          [...selection.plan.providers, ...decision.acceptedComputeProviders].map((party) => [
            party,
            decision.agreements[party] ?? 0,
          ]),
        ),
        archetypes: { ...decision.archetypes },
        refused: [...decision.outcomes.refused],
        offline: [...decision.outcomes.offline],
        lease: lease.id,
      };
      try {
        await composeParties(plan, context, trace, question.signal);
        await context.plans.put(plan, 0);
        // An agreement or archetype that changed meanwhile was seen by nobody: the plan was not there yet for the watchers to find.
        const current = await settledPlan(jobName, context, question.signal ?? NEVER);
        context.logger.info(
          {
            job: jobNameForLogs(jobName),
            archetype: current.archetype,
            parties: current.providers,
            thirdParty: current.computeProvider,
          },
          "request approved",
        );
        return current;
      } catch (thrown) {
        await lease.release();
        throw thrown;
      }
    },
  );
}
