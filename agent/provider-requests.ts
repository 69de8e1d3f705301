/**
 * A third party asks this data provider for its stream: checked as if the analyst asked (the token comes along, decision 18),
 * accepted or refused at once, then run with the third party's run queue as return address.
 */
import { MESSAGE_TYPES } from "../lib/bus/message-types.ts";
import { decodeJson, encodeJson } from "../lib/bus/json.ts";
import type { Delivery, QueueStatus, Settlement } from "../lib/bus/message-bus.ts";
import { reply } from "../lib/bus/rpc.ts";
import { isAddressOf, parseRunAddress } from "../lib/bus/run-address.ts";
import { AppError, isUnexpected, toAppError, toFailure } from "../lib/errors.ts";
import { ProviderDataRequest, type CompositionAcknowledgement } from "../lib/messages.ts";
import { newTraceContext, parseTraceContext, type TraceContext } from "../lib/telemetry/trace-context.ts";
import { authenticate, evaluateGrant, findJob } from "./authorization.ts";
import { algorithmsOf, runChain } from "./chain-run.ts";
import type { AgentContext } from "./context.ts";
import { failProvider, keepJob } from "./data-requests.ts";
import { withDeadline } from "./deadline.ts";
import { guardGrant, type GuardedUse } from "./grant-guard.ts";
import { MAX_ATTEMPTS } from "./runs/attempts.ts";
import type { LiveRun } from "./runs/live-runs.ts";

const UNEXPECTED = "a third party's request met an error that its answer does not tell";

/** More than the times that a message is delivered at most. */
const MAX_LIVES = 20;

/**
 * Handles one request; the delivery is settled when the end of the stream, or its failure, has been confirmed at the return
 * address (decision 6), so that a crash of this agent leads to a redelivery.
 */
export async function handleProviderRequest(context: AgentContext, delivery: Delivery): Promise<Settlement> {
  const asked = withinOwnLimits(context, decodeJson(delivery, ProviderDataRequest));
  const deadline = withDeadline(new AbortController().signal, asked.deadlineMs, context.clock);
  // Before anything is waited for: a cancel that comes behind the request must find it.
  const live = context.live.enter(asked, deadline.signal);
  const again = new AppError("conflict", `${asked.computeProvider} asked for this stream again.`);
  // Beside the stream's claim; who had to wait for that is checked anew.
  const checked = delivery.redeliveryCount === 0 ? check(context, asked) : undefined;
  const request = {
    runName: asked.returnAddress,
    dataRequest: `${asked.jobName}/${asked.requestId}`,
    deadlineMs: asked.deadlineMs,
    redeliveryCount: delivery.redeliveryCount,
    supersede: () => live.end(again),
  };
  try {
    return await context.streams.provide(request, live.signal, (life) =>
      provide(context, asked, delivery, live, life, life === 0 && checked ? checked : check(context, asked)),
    );
  } finally {
    live.close();
    deadline.clear();
  }
}

/** What is asked beside what takes longer: whether the request is allowed, and whether anybody takes its stream. */
interface Check {
  readonly allowed: Promise<GuardedUse>;
  readonly taken: Promise<QueueStatus | undefined>;
}

function check(context: AgentContext, asked: ProviderDataRequest): Check {
  const allowed = allow(context, asked);
  const taken = context.bus.queueStatus(parseRunAddress(asked.returnAddress).queue);
  // Of use only to the one who provides the stream, and the second only where the first is.
  for (const answer of [allowed, taken]) answer.catch(() => undefined);
  return { allowed, taken };
}

async function provide(
  context: AgentContext,
  asked: ProviderDataRequest,
  delivery: Delivery,
  live: LiveRun,
  life: number,
  checked: Check,
): Promise<Settlement> {
  let allowed: GuardedUse;
  try {
    allowed = await checked.allowed;
  } catch (error) {
    const failure = toAppError(error).withParty(context.steward);
    if (isUnexpected(failure)) context.logger.error({ error: failure, dataRequest: asked.requestId }, UNEXPECTED);
    await acknowledge(context, delivery, asked.jobName, failure);
    // After a redelivery nobody waits for the acknowledgement any more, but for the stream.
    if (life > 0) await fail(context, asked, life, failure);
    return "accept";
  }
  if ((await checked.taken) === undefined) {
    context.logger.info({ dataRequest: asked.requestId }, "a stream is not provided: nobody takes it any more");
    return "accept";
  }
  // Before the acknowledgement is confirmed the chain is on its way; where nobody can be told, it ends.
  const unheard = new AbortController();
  const acknowledged = acknowledge(context, delivery, asked.jobName).catch((error: unknown) => unheard.abort(error));
  guardGrant(context, live, allowed);
  keepJob(context, allowed.job, live);
  const trace = parseTraceContext(delivery.headers) ?? newTraceContext();
  const firstAttempt = firstAttemptOf(asked, life);
  try {
    const signal = AbortSignal.any([live.signal, unheard.signal]);
    await run(context, asked, { ...allowed, trace, firstAttempt }, signal);
    await acknowledged;
    // The stream is whole at the third party; once more would not tell it either.
    if (unheard.signal.aborted) {
      const error = toAppError(unheard.signal.reason);
      context.logger.warn({ dataRequest: asked.requestId, error }, "a stream was provided, but not acknowledged");
    }
  } catch (error) {
    // It is delivered again, for a third party that may have heard nothing; one that has had rows of this life ends the stream as interrupted.
    if (unheard.signal.aborted) throw unheard.signal.reason;
    // Another instance, or this party's next life, runs it anew.
    if (context.live.isStopping) return "retry";
    const failure = toAppError(error).withParty(context.steward);
    if (isUnexpected(failure)) context.logger.error({ error: failure, dataRequest: asked.requestId }, UNEXPECTED);
    context.logger.warn({ dataRequest: asked.requestId, code: failure.code }, "a provided stream failed");
    await fail(context, asked, life, failure);
  }
  return "accept";
}

/** Ends the stream at the third party, as of the last attempt that this life of the request could have made. */
async function fail(context: AgentContext, asked: ProviderDataRequest, life: number, failure: AppError): Promise<void> {
  const lastAttempt = firstAttemptOf(asked, life) + MAX_ATTEMPTS - 1;
  await failProvider(context, context.steward, asked.requestId, asked.returnAddress, failure, lastAttempt);
}

/** The third party's wishes as far as this steward's own limits go: nobody else decides how long it holds a chain. */
function withinOwnLimits(context: AgentContext, asked: ProviderDataRequest): ProviderDataRequest {
  const { DYNAMOS_REQUEST_DEADLINE_MS: longestMs, DYNAMOS_CREDITS: mostCredits } = context.settings;
  return {
    ...asked,
    deadlineMs: Math.min(asked.deadlineMs, context.clock.now() + longestMs),
    credits: Math.min(asked.credits, mostCredits),
  };
}

/**
 * Each attempt of the third party, and in it each life of the request here (`replicas/provided-streams.ts`), has attempts of its
 * own, which count on from one to the next, so that the third party can tell them apart.
 */
function firstAttemptOf(asked: ProviderDataRequest, life: number): number {
  return ((asked.attempt - 1) * MAX_LIVES + life) * MAX_ATTEMPTS + 1;
}

async function allow(context: AgentContext, asked: ProviderDataRequest): Promise<GuardedUse> {
  const caller = await authenticate(context, asked.accessToken);
  if (caller.claims.job !== asked.jobName || caller.claims.sub !== asked.user.userName) {
    throw new AppError("token_invalid", "The token is for another job or user than the request.");
  }
  const job = await findJob(context, caller, asked.request.type);
  const { role, compute_provider: third } = job.composition;
  // Rows go to a run at the plan's third party, and nowhere else. Which of its runs the name need not tell: it may have been made
  // before the job was, and a run takes no frames of another's request.
  const isRunThere = isAddressOf(asked.returnAddress, asked.computeProvider);
  if (role !== "dataProvider" || third !== asked.computeProvider || !isRunThere) {
    throw new AppError(
      "forbidden",
      `${asked.computeProvider} does not compute in this job's plan at ${context.steward}.`,
    );
  }
  const algorithms = algorithmsOf(asked.request);
  const { requestId, deadlineMs } = asked;
  const purpose = { requestId, deadlineMs, algorithms };
  const [evaluation] = await Promise.all([evaluateGrant(context, caller, job, purpose), context.jobs.renew(job)]);
  return { caller, job, purpose, ...evaluation };
}

async function run(
  context: AgentContext,
  asked: ProviderDataRequest,
  allowed: GuardedUse & { readonly trace: TraceContext; readonly firstAttempt: number },
  signal: AbortSignal,
): Promise<void> {
  const slot = await context.admission.reading.enter(asked.user.userName, signal);
  try {
    const { request, requestId, returnAddress, credits } = asked;
    const events = runChain(context, { ...allowed, request, requestId, returnAddress, credits }, signal);
    for await (const _event of events);
  } finally {
    slot.release();
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
