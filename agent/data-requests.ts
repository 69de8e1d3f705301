/**
 * The data request, from the caller's token to the frames of the answer. Reads top to bottom: who is it and for which job, what
 * does the agreement allow now, is there room, run the chain; at a third party also: ask the data providers.
 */
import { create, toBinary } from "@bufbuild/protobuf";
import { MESSAGE_TYPES } from "../lib/bus/message-types.ts";
import { decodeJson, encodeJson } from "../lib/bus/json.ts";
import { agentQueue } from "../lib/bus/queues.ts";
import { publishToRun } from "../lib/bus/run-address.ts";
import { AppError, fromFailure, isUnexpected, toAppError, toFailure } from "../lib/errors.ts";
import { CompositionAcknowledgement, type ProviderDataRequest } from "../lib/messages.ts";
import type { DataRequest } from "../lib/model/data-request.ts";
import { jobNameForLogs } from "../lib/model/names.ts";
import { toFailureMessage } from "../lib/rpc/frames.ts";
import { FrameSchema, type Frame } from "../lib/rpc/gen/dynamos/v1/stream_pb.ts";
import { withSpan } from "../lib/telemetry/tracing.ts";
import { traceHeaders, type TraceContext } from "../lib/telemetry/trace-context.ts";
import type { AdmissionSlot } from "./admission.ts";
import {
  decisionBehind,
  documentsBehind,
  evaluateGrant,
  findJob,
  providerKeys,
  type Caller,
  type Evaluation,
  type GrantPurpose,
} from "./authorization.ts";
import { algorithmsOf, runChain, type AllowedRequest } from "./chain-run.ts";
import type { AgentContext } from "./context.ts";
import { withDeadline } from "./deadline.ts";
import { guardGrant } from "./grant-guard.ts";
import type { RegisteredJob } from "./jobs.ts";
import type { ExecutionEvent } from "./runs/execution.ts";
import type { LiveRun } from "./runs/live-runs.ts";

const UNEXPECTED = "a data request met an error that its answer does not tell";
/** How often a third party looks whether its data providers are online. */
const ONLINE_CHECK_MS = 1_000;
/** A failure that this party states for a provider counts whichever attempt of it is under way. */
const WHATEVER_ATTEMPT = 2 ** 31 - 1;

/** A caller's question. */
export interface CallerRequest {
  readonly caller: Caller;
  readonly request: DataRequest;
  readonly requestId: string;
  /** Milliseconds since the epoch. */
  readonly deadlineMs: number;
  readonly trace: TraceContext;
}

/** A caller's question that this party answers now. */
export interface AllowedQuestion extends Evaluation {
  readonly job: RegisteredJob;
  /** What the grant was made for. */
  readonly purpose: GrantPurpose;
  /** What allowed it; see `decisionBehind`. */
  readonly decision: string;
  /** See `providerKeys`; empty but at a third party. */
  readonly providers: Readonly<Record<string, Record<string, unknown>[]>>;
}

/**
 * Whether this party answers a caller's request, as things are at this moment.
 *
 * @throws AppError as {@link findAnsweredJob} and `evaluateGrant`.
 */
export async function allowRequest(context: AgentContext, asked: CallerRequest): Promise<AllowedQuestion> {
  const job = await findAnsweredJob(context, asked);
  const { requestId, deadlineMs } = asked;
  const algorithms = algorithmsOf(asked.request);
  const purpose = { requestId, deadlineMs, algorithms };
  const { role, data_providers: parties } = job.composition;
  const [evaluation, behind, providers] = await Promise.all([
    evaluateGrant(context, asked.caller, job, purpose),
    documentsBehind(context, job),
    role === "computeProvider" ? providerKeys(context, parties) : {},
    context.jobs.renew(job),
  ]);
  return { job, ...evaluation, purpose, providers, decision: decisionBehind(job, evaluation.grant, behind) };
}

/**
 * The job that a caller's request belongs to, if this party answers it.
 *
 * @throws AppError as `findJob`, and `job_moved` when this party only provides data in the job's plan.
 */
async function findAnsweredJob(context: AgentContext, { caller, request }: CallerRequest): Promise<RegisteredJob> {
  const job = await findJob(context, caller, request.type);
  const { role, compute_provider: third, archetype_id: archetype } = job.composition;
  if (role !== "dataProvider") return job;
  const online = third === undefined ? [] : await context.knowledge.onlineInstances(third);
  const endpoint = online[0]?.dns;
  throw new AppError(
    "job_moved",
    `In ${archetype} ${context.steward} only provides data: ask ${third ?? "the third party"}.`,
    {
      details: {
        archetype,
        authorizedProviders:
          third === undefined || endpoint === undefined
            ? {}
            : { [third]: `${endpoint}/agent/v1/${request.type}/${third.toLowerCase()}` },
      },
    },
  );
}

/**
 * Answers a caller's request with the frames of the result. Nothing is waited for before the run is among the live ones.
 *
 * @throws AppError what refused or failed, naming the party.
 */
export async function* answerRequest(
  context: AgentContext,
  question: AllowedQuestion,
  asked: CallerRequest,
  signal: AbortSignal,
): AsyncGenerator<Frame, void, undefined> {
  const { job, grant, providers } = question;
  const { caller, request, requestId, deadlineMs } = asked;
  const isThirdParty = job.composition.role === "computeProvider";
  const { job_name: jobName } = job.composition;
  const deadline = withDeadline(signal, deadlineMs, context.clock);
  const run = context.live.enter({ requestId, jobName }, deadline.signal);
  guardGrant(context, run, { ...question, caller });
  keepJob(context, job, run);
  let slot: AdmissionSlot | undefined;
  try {
    slot = await context.admission[isThirdParty ? "computing" : "reading"].enter(caller.claims.sub, run.signal);
    const { trace } = asked;
    const { DYNAMOS_CREDITS: credits } = context.settings;
    const allowed = { job, grant, request, requestId, trace, credits, firstAttempt: 1 };
    const events = isThirdParty
      ? runThirdParty(context, allowed, { job, asked, providers }, run.signal)
      : runChain(context, allowed, run.signal);
    for await (const event of events) if (event.kind === "frame") yield event.frame;
  } catch (error) {
    const failure = toAppError(error).withParty(context.steward);
    if (isUnexpected(failure)) context.logger.error({ error: failure, dataRequest: requestId }, UNEXPECTED);
    throw failure;
  } finally {
    slot?.release();
    run.close();
    deadline.clear();
  }
}

/** A run may take longer than its job's lease. */
export function keepJob({ jobs, clock, logger }: AgentContext, job: RegisteredJob, run: LiveRun): void {
  jobs.keep(job, clock, run.closed).catch((error: unknown) => {
    logger.error({ error: toAppError(error), job: jobNameForLogs(job.composition.job_name) }, "a job was not renewed");
  });
}

/** A third party's question to the data providers of its plan. */
interface ProviderQuestion {
  readonly job: RegisteredJob;
  readonly asked: CallerRequest;
  readonly providers: AllowedQuestion["providers"];
}

/** Runs the chain, and asks the data providers for their streams, anew for each attempt; however it ends early, they are told. */
async function* runThirdParty(
  context: AgentContext,
  allowed: AllowedRequest,
  question: ProviderQuestion,
  signal: AbortSignal,
): AsyncGenerator<ExecutionEvent, void, undefined> {
  const asking = new AbortController();
  const broken = new AbortController();
  const { providers } = question;
  let current: string | undefined;
  const onQueueReady = async (runQueue: string, attempt: number): Promise<void> => {
    // Whoever still provides for an attempt that has failed would wait for its credits until he takes it for stalled.
    if (current !== undefined) await tellProviders(context, question, current);
    current = runQueue;
    const run = { runQueue, attempt, online: new Set(Object.keys(providers)), signal: asking.signal };
    askProviders(context, question, run).catch((error: unknown) => {
      broken.abort(toAppError(error));
    });
  };
  const grant = { ...allowed.grant, providers };
  let isWhole = false;
  try {
    yield* runChain(context, { ...allowed, grant, onQueueReady }, AbortSignal.any([signal, broken.signal]));
    isWhole = true;
  } finally {
    asking.abort();
    if (!isWhole && current !== undefined) await tellProviders(context, question, current);
  }
}

/** One attempt of a third party. */
interface JoiningRun {
  readonly runQueue: string;
  readonly attempt: number;
  /** The data providers whose grants can be checked: those that were online when the request's own grant was made. */
  readonly online: ReadonlySet<string>;
  /** Aborted when the request is over. */
  readonly signal: AbortSignal;
}

/** Asks every data provider of the plan for its stream; a refusal or silence goes into the run as that provider's failure. */
async function askProviders(context: AgentContext, question: ProviderQuestion, run: JoiningRun): Promise<void> {
  await Promise.all(
    question.job.composition.data_providers.map(async (provider) => {
      try {
        if (!run.online.has(provider)) throw offline(provider);
        await askProvider(context, provider, question, run);
        await untilOffline(context, provider, run.signal);
      } catch (error) {
        if (run.signal.aborted) return;
        const { requestId } = question.asked;
        const failure = toAppError(error).withParty(provider);
        if (isUnexpected(failure)) context.logger.error({ error: failure, dataRequest: requestId }, UNEXPECTED);
        await failProvider(context, provider, requestId, run.runQueue, failure, WHATEVER_ATTEMPT);
      }
    }),
  );
}

/**
 * A provider that dies is asked again by redelivery of the request, as soon as it is back. One that does not come back is not
 * waited for until the deadline: this fails with `agent_offline`. A stream that had ended before does not mind.
 */
async function untilOffline(context: AgentContext, provider: string, signal: AbortSignal): Promise<never> {
  const { clock, knowledge, settings } = context;
  const { DYNAMOS_PROVIDER_ACCEPT_MS: limitMs } = settings;
  let lastSeenMs = clock.now();
  for (;;) {
    await clock.sleep(ONLINE_CHECK_MS, signal);
    // A store that does not answer says nothing of the provider.
    const isOnline = await knowledge.onlineInstances(provider).then(
      (instances) => instances.length > 0,
      () => true,
    );
    if (isOnline) lastSeenMs = clock.now();
    else if (clock.now() - lastSeenMs > limitMs) {
      const detail = `The agent of ${provider} went offline and was not back after ${String(limitMs)} ms.`;
      throw new AppError("agent_offline", detail);
    }
  }
}

async function askProvider(
  context: AgentContext,
  provider: string,
  { asked }: ProviderQuestion,
  run: JoiningRun,
): Promise<void> {
  const { settings } = context;
  const { deadlineMs } = asked;
  const message: ProviderDataRequest = {
    requestId: asked.requestId,
    jobName: asked.caller.claims.job,
    user: { id: asked.caller.claims.uid, userName: asked.caller.claims.sub },
    accessToken: asked.caller.accessToken,
    request: asked.request,
    computeProvider: context.steward,
    returnAddress: run.runQueue,
    attempt: run.attempt,
    credits: settings.DYNAMOS_CREDITS,
    deadlineMs,
  };
  const answer = await withSpan("ask data provider", asked.trace, { "dynamos.provider": provider }, (span) =>
    context.rpc
      .call(agentQueue(provider), MESSAGE_TYPES.sqlDataRequest, encodeJson(message), {
        timeoutMs: settings.DYNAMOS_PROVIDER_ACCEPT_MS,
        // A provider that dies gets it again when it is back.
        expiresAtMs: deadlineMs,
        signal: run.signal,
        headers: traceHeaders(span),
        timeoutError: () =>
          new AppError(
            "agent_timeout",
            `${provider} did not accept within ${String(settings.DYNAMOS_PROVIDER_ACCEPT_MS)} ms.`,
          ),
      })
      .catch((error: unknown) => {
        if (toAppError(error).code !== "not_found") throw error;
        throw offline(provider, error);
      }),
  );
  const { failure } = decodeJson(answer, CompositionAcknowledgement);
  if (failure !== undefined) throw fromFailure(failure);
}

function offline(provider: string, cause?: unknown): AppError {
  return new AppError("agent_offline", `The agent of ${provider} is not online.`, { cause });
}

/** Puts a provider's failure into the run, as the provider's own last frame. */
export async function failProvider(
  context: AgentContext,
  provider: string,
  requestId: string,
  returnAddress: string,
  failure: AppError,
  attempt: number,
): Promise<void> {
  const frame = create(FrameSchema, {
    provider,
    requestId,
    attempt,
    body: { case: "failure", value: toFailureMessage(failure) },
  });
  try {
    const message = { type: MESSAGE_TYPES.frame, body: toBinary(FrameSchema, frame) };
    await publishToRun(context.bus, returnAddress, message);
  } catch (error) {
    // The run that would take it has ended: its caller has an answer already.
    if (toAppError(error).code !== "not_found") throw error;
  }
}

/** Tells the data providers that nobody waits any more for the streams to this run (decision 22). */
async function tellProviders(
  context: AgentContext,
  { job, asked }: ProviderQuestion,
  returnAddress: string,
): Promise<void> {
  const { requestId, deadlineMs } = asked;
  const { job_name: jobName, data_providers: providers } = job.composition;
  const reason = toFailure(new AppError("cancelled", `${context.steward} ended the request.`));
  const body = encodeJson({ requestId, jobName, returnAddress, reason });
  await Promise.all(
    providers.map(async (provider) => {
      try {
        const message = { type: MESSAGE_TYPES.cancel, body, expiresAtMs: deadlineMs };
        await context.bus.publish(agentQueue(provider), message);
      } catch (error) {
        // Why the run ended is what counts; without a cancel, the provider ends when its rows find no queue any more.
        context.logger.warn({ error: toAppError(error), provider }, "a cancel could not be sent");
      }
    }),
  );
}
