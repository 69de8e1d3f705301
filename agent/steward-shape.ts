/** The shape of a party's chain, from its composition and this steward's settings: what its containers have in their environment. */
import type { CompositionRequest } from "../lib/model/composition.ts";
import type { Microservice } from "../lib/model/microservice.ts";
import { makeChainShape, type ChainShape } from "./chains/chain-shape.ts";
import type { AgentContext } from "./context.ts";
import { packageProgram } from "./programs.ts";

/** The microservice that lets out only what the grants' operations and smallest groups allow. */
export const ENFORCING_SERVICE = "sql-algorithm";

/**
 * The shape of this party's chain for a composition.
 *
 * @throws AppError as `makeChainShape`.
 */
export function shapeOf(
  context: AgentContext,
  composition: CompositionRequest,
  chain: readonly Microservice[],
): ChainShape {
  return makeChainShape({
    steward: context.steward,
    composition,
    chain,
    memoryLimitMiB: context.settings.DYNAMOS_MEMORY_LIMIT_MIB,
    programOf: packageProgram,
    microserviceEnvironment: (microservice) => ({
      ...microserviceEnvironment(context, microservice),
      ...(mayPushDown(context, chain, microservice) ? { DYNAMOS_PUSHDOWN: "true" } : {}),
    }),
    sidecarEnvironment: sidecarEnvironment(context),
  });
}

/** Whether what this one sends is only aggregated: by sql-algorithm, with nothing before it but what leaves open columns alone. */
function mayPushDown(
  { settings }: AgentContext,
  chain: readonly Microservice[],
  { name, needs = [] }: Microservice,
): boolean {
  if (!settings.DYNAMOS_PUSHDOWN || !needs.includes("data")) return false;
  const place = chain.findIndex((microservice) => microservice.name === name);
  const next = chain.slice(place + 1).find((microservice) => microservice.name !== "sql-anonymize");
  return next?.name === ENFORCING_SERVICE;
}

/** What a microservice gets beyond its place in the chain: what belongs to data and keys only if its metadata say that it needs them. */
function microserviceEnvironment(context: AgentContext, { name, needs = [] }: Microservice): Record<string, string> {
  const { settings, keys } = context;
  return {
    DYNAMOS_GRANT_JWKS: JSON.stringify({ keys: [keys.publicGrantKey] }),
    ...(needs.includes("data")
      ? {
          DYNAMOS_WORLD_FOLDER: context.data.worldFolder,
          DYNAMOS_QUERY_TIME_LIMIT_MS: String(settings.DYNAMOS_QUERY_TIME_LIMIT_MS),
          DYNAMOS_QUERY_MAX_ROWS: String(settings.DYNAMOS_QUERY_MAX_ROWS),
          DYNAMOS_QUERY_MAX_BYTES: String(settings.DYNAMOS_QUERY_MAX_BYTES),
          DYNAMOS_QUERY_MEMORY_BYTES: String(settings.DYNAMOS_QUERY_MEMORY_BYTES),
          DYNAMOS_QUERY_TEMP_BYTES: String(settings.DYNAMOS_QUERY_TEMP_BYTES),
          DYNAMOS_WORLDS_MAX_BYTES: String(settings.DYNAMOS_WORLDS_MAX_BYTES),
          DYNAMOS_LOAD_TEMP_BYTES: String(settings.DYNAMOS_LOAD_TEMP_BYTES),
        }
      : {}),
    ...(name === ENFORCING_SERVICE ? { DYNAMOS_MEDIAN_TEMP_BYTES: String(settings.DYNAMOS_MEDIAN_TEMP_BYTES) } : {}),
    ...(needs.includes("anonymizationKey") ? { DYNAMOS_ANONYMIZATION_KEY_FILE: keys.anonymizationKeyFile } : {}),
    ...common(context),
  };
}

/** Of a request only its credits could be fewer: the sidecar makes room for the most, and hears of them with the request. */
function sidecarEnvironment(context: AgentContext): Record<string, string> {
  const { settings } = context;
  return {
    DYNAMOS_BUS: settings.DYNAMOS_CHAIN_BUS ?? settings.DYNAMOS_BUS,
    DYNAMOS_CREDITS: String(settings.DYNAMOS_CREDITS),
    DYNAMOS_STALL_TIMEOUT_MS: String(settings.DYNAMOS_STALL_TIMEOUT_MS),
    ...common(context),
  };
}

function common({ settings, telemetryEnvironment }: AgentContext): Record<string, string> {
  return { ...telemetryEnvironment, DYNAMOS_LOG_LEVEL: settings.DYNAMOS_LOG_LEVEL };
}
