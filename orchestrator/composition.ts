/**
 * Composition (thesis, section 4.3): each party of a plan is told its part over the bus, and acknowledges once it has
 * registered the job. Parties that leave a plan are told so in the same way.
 */
import { decodeJson, encodeJson } from "../lib/bus/json.ts";
import { MESSAGE_TYPES, type MessageType } from "../lib/bus/message-types.ts";
import { agentQueue } from "../lib/bus/queues.ts";
import { AppError, fromFailure, toAppError, toFailure } from "../lib/errors.ts";
import { CompositionAcknowledgement, type PolicyUpdate } from "../lib/messages.ts";
import type { Role } from "../lib/model/archetype.ts";
import type { CompositionRequest } from "../lib/model/composition.ts";
import { jobNameForLogs, makeLocalJobName } from "../lib/model/names.ts";
import { traceHeaders, type TraceContext } from "../lib/telemetry/trace-context.ts";
import type { OrchestratorContext } from "./context.ts";
import { partiesOf, type Plan } from "./plans.ts";

/** How long an agent may take to take note that it leaves a job; nobody waits for it but the log. */
const LEAVE_TIMEOUT_MS = 30_000;

/**
 * Composes all parties of a plan at once. When one does not acknowledge (`agent_timeout`, `agent_offline`, or its own
 * failure, with the party named), the others are told to stop, and the error is thrown.
 */
export async function composeParties(
  plan: Plan,
  context: OrchestratorContext,
  trace?: TraceContext,
  signal?: AbortSignal,
): Promise<void> {
  const parties = partiesOf(plan);
  const { compositionTimeoutMs: timeoutMs } = context.limits;
  const results = await Promise.allSettled(
    parties.map((party) => {
      const request = compositionRequest(plan, party);
      context.metrics.compositionsSent.add(1, { party, role: request.role });
      return tell(party, MESSAGE_TYPES.compositionRequest, request, timeoutMs, context, trace, signal);
    }),
  );
  const failures = results.flatMap((result) => (result.status === "rejected" ? [toAppError(result.reason)] : []));
  const [first] = failures;
  if (first === undefined) return;
  // One that did not answer in time may have registered all the same.
  const stop = leaveUpdate(plan, "stopped", `The job could not be composed: ${first.message}`, {});
  leaveInBackground(parties, stop, context);
  throw failures.length === 1 ? first : withAllFailures(first, failures);
}

/** What one party is told. */
export function compositionRequest(plan: Plan, party: string): CompositionRequest {
  return {
    archetype_id: plan.archetype,
    request_type: plan.requestType,
    role: roleOf(plan, party),
    user: plan.user,
    data_providers: plan.providers,
    ...(plan.computeProvider === undefined ? {} : { compute_provider: plan.computeProvider }),
    destination_queue: agentQueue(plan.computeProvider ?? party),
    job_name: plan.jobName,
    local_job_name: makeLocalJobName(plan.jobName, party),
    data_sets: plan.dataSets,
    lease_id: plan.lease,
    plan_version: plan.version,
  };
}

/** What a party that leaves is told. */
export function leaveUpdate(
  plan: Plan,
  outcome: PolicyUpdate["outcome"],
  detail: string,
  authorizedProviders: Readonly<Record<string, string>>,
): PolicyUpdate {
  return {
    jobName: plan.jobName,
    user: plan.user,
    planVersion: plan.version,
    outcome,
    detail,
    ...(outcome === "moved" ? { archetype: plan.archetype } : {}),
    authorizedProviders: { ...authorizedProviders },
  };
}

/**
 * Tells parties that they leave a job; resolves when each has acknowledged or could not be reached. What is enforced does
 * not hang on it: an agent asks its own agreement at every request.
 */
export async function leaveJob(
  parties: readonly string[],
  update: PolicyUpdate,
  context: OrchestratorContext,
): Promise<void> {
  await Promise.all(
    parties.map(async (party) => {
      try {
        await tell(party, MESSAGE_TYPES.policyUpdate, update, LEAVE_TIMEOUT_MS, context);
      } catch (thrown) {
        const error = toAppError(thrown);
        const job = jobNameForLogs(update.jobName);
        context.logger.warn({ error, party, job, outcome: update.outcome }, "a party did not take note that it leaves");
      }
    }),
  );
}

/** {@link leaveJob} for callers whose own outcome does not depend on it; its failures are its own log lines. */
export function leaveInBackground(
  parties: readonly string[],
  update: PolicyUpdate,
  context: OrchestratorContext,
): void {
  void leaveJob(parties, update, context);
}

function roleOf(plan: Plan, party: string): Role {
  if (plan.computeProvider === undefined) return "all";
  return party === plan.computeProvider ? "computeProvider" : "dataProvider";
}

async function tell(
  party: string,
  type: MessageType,
  body: unknown,
  timeoutMs: number,
  { rpc }: OrchestratorContext,
  trace?: TraceContext,
  signal?: AbortSignal,
): Promise<void> {
  try {
    const answer = await rpc.call(agentQueue(party), type, encodeJson(body), {
      timeoutMs,
      timeoutError: () =>
        new AppError("agent_timeout", `The agent of ${party} did not acknowledge within ${String(timeoutMs)} ms.`, {
          party,
        }),
      ...(trace === undefined ? {} : { headers: traceHeaders(trace) }),
      ...(signal === undefined ? {} : { signal }),
    });
    const { failure } = decodeJson(answer, CompositionAcknowledgement);
    if (failure !== undefined) throw fromFailure(failure);
  } catch (thrown) {
    const error = toAppError(thrown);
    if (error.code !== "not_found") throw error.withParty(party);
    throw new AppError("agent_offline", `The agent of ${party} has no queue: it never started.`, {
      party,
      cause: error,
    });
  }
}

function withAllFailures(first: AppError, failures: readonly AppError[]): AppError {
  return new AppError(first.code, first.message, {
    cause: first,
    retryable: failures.every(({ retryable }) => retryable),
    details: { ...first.details, failures: failures.map((failure) => toFailure(failure)) },
    ...(first.party === undefined ? {} : { party: first.party }),
  });
}
