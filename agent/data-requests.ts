/**
 * The data request, from the caller's token to the frames of the answer. Reads top to bottom: who is it and for which job, what
 * does the agreement allow now, is there room, run the chain; at a third party also: ask the data providers.
 */
import { create, toBinary } from "@bufbuild/protobuf";
import { MESSAGE_TYPES } from "../lib/bus/message-types.ts";
import { decodeJson, encodeJson } from "../lib/bus/json.ts";
import { agentQueue } from "../lib/bus/queues.ts";
import { AppError, fromFailure, toAppError } from "../lib/errors.ts";
import { CompositionAcknowledgement, type ProviderDataRequest } from "../lib/messages.ts";
import type { DataRequest } from "../lib/model/data-request.ts";
import { toFailureMessage } from "../lib/rpc/frames.ts";
import { FrameSchema, type Frame } from "../lib/rpc/gen/dynamos/v1/stream_pb.ts";
import { withSpan } from "../lib/telemetry/tracing.ts";
import { traceHeaders, type TraceContext } from "../lib/telemetry/trace-context.ts";
import { evaluateGrant, findJob, type Caller } from "./authorization.ts";
import { algorithmsOf, runChain } from "./chain-run.ts";
import type { AgentContext } from "./context.ts";
import type { RegisteredJob } from "./jobs.ts";

/** A caller's question. */
export interface CallerRequest {
  readonly caller: Caller;
  readonly request: DataRequest;
  readonly requestId: string;
  readonly trace: TraceContext;
}

/**
 * The job that a caller's request belongs to, if this party answers it.
 *
 * @throws AppError as `findJob`, and `job_moved` when this party only provides data in the job's plan.
 */
export async function findAnsweredJob(
  context: AgentContext,
  { caller, request }: CallerRequest,
): Promise<RegisteredJob> {
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
 * Answers a caller's request with the frames of the result.
 *
 * @throws AppError what refused or failed, naming the party.
 */
export async function* answerRequest(
  context: AgentContext,
  job: RegisteredJob,
  asked: CallerRequest,
  signal: AbortSignal,
): AsyncGenerator<Frame, void, undefined> {
  const { caller, request, requestId } = asked;
  const deadlineMs = context.clock.now() + context.settings.DYNAMOS_REQUEST_DEADLINE_MS;
  const algorithms = algorithmsOf(request);
  const grant = await evaluateGrant(context, caller, job, { requestId, deadlineMs, algorithms });
  const isThirdParty = job.composition.role === "computeProvider";
  const run = context.live.enter(requestId, job.composition.job_name, signal);
  const slot = await context.admission[isThirdParty ? "computing" : "reading"]
    .enter(caller.claims.sub, run.signal)
    .catch((error: unknown) => {
      run.close();
      throw error;
    });
  const asking = new AbortController();
  try {
    const events = runChain(
      context,
      {
        job,
        grant,
        request,
        requestId,
        trace: asked.trace,
        credits: context.settings.DYNAMOS_CREDITS,
        firstAttempt: 1,
        ...(isThirdParty
          ? {
              onQueueReady: async (runQueue: string, attempt: number) => {
                void askProviders(context, job, asked, { runQueue, attempt, deadlineMs, signal: asking.signal });
              },
            }
          : {}),
      },
      run.signal,
    );
    for await (const event of events) if (event.kind === "frame") yield event.frame;
  } catch (error) {
    if (isThirdParty) await tellProviders(context, job, requestId, toAppError(error));
    throw error;
  } finally {
    asking.abort();
    slot.release();
    run.close();
  }
}

/** Asks every data provider of the plan for its stream; a refusal or silence goes into the run as that provider's failure. */
async function askProviders(
  context: AgentContext,
  job: RegisteredJob,
  asked: CallerRequest,
  run: {
    readonly runQueue: string;
    readonly attempt: number;
    readonly deadlineMs: number;
    readonly signal: AbortSignal;
  },
): Promise<void> {
  await Promise.all(
    job.composition.data_providers.map(async (provider) => {
      try {
        await askProvider(context, provider, asked, run);
      } catch (error) {
        if (run.signal.aborted) return;
        await failProvider(context, provider, asked.requestId, run.runQueue, toAppError(error).withParty(provider));
      }
    }),
  );
}

async function askProvider(
  context: AgentContext,
  provider: string,
  asked: CallerRequest,
  run: { readonly runQueue: string; readonly deadlineMs: number; readonly signal: AbortSignal },
): Promise<void> {
  const { settings } = context;
  const message: ProviderDataRequest = {
    requestId: asked.requestId,
    jobName: asked.caller.claims.job,
    user: { id: asked.caller.claims.uid, userName: asked.caller.claims.sub },
    accessToken: asked.caller.accessToken,
    request: asked.request,
    computeProvider: context.steward,
    returnAddress: run.runQueue,
    credits: settings.DYNAMOS_CREDITS,
    deadlineMs: run.deadlineMs,
  };
  const answer = await withSpan("ask data provider", asked.trace, { "dynamos.provider": provider }, (span) =>
    context.rpc
      .call(agentQueue(provider), MESSAGE_TYPES.sqlDataRequest, encodeJson(message), {
        timeoutMs: settings.DYNAMOS_PROVIDER_ACCEPT_MS,
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
        throw new AppError("agent_offline", `The agent of ${provider} is not online.`, { cause: error });
      }),
  );
  const { failure } = decodeJson(answer, CompositionAcknowledgement);
  if (failure !== undefined) throw fromFailure(failure);
}

/** Puts a provider's failure into the run, as the provider's own last frame. */
export async function failProvider(
  context: AgentContext,
  provider: string,
  requestId: string,
  returnAddress: string,
  failure: AppError,
  attempt = 1,
): Promise<void> {
  const frame = create(FrameSchema, {
    provider,
    requestId,
    attempt,
    body: { case: "failure", value: toFailureMessage(failure) },
  });
  try {
    await context.bus.publish(returnAddress, { type: MESSAGE_TYPES.frame, body: toBinary(FrameSchema, frame) });
  } catch (error) {
    // The run that would take it has ended: its caller has an answer already.
    if (toAppError(error).code !== "not_found") throw error;
  }
}

/** Tells the data providers that nobody waits any more (decision 22). */
async function tellProviders(
  context: AgentContext,
  job: RegisteredJob,
  requestId: string,
  reason: AppError,
): Promise<void> {
  const message = {
    requestId,
    reason: { code: "cancelled", detail: `${context.steward} ended the request: ${reason.code}.`, retryable: false },
  };
  await Promise.all(
    job.composition.data_providers.map(async (provider) => {
      try {
        await context.bus.publish(agentQueue(provider), { type: MESSAGE_TYPES.cancel, body: encodeJson(message) });
      } catch (error) {
        if (toAppError(error).code !== "not_found")
          context.logger.error({ error, provider }, "could not send a cancel");
      }
    }),
  );
}
