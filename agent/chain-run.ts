/** From an allowed request to its running chain: the steps that a caller's request and a third party's request share. */
import { create } from "@bufbuild/protobuf";
import { generateChain } from "../lib/chain/chain.ts";
import { signGrant } from "../lib/grants.ts";
import { algorithmNames, checkOptions, isOptionOn, type DataRequest } from "../lib/model/data-request.ts";
import type { Grant } from "../lib/model/grant.ts";
import type { Microservice } from "../lib/model/microservice.ts";
import { makeRunName, makeRunNonce } from "../lib/model/names.ts";
import { optionalServiceKeys } from "../lib/model/request-type.ts";
import { toRequestMessage } from "../lib/rpc/data-request.ts";
import { RunRequestSchema, type RunRequest } from "../lib/rpc/gen/dynamos/v1/run_pb.ts";
import { AppError } from "../lib/errors.ts";
import { runReplyQueue } from "../lib/bus/queues.ts";
import { withSpan } from "../lib/telemetry/tracing.ts";
import type { TraceContext } from "../lib/telemetry/trace-context.ts";
import { noRawRows } from "./authorization.ts";
import type { AgentContext } from "./context.ts";
import { holdGrantedData, NO_DATA, type DataLocations } from "./granted-data.ts";
import { makeJobSpec } from "./job-spec.ts";
import type { RegisteredJob } from "./jobs.ts";
import { packageProgram } from "./programs.ts";
import { withAttempts } from "./runs/attempts.ts";
import { measureChain } from "./runs/chain-metrics.ts";
import { execute, type ExecutionEvent } from "./runs/execution.ts";

/** The microservice that lets out only what the grants' operations and smallest groups allow. */
const ENFORCING_SERVICE = "sql-algorithm";

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
  const chain = await chainOf(context, allowed);
  const needsData = chain.some(({ needs }) => needs?.includes("data"));
  const data = needsData ? await holdGrantedData(context, allowed.grant, signal) : NO_DATA;
  try {
    yield* runAttempts(context, allowed, chain, data.locations, signal);
  } catch (error) {
    throw error instanceof AppError ? error.withParty(context.steward) : error;
  } finally {
    await data.release();
  }
}

async function* runAttempts(
  context: AgentContext,
  allowed: AllowedRequest,
  chain: readonly Microservice[],
  dataLocations: DataLocations,
  signal: AbortSignal,
): AsyncGenerator<ExecutionEvent, void, undefined> {
  const { job, requestId } = allowed;
  const signedGrant = await signGrant(allowed.grant, context.keys.grantKey);
  yield* withAttempts(
    context.steward,
    allowed.firstAttempt,
    (attempt) => {
      const runName = makeRunName(job.composition.local_job_name, requestId, attempt, makeRunNonce());
      const spec = makeJobSpec({
        runName,
        steward: context.steward,
        instance: context.instance,
        composition: job.composition,
        chain,
        deadlineMs: allowed.grant.deadlineMs,
        memoryLimitMiB: context.settings.DYNAMOS_MEMORY_LIMIT_MIB,
        programOf: packageProgram,
        microserviceEnvironment: (microservice) => microserviceEnvironment(context, microservice, dataLocations),
        sidecarEnvironment: sidecarEnvironment(context, runName, allowed.credits),
      });
      const request = runRequest(context, allowed, { runName, attempt, signedGrant });
      const services = chain.map(({ name }) => name);
      context.logger.info({ dataRequest: requestId, attempt, services }, "a chain starts");
      const { onQueueReady } = allowed;
      return execute(
        context,
        {
          spec,
          request,
          trace: allowed.trace,
          ...(onQueueReady === undefined ? {} : { onQueueReady: (queue) => onQueueReady(queue, attempt) }),
        },
        signal,
      );
    },
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

/**
 * The chain of this party for this request.
 *
 * @throws AppError `chain_invalid`, `not_found` for an unknown request type, `operation_denied` where rows may not leave as
 * they are, and nothing in the plan's chains would hold them back.
 */
async function chainOf(context: AgentContext, allowed: AllowedRequest): Promise<readonly Microservice[]> {
  const { job, request, grant, trace } = allowed;
  const { composition } = job;
  return withSpan("chain", trace, { "dynamos.role": composition.role }, async () => {
    const [requestType, microservices, forced] = await Promise.all([
      context.knowledge.get("requestTypes", composition.request_type),
      context.knowledge.list("microservices"),
      context.knowledge.get("forcedServices", context.steward),
    ]);
    if (requestType === undefined)
      throw new AppError("not_found", `There is no request type "${composition.request_type}".`);
    checkOptions(request.options, Object.values(optionalServiceKeys(requestType.document)));
    const types = forced?.document.types ?? {};
    const input = {
      requestType: requestType.document,
      microservices: microservices.documents.map(({ document }) => document),
      archetype: composition.archetype_id,
      options: request.options,
    };
    const { services } = generateChain({
      ...input,
      role: composition.role,
      forced: Object.hasOwn(types, composition.request_type) ? (types[composition.request_type] ?? []) : [],
    });
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
    return services;
  });
}

/** What a microservice gets beyond its place in the chain: where data and keys are only if its metadata say that it needs them. */
function microserviceEnvironment(
  context: AgentContext,
  { needs = [] }: Microservice,
  dataLocations: DataLocations,
): Record<string, string> {
  const { settings, keys } = context;
  return {
    DYNAMOS_GRANT_JWKS: JSON.stringify({ keys: [keys.publicGrantKey] }),
    ...(needs.includes("data")
      ? {
          DYNAMOS_DATA: JSON.stringify(dataLocations),
          DYNAMOS_WORLD_FOLDER: context.data.worldFolder,
          DYNAMOS_QUERY_TIME_LIMIT_MS: String(settings.DYNAMOS_QUERY_TIME_LIMIT_MS),
          DYNAMOS_QUERY_MAX_ROWS: String(settings.DYNAMOS_QUERY_MAX_ROWS),
          DYNAMOS_QUERY_MAX_BYTES: String(settings.DYNAMOS_QUERY_MAX_BYTES),
          DYNAMOS_QUERY_MEMORY_BYTES: String(settings.DYNAMOS_QUERY_MEMORY_BYTES),
          DYNAMOS_QUERY_TEMP_BYTES: String(settings.DYNAMOS_QUERY_TEMP_BYTES),
        }
      : {}),
    ...(needs.includes("anonymizationKey") ? { DYNAMOS_ANONYMIZATION_KEY_FILE: keys.anonymizationKeyFile } : {}),
    ...common(context),
  };
}

function sidecarEnvironment(context: AgentContext, runName: string, credits: number): Record<string, string> {
  return {
    DYNAMOS_BUS: context.settings.DYNAMOS_CHAIN_BUS ?? context.settings.DYNAMOS_BUS,
    DYNAMOS_RUN_NAME: runName,
    DYNAMOS_CREDITS: String(credits),
    DYNAMOS_STALL_TIMEOUT_MS: String(context.settings.DYNAMOS_STALL_TIMEOUT_MS),
    ...common(context),
  };
}

function common({ settings, telemetryEnvironment }: AgentContext): Record<string, string> {
  return { ...telemetryEnvironment, DYNAMOS_LOG_LEVEL: settings.DYNAMOS_LOG_LEVEL };
}

function runRequest(
  context: AgentContext,
  allowed: AllowedRequest,
  run: { readonly runName: string; readonly attempt: number; readonly signedGrant: string },
): RunRequest {
  const { composition } = allowed.job;
  const reply = runReplyQueue(run.runName);
  return create(RunRequestSchema, {
    requestId: allowed.requestId,
    attempt: run.attempt,
    steward: context.steward,
    jobName: composition.job_name,
    request: toRequestMessage(allowed.request),
    grant: run.signedGrant,
    returnAddress: allowed.returnAddress ?? reply,
    reportAddress: reply,
    dataProviders: composition.role === "computeProvider" ? composition.data_providers : [],
    deadlineMs: BigInt(allowed.grant.deadlineMs),
    credits: allowed.credits,
    allowPartial: isOptionOn(allowed.request.options, "allowPartial"),
    ...allowed.trace,
  });
}

/** Algorithms that a request names; none where it asks for rows. */
export function algorithmsOf(request: DataRequest): readonly string[] {
  return algorithmNames(request.algorithm);
}
