/** What a microservice reads from its environment at start. */
import { Type } from "@sinclair/typebox";
import type { JWK } from "jose";
import { loadSettings } from "../../lib/config/env.ts";
import { AppError } from "../../lib/errors.ts";
import {
  ChainConcurrency,
  ChainStartMs,
  readChainEnvironment,
  type MicroservicePosition,
} from "../../lib/jobs/chain-environment.ts";
import type { TracingSettings } from "../../lib/telemetry/tracing.ts";

/** See {@link loadChainSettings}. */
export interface ChainSettings {
  readonly position: MicroservicePosition;
  /** The public keys that this party's own grants are signed with. */
  readonly grantKeys: readonly JWK[];
  /** How long the next part of the chain may take to listen. */
  readonly chainStartMs: number;
  /** Runs at once; 1: the process serves one run in all. */
  readonly concurrency: number;
  /** Whether it was started ahead of its request. */
  readonly isWarm: boolean;
  readonly tracing: TracingSettings;
  readonly logLevel: string;
  readonly exitWithParent: boolean;
}

/** Names are environment variables. `docs/configuration.md` lists them; a test compares. */
export const ProgramSettings = Type.Object({
  DYNAMOS_GRANT_JWKS: Type.String({ description: 'JSON Web Key Set (RFC 7517) of this party\'s grants: {"keys":[…]}' }),
  DYNAMOS_CHAIN_START_MS: ChainStartMs,
  DYNAMOS_CHAIN_CONCURRENCY: ChainConcurrency,
  DYNAMOS_CHAIN_WARM: Type.Boolean({
    default: false,
    description: "started ahead of its request: rehearses before it listens",
  }),
  DYNAMOS_LOG_LEVEL: Type.String({ default: "info" }),
  DYNAMOS_EXIT_WITH_PARENT: Type.Boolean({ default: false }),
  OTEL_EXPORTER_OTLP_ENDPOINT: Type.Optional(Type.String()),
});

/** Reads the environment. Fails with `configuration_invalid`. */
export function loadChainSettings(): ChainSettings {
  const settings = loadSettings(ProgramSettings);
  const otlpEndpoint = settings.OTEL_EXPORTER_OTLP_ENDPOINT;
  return {
    position: readChainEnvironment(),
    chainStartMs: settings.DYNAMOS_CHAIN_START_MS,
    concurrency: settings.DYNAMOS_CHAIN_CONCURRENCY,
    isWarm: settings.DYNAMOS_CHAIN_WARM,
    grantKeys: parseKeySet(settings.DYNAMOS_GRANT_JWKS),
    tracing: otlpEndpoint === undefined ? {} : { otlpEndpoint },
    logLevel: settings.DYNAMOS_LOG_LEVEL,
    exitWithParent: settings.DYNAMOS_EXIT_WITH_PARENT,
  };
}

function parseKeySet(json: string): readonly JWK[] {
  let set: { readonly keys?: unknown } | null;
  try {
    set = JSON.parse(json) as typeof set;
  } catch (cause) {
    throw new AppError("configuration_invalid", "DYNAMOS_GRANT_JWKS is not JSON.", { cause });
  }
  if (Array.isArray(set?.keys)) return set.keys as JWK[];
  throw new AppError("configuration_invalid", 'DYNAMOS_GRANT_JWKS is no key set: it has no "keys".');
}
