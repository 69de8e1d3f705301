/** From an allowed request to its running chain: the steps that a caller's request and a third party's request share. */
import { create } from "@bufbuild/protobuf";
import { generateChain, type ChainInput } from "../lib/chain/chain.ts";
import { signGrant } from "../lib/grants.ts";
import { algorithmNames, checkOptions, isOptionOn, type DataRequest } from "../lib/model/data-request.ts";
import type { ChainLifetime } from "../lib/model/chain-lifetime.ts";
import type { CompositionRequest } from "../lib/model/composition.ts";
import type { Grant } from "../lib/model/grant.ts";
import type { Microservice } from "../lib/model/microservice.ts";
import { makeRunName, makeRunNonce } from "../lib/model/names.ts";
import { optionalServiceKeys } from "../lib/model/request-type.ts";
import { chooseChainLifetime } from "../lib/policy/chain-lifetime.ts";
import { toRequestMessage } from "../lib/rpc/data-request.ts";
import { RunRequestSchema, type RunRequest } from "../lib/rpc/gen/dynamos/v1/run_pb.ts";
import { AppError } from "../lib/errors.ts";
import { withSpan } from "../lib/telemetry/tracing.ts";
import type { TraceContext } from "../lib/telemetry/trace-context.ts";
import { noRawRows } from "./authorization.ts";
import type { ChainShape } from "./chains/chain-shape.ts";
import { runOnClaimedChain } from "./chains/claims.ts";
import type { AgentContext } from "./context.ts";
import { holdGrantedData, NO_DATA, type DataLocations } from "./granted-data.ts";
import type { RegisteredJob } from "./jobs.ts";
import { withAttempts } from "./runs/attempts.ts";
import { measureChain } from "./runs/chain-metrics.ts";
import type { ExecutionEvent } from "./runs/execution.ts";
import { ENFORCING_SERVICE, shapeOf } from "./steward-shape.ts";

/** A request that may run. */
export interface AllowedRequest {
  readonly job: RegisteredJob;
  readonly grant: Grant;
  readonly request: DataRequest;
  readonly requestId: string;
  readonly trace: TraceContext;
  /** Where frames go; absent: to this agent, which hands them to its caller. */
  readonly returnAddress?: string;
  readonly credits: number;
  readonly firstAttempt: number;
  /** A third party asks its data providers here, once the run queue of the attempt stands. */
  readonly onQueueReady?: (runQueue: string, attempt: number) => Promise<void>;
}

/**
 * Runs the chain of this party for a request, with a retry where one is allowed.
 *
 * @throws AppError what went wrong, naming this party where no other is named.
 */
export async function* runChain(
  context: AgentContext,
  allowed: AllowedRequest,
  signal: AbortSignal,
): AsyncGenerator<ExecutionEvent, void, undefined> {
  yield* measureChain(allowed.job.composition, context.clock, runPrepared(context, allowed, signal));
}

async function* runPrepared(
  context: AgentContext,
  allowed: AllowedRequest,
  signal: AbortSignal,
): AsyncGenerator<ExecutionEvent, void, undefined> {
  const [{ chain, lifetime }, signedGrant] = await Promise.all([
    chainOf(context, allowed),
    signGrant(allowed.grant, context.keys.grantKey),
  ]);
  const needsData = chain.some(({ needs }) => needs?.includes("data"));
  const data = needsData ? await holdGrantedData(context, allowed.grant, signal) : NO_DATA;
  try {
    const shape = shapeOf(context, allowed.job.composition, chain);
    const prepared = { shape, lifetime, data: data.locations, signedGrant };
    yield* runAttempts(context, allowed, prepared, signal);
  } catch (error) {
    throw error instanceof AppError ? error.withParty(context.steward) : error;
  } finally {
    await data.release();
  }
}

/** What all attempts share. */
interface PreparedRequest {
  readonly shape: ChainShape;
  readonly lifetime: ChainLifetime;
  readonly data: DataLocations;
  readonly signedGrant: string;
}

async function* runAttempts(
  context: AgentContext,
  allowed: AllowedRequest,
  prepared: PreparedRequest,
  signal: AbortSignal,
): AsyncGenerator<ExecutionEvent, void, undefined> {
  const { requestId } = allowed;
  yield* withAttempts(
    context.steward,
    allowed.firstAttempt,
    (attempt) => runAttempt(context, allowed, prepared, attempt, signal),
    signal,
    (failed, nextAttempt) => {
      context.metrics.chainRetries.add(1, { code: failed.code });
      context.logger.warn(
        { dataRequest: requestId, code: failed.code, nextAttempt, container: failed.details["container"] },
        "trying again",
      );
    },
  );
}

function runAttempt(
  context: AgentContext,
  allowed: AllowedRequest,
  prepared: PreparedRequest,
  attempt: number,
  signal: AbortSignal,
): AsyncIterable<ExecutionEvent> {
  const { job, requestId, grant, onQueueReady, trace } = allowed;
  const { shape, lifetime } = prepared;
  return runOnClaimedChain(
    { ...context, afterwards: (work) => context.live.afterwards(work) },
    {
      shape,
      lifetime,
      runName: makeRunName(job.composition.local_job_name, requestId, attempt, makeRunNonce()),
      deadlineMs: grant.deadlineMs,
      trace,
      request: (replyQueue) => runRequest(context, allowed, prepared, { attempt, replyQueue }),
      ...(onQueueReady === undefined ? {} : { onQueueReady: (queue) => onQueueReady(queue, attempt) }),
    },
    signal,
  );
}

/**
 * Has chains started ahead for a composition whose requests are still to come, as far as they can be told: for requests without
 * options.
 */
export async function expectChain(context: AgentContext, composition: CompositionRequest): Promise<void> {
  if (context.settings.DYNAMOS_WARM_CHAINS === 0) return;
  const { services, lifetime } = await generatedChain(context, composition, undefined);
  if (lifetime === "perRequest") context.warm.expect(shapeOf(context, composition, services));
}

/**
 * The chain of this party for this request, and how long it lives.
 *
 * @throws AppError `chain_invalid`, `not_found` for an unknown request type, `operation_denied` where rows may not leave as
 * they are, and nothing in the plan's chains would hold them back.
 */
async function chainOf(
  context: AgentContext,
  allowed: AllowedRequest,
): Promise<{ readonly chain: readonly Microservice[]; readonly lifetime: ChainLifetime }> {
  const { job, request, grant, trace } = allowed;
  const { composition } = job;
  return withSpan("chain", trace, { "dynamos.role": composition.role }, async () => {
    const { services, lifetime, input } = await generatedChain(context, composition, request.options);
    if (!grant.rawRows) {
      // A data provider's rows are held back where they are computed over: in the third party's chain, which is made alike.
      const computing =
        composition.role === "dataProvider" ? generateChain({ ...input, role: "computeProvider" }).services : services;
      if (!computing.some(({ name }) => name === ENFORCING_SERVICE)) {
        throw noRawRows(
          context,
          `the chains of request type "${composition.request_type}" have no ${ENFORCING_SERVICE}`,
        );
      }
    }
    return { chain: services, lifetime };
  });
}

/** A chain for these options, how long it lives, and what it was made from without role and forced services. */
async function generatedChain(
  context: AgentContext,
  composition: CompositionRequest,
  options: DataRequest["options"],
): Promise<{
  readonly services: readonly Microservice[];
  readonly lifetime: ChainLifetime;
  readonly input: Omit<ChainInput, "role" | "forced">;
}> {
  const [requestType, microservices, forced, agreement] = await Promise.all([
    context.knowledge.get("requestTypes", composition.request_type),
    context.knowledge.list("microservices"),
    context.knowledge.get("forcedServices", context.steward),
    context.knowledge.get("agreements", context.steward),
  ]);
  if (requestType === undefined)
    throw new AppError("not_found", `There is no request type "${composition.request_type}".`);
  checkOptions(options, Object.values(optionalServiceKeys(requestType.document)));
  const types = forced?.document.types ?? {};
  const input = {
    requestType: requestType.document,
    microservices: microservices.documents.map(({ document }) => document),
    archetype: composition.archetype_id,
    options,
  };
  const { services } = generateChain({
    ...input,
    role: composition.role,
    forced: Object.hasOwn(types, composition.request_type) ? (types[composition.request_type] ?? []) : [],
  });
  const lifetime = chooseChainLifetime({
    agreement: agreement?.document,
    userName: composition.user.userName,
    configured: context.settings.DYNAMOS_CHAIN_LIFETIME,
    requestType: requestType.document,
  });
  return { services, lifetime, input };
}

function runRequest(
  context: AgentContext,
  allowed: AllowedRequest,
  { signedGrant, data, lifetime }: PreparedRequest,
  { attempt, replyQueue }: { readonly attempt: number; readonly replyQueue: string },
): RunRequest {
  const { composition } = allowed.job;
  return create(RunRequestSchema, {
    requestId: allowed.requestId,
    attempt,
    steward: context.steward,
    jobName: composition.job_name,
    request: toRequestMessage(allowed.request),
    grant: signedGrant,
    returnAddress: allowed.returnAddress ?? replyQueue,
    reportAddress: replyQueue,
    dataProviders: composition.role === "computeProvider" ? composition.data_providers : [],
    deadlineMs: BigInt(allowed.grant.deadlineMs),
    credits: allowed.credits,
    allowPartial: isOptionOn(allowed.request.options, "allowPartial"),
    data,
    // One that serves this attempt alone ends with its report.
    endIsEnough: lifetime === "persistent" && allowed.returnAddress === undefined,
    takesFollowing: allowed.returnAddress === undefined,
    ...allowed.trace,
  });
}

/** Algorithms that a request names; none where it asks for rows. */
export function algorithmsOf(request: DataRequest): readonly string[] {
  return algorithmNames(request.algorithm);
}
