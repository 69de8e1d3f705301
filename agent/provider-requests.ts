/**
 * A third party asks this data provider for its stream: checked as if the analyst asked (the token comes along, decision 18),
 * accepted or refused at once, then run with the third party's run queue as return address.
 */
import { MESSAGE_TYPES } from "../lib/bus/message-types.ts";
import { decodeJson, encodeJson } from "../lib/bus/json.ts";
import type { Delivery, Settlement } from "../lib/bus/message-bus.ts";
import { reply } from "../lib/bus/rpc.ts";
import { AppError, toAppError, toFailure } from "../lib/errors.ts";
import { ProviderDataRequest, type CompositionAcknowledgement } from "../lib/messages.ts";
import { isRunOf, makeLocalJobName } from "../lib/model/names.ts";
import type { Grant } from "../lib/model/grant.ts";
import { newTraceContext, parseTraceContext, type TraceContext } from "../lib/telemetry/trace-context.ts";
import { authenticate, evaluateGrant, findJob } from "./authorization.ts";
import { algorithmsOf, runChain } from "./chain-run.ts";
import type { AgentContext } from "./context.ts";
import { failProvider } from "./data-requests.ts";
import type { RegisteredJob } from "./jobs.ts";
import { MAX_ATTEMPTS } from "./runs/attempts.ts";

/**
 * Handles one request; the delivery is settled when the end of the stream, or its failure, has been confirmed at the return
 * address (decision 6), so that a crash of this agent leads to a redelivery.
 */
export async function handleProviderRequest(context: AgentContext, delivery: Delivery): Promise<Settlement> {
  const asked = decodeJson(delivery, ProviderDataRequest);
  let allowed: { readonly job: RegisteredJob; readonly grant: Grant };
  try {
    allowed = await allow(context, asked);
  } catch (error) {
    const failure = toAppError(error).withParty(context.steward);
    await acknowledge(context, delivery, asked.jobName, failure);
    return "accept";
  }
  await acknowledge(context, delivery, asked.jobName);
  const trace = parseTraceContext(delivery.headers) ?? newTraceContext();
  // Each redelivery is another life of this request: its attempts count on, so that the third party can tell them apart.
  const firstAttempt = delivery.redeliveryCount * MAX_ATTEMPTS + 1;
  try {
    await run(context, asked, allowed, trace, firstAttempt);
  } catch (error) {
    const failure = toAppError(error).withParty(context.steward);
    context.logger.warn({ requestId: asked.requestId, code: failure.code }, "a provided stream failed");
    const lastAttempt = firstAttempt + MAX_ATTEMPTS - 1;
    await failProvider(context, context.steward, asked.requestId, asked.returnAddress, failure, lastAttempt);
  }
  return "accept";
}

async function allow(
  context: AgentContext,
  asked: ProviderDataRequest,
): Promise<{ readonly job: RegisteredJob; readonly grant: Grant }> {
  const caller = await authenticate(context, asked.accessToken);
  if (caller.claims.job !== asked.jobName || caller.claims.sub !== asked.user.userName) {
    throw new AppError("token_invalid", "The token is for another job or user than the request.");
  }
  const job = await findJob(context, caller, asked.request.type);
  const { role, compute_provider: third, job_name: jobName } = job.composition;
  // Rows go to a run of this job at the plan's third party, and nowhere else.
  const isRunThere = isRunOf(asked.returnAddress, makeLocalJobName(jobName, asked.computeProvider));
  if (role !== "dataProvider" || third !== asked.computeProvider || !isRunThere) {
    throw new AppError(
      "forbidden",
      `${asked.computeProvider} does not compute in this job's plan at ${context.steward}.`,
    );
  }
  const algorithms = algorithmsOf(asked.request);
  const { requestId, deadlineMs } = asked;
  const grant = await evaluateGrant(context, caller, job, { requestId, deadlineMs, algorithms });
  if (algorithms.length === 0 && !grant.rawRows) {
    throw new AppError(
      "operation_denied",
      `${context.steward}'s agreement lets no rows out without an algorithm: name one in "algorithm".`,
    );
  }
  return { job, grant };
}

async function run(
  context: AgentContext,
  asked: ProviderDataRequest,
  { job, grant }: { readonly job: RegisteredJob; readonly grant: Grant },
  trace: TraceContext,
  firstAttempt: number,
): Promise<void> {
  const deadline = AbortSignal.timeout(Math.max(0, asked.deadlineMs - context.clock.now()));
  const live = context.live.enter(asked.requestId, asked.jobName, deadline);
  try {
    const slot = await context.admission.reading.enter(asked.user.userName, live.signal);
    try {
      const { request, requestId, returnAddress, credits } = asked;
      const events = runChain(
        context,
        { job, grant, request, requestId, trace, returnAddress, credits, firstAttempt },
        live.signal,
      );
      for await (const _event of events);
    } finally {
      slot.release();
    }
  } finally {
    live.close();
  }
}

async function acknowledge(
  context: AgentContext,
  delivery: Delivery,
  jobName: string,
  failure?: AppError,
): Promise<void> {
  const body: CompositionAcknowledgement = {
    steward: context.steward,
    jobName,
    ...(failure === undefined ? {} : { failure: toFailure(failure) as CompositionAcknowledgement["failure"] & object }),
  };
  await reply(context.bus, delivery, { type: MESSAGE_TYPES.compositionAcknowledgement, body: encodeJson(body) });
}
