/**
 * A living job under changed circumstances (thesis, section 4.5.2): the same question is decided again, for the providers
 * that were approved. Same plan: nothing happens. Another: the parties are composed anew and those that leave are told who
 * answers now, so that the analyst's token goes on counting. None: all are told to stop, until a later change allows one.
 *
 * The plan's state machine: `ready` or `stopped` → `composing` (written by compare-and-swap, so one replica does the work) →
 * `ready`, or `stopped` where there is no plan or an agent does not follow. A replica that dies while composing is relieved
 * when its record is gone; one that lives but left its work undone (the store was away), when the plan has stood unchanged
 * for longer than composing takes, by the clock of whoever looks. A replica that was only paused and goes on does no harm:
 * its writes fail by compare-and-swap, and agents refuse compositions of a plan older than theirs.
 */
import { isDeepStrictEqual } from "node:util";
import { AppError, isUnexpected, toAppError } from "../lib/errors.ts";
import type { Versioned } from "../lib/knowledge/knowledge-base.ts";
import { jobNameForLogs } from "../lib/model/names.ts";
import { composeParties, leaveInBackground, leaveUpdate } from "./composition.ts";
import type { OrchestratorContext } from "./context.ts";
import { endpointsOf } from "./endpoints.ts";
import { decidePlan, type PlanDecision } from "./planning.ts";
import { partiesOf, type Plan } from "./plans.ts";

/** Beyond the composition's own time-out: what the two writes around it may take. */
const COMPOSING_MARGIN_MS = 10_000;
const LOOK_AGAIN_MS = 100;
/** Other replicas' changes met in a row before giving up. */
const MAX_ROUNDS = 10;

/** Decides a job's plan again and makes it so. A job that is gone is left alone. Fails where it cannot be decided now. */
export async function reconsiderJob(jobName: string, context: OrchestratorContext, signal: AbortSignal): Promise<void> {
  for (let round = 0; round < MAX_ROUNDS && !signal.aborted; round++) {
    const current = await settledPlan(jobName, context, signal);
    if (current === undefined) return;
    const decision = await decidePlan(questionOf(current.document, signal), context);
    if (await follow(current, decision, context, signal)) return;
  }
}

/** Whether the replica that composes this plan lives. */
export function isComposerAlive({ composer }: Plan, { replicas }: OrchestratorContext): Promise<boolean> {
  return composer === undefined ? Promise.resolve(false) : replicas.isAlive(composer);
}

/**
 * The plan once nobody is at it: another replica, or this one for an earlier change, may be, and its outcome may not know this
 * change. Undefined for a job that is gone.
 */
async function settledPlan(
  jobName: string,
  context: OrchestratorContext,
  signal: AbortSignal,
): Promise<Versioned<Plan> | undefined> {
  const { clock, limits } = context;
  let seen = { revision: 0, sinceMs: 0 };
  for (;;) {
    const current = await findPlan(jobName, context);
    if (current?.document.state !== "composing") return current;
    if (current.revision !== seen.revision) seen = { revision: current.revision, sinceMs: clock.now() };
    const isOverdue = clock.now() - seen.sinceMs > limits.compositionTimeoutMs + COMPOSING_MARGIN_MS;
    if (isOverdue || !(await isComposerAlive(current.document, context))) return current;
    await clock.sleep(LOOK_AGAIN_MS, signal);
  }
}

/** Puts a decision into effect; false when another replica changed the plan meanwhile. */
async function follow(
  current: Versioned<Plan>,
  decision: PlanDecision,
  context: OrchestratorContext,
  signal: AbortSignal,
): Promise<boolean> {
  const { document: before } = current;
  const next = nextPlan(before, decision, context);
  if (isSamePlan(before, next)) {
    // The same parties in the same roles: nobody is told anything, but what it stands on, and why, is noted.
    const noted: Plan = { ...withoutClaim(next), version: before.version, state: before.state };
    return isDeepStrictEqual(before, noted) || (await claim(noted, current.revision, context)) !== undefined;
  }
  const claimed = await claim(next, current.revision, context);
  if (claimed === undefined) return false;
  const log = { job: jobNameForLogs(next.jobName), version: next.version };
  if (next.stopped !== undefined) {
    context.logger.info({ ...log, code: next.stopped.code }, "job stopped");
    context.metrics.recompositions.add(1, { outcome: "stopped" });
    leaveInBackground(partiesOf(before), leaveUpdate(next, "stopped", next.stopped.detail, {}), context);
    return true;
  }
  context.logger.info({ ...log, from: before.archetype, to: next.archetype, parties: partiesOf(next) }, "job moves");
  return compose(before, claimed, context, signal);
}

/** Fails, the job stopped, where an agent does not follow now but may later; whoever asked for it tries again. */
async function compose(
  before: Plan,
  claimed: Versioned<Plan>,
  context: OrchestratorContext,
  signal: AbortSignal,
): Promise<boolean> {
  const { document: next } = claimed;
  // First of all: who withdrew does not wait for those who stay.
  stopRefused(before, next, context);
  try {
    await composeParties(next, context, undefined, signal);
  } catch (thrown) {
    const error = toAppError(thrown);
    if (error.code === "cancelled") throw error;
    const detail = `The job could not follow a changed agreement: ${error.message}`;
    const stopped: Plan = { ...withoutClaim(next), state: "stopped", stopped: { code: error.code, detail } };
    if ((await claim(stopped, claimed.revision, context)) === undefined) return false;
    context.metrics.recompositions.add(1, { outcome: "failed" });
    const log = { error, job: jobNameForLogs(next.jobName), version: next.version };
    if (isUnexpected(error)) context.logger.error(log, "a job could not be composed anew");
    else context.logger.info(log, "job stopped: a party did not follow");
    leaveInBackground(leaversOf(before, next), leaveUpdate(next, "stopped", detail, {}), context);
    if (error.retryable) throw error;
    return true;
  }
  const ready = await claim({ ...withoutClaim(next), state: "ready" }, claimed.revision, context);
  if (ready === undefined) {
    // Taken over meanwhile: whoever registered this plan, and is not in the newer one, would keep it until its lease ends.
    leaveInBackground(
      partiesOf(next),
      leaveUpdate(next, "stopped", "Another plan took this one's place.", {}),
      context,
    );
    return false;
  }
  context.metrics.recompositions.add(1, { outcome: "moved" });
  await moveOthers(before, next, context);
  return true;
}

function stopRefused(before: Plan, next: Plan, context: OrchestratorContext): void {
  const leavers = leaversOf(before, next);
  for (const { provider, detail } of next.refused) {
    if (leavers.includes(provider)) leaveInBackground([provider], leaveUpdate(next, "stopped", detail, {}), context);
  }
}

/** Whoever leaves without a refusal hears who answers now. */
async function moveOthers(before: Plan, next: Plan, context: OrchestratorContext): Promise<void> {
  const refused = new Set(next.refused.map(({ provider }) => provider));
  const leavers = leaversOf(before, next).filter((party) => !refused.has(party));
  if (leavers.length === 0) return;
  const endpoints = await endpointsOf(next, context);
  const detail = `This job is now answered by ${Object.keys(endpoints).join(", ")}.`;
  leaveInBackground(leavers, leaveUpdate(next, "moved", detail, endpoints), context);
}

/** While composing was interrupted, anybody who could have been told may have been. */
function leaversOf(before: Plan, next: Plan): string[] {
  const staying = new Set(partiesOf(next));
  const were =
    before.state === "composing" ? [...before.approved, ...before.acceptedComputeProviders] : partiesOf(before);
  return [...new Set(were)].filter((party) => !staying.has(party));
}

function questionOf(plan: Plan, signal: AbortSignal) {
  return {
    requestType: plan.requestType,
    user: plan.user,
    candidates: plan.approved,
    dataSets: plan.dataSets,
    options: plan.options,
    signal,
  };
}

function nextPlan(before: Plan, decision: PlanDecision, context: OrchestratorContext): Plan {
  const { computeProvider: _thirdParty, stopped: _stopped, composer: _composer, ...kept } = before;
  const { outcomes, selection } = decision;
  const version = before.version + 1;
  const common = {
    ...kept,
    version,
    acceptedComputeProviders: [
      ...new Set([...before.acceptedComputeProviders, ...decision.acceptedComputeProviders]),
    ].sort(),
    agreements: { ...decision.agreements },
    archetypes: { ...decision.archetypes },
    refused: [...outcomes.refused],
    offline: [...outcomes.offline],
  };
  if (selection.kind === "refused") {
    const { code, message: detail } = selection.error;
    return { ...common, ...thirdParty(before.computeProvider), state: "stopped", stopped: { code, detail } };
  }
  return {
    ...common,
    state: "composing",
    composer: context.replicas.instance,
    archetype: selection.plan.archetype,
    providers: [...selection.plan.providers],
    ...thirdParty(selection.plan.computeProvider),
  };
}

function thirdParty(name: string | undefined): { computeProvider: string } | Record<string, never> {
  return name === undefined ? {} : { computeProvider: name };
}

/** The same work for the same parties. An interrupted composition is never the same: somebody must complete it. */
function isSamePlan(before: Plan, next: Plan): boolean {
  if (before.state === "stopped" || next.state === "stopped") return before.state === next.state;
  if (before.state === "composing") return false;
  return (
    before.archetype === next.archetype &&
    before.computeProvider === next.computeProvider &&
    before.providers.join() === next.providers.join()
  );
}

function withoutClaim({ composer: _composer, ...plan }: Plan): Plan {
  return plan;
}

async function claim(
  plan: Plan,
  ifRevision: number,
  { plans }: OrchestratorContext,
): Promise<Versioned<Plan> | undefined> {
  try {
    return await plans.put(plan, ifRevision);
  } catch (thrown) {
    if (["precondition_failed", "job_unknown"].includes(toAppError(thrown).code)) return undefined;
    throw thrown;
  }
}

async function findPlan(jobName: string, { plans }: OrchestratorContext): Promise<Versioned<Plan> | undefined> {
  try {
    return await plans.get(jobName);
  } catch (thrown) {
    if (thrown instanceof AppError && thrown.code === "job_unknown") return undefined;
    throw thrown;
  }
}
