/** The sidecar's settings in a job, set by the job runner. */
import { Type, type Static } from "@sinclair/typebox";
import { loadSettings } from "../lib/config/env.ts";
import {
  ChainConcurrency,
  ChainStartMs,
  readSidecarEnvironment,
  type SidecarPosition,
} from "../lib/jobs/chain-environment.ts";
import type { TracingSettings } from "../lib/telemetry/tracing.ts";

/** See {@link loadSidecarSettings}. */
export interface SidecarSettings {
  readonly position: SidecarPosition;
  /** URL of the message bus; see `lib/bus/open.ts`. */
  readonly busUrl: string;
  /** Names the chain's queue too: the run's, or where the chain is persistent the job's. */
  readonly runName: string;
  /** Set where the chain is persistent. */
  readonly persistent?: PersistentSettings;
  /** Whether it was started ahead of its run's request. */
  readonly isWarm: boolean;
  /** Most chunks that one provider may have in flight. */
  readonly credits: number;
  /** How long the run's request may take to arrive. */
  readonly requestTimeoutMs: number;
  /** How long the chain's first microservice may take to listen. */
  readonly chainStartMs: number;
  /** How long the receiver of the result may take nothing before the run fails. */
  readonly stallTimeoutMs: number;
  readonly tracing: TracingSettings;
  readonly logLevel: string;
  readonly exitWithParent: boolean;
}

/** How a persistent chain serves. */
export interface PersistentSettings {
  /** Queue of the requests that it takes. */
  readonly workQueue: string;
  /** Runs at once. */
  readonly concurrency: number;
  readonly idleMs: number;
  readonly maxAgeMs: number;
}

/** Names are environment variables. `docs/configuration.md` lists them; a test compares. */
export const SidecarVariables = Type.Object({
  DYNAMOS_BUS: Type.String({ description: "URL of the message bus" }),
  DYNAMOS_RUN_NAME: Type.String({ description: "the run, whose name its queue has; of a persistent chain: its job" }),
  DYNAMOS_CHAIN_QUEUE: Type.Optional(
    Type.String({ description: "work queue that a persistent chain takes requests from; absent: it serves one run" }),
  ),
  DYNAMOS_CHAIN_CONCURRENCY: ChainConcurrency,
  DYNAMOS_CHAIN_IDLE_MS: Type.Integer({ default: 60_000, minimum: 1 }),
  DYNAMOS_CHAIN_MAX_AGE_MS: Type.Integer({ default: 3_600_000, minimum: 1 }),
  DYNAMOS_CREDITS: Type.Integer({ default: 1024, minimum: 1, description: "most chunks in flight per stream" }),
  DYNAMOS_CHAIN_WARM: Type.Boolean({
    default: false,
    description: "started ahead of its request: rehearses, and tells when the chain is ready",
  }),
  DYNAMOS_RUN_REQUEST_TIMEOUT_MS: Type.Integer({ default: 60_000, minimum: 1 }),
  DYNAMOS_CHAIN_START_MS: ChainStartMs,
  DYNAMOS_STALL_TIMEOUT_MS: Type.Integer({ default: 120_000, minimum: 1 }),
  DYNAMOS_LOG_LEVEL: Type.String({ default: "info" }),
  DYNAMOS_EXIT_WITH_PARENT: Type.Boolean({ default: false }),
  OTEL_EXPORTER_OTLP_ENDPOINT: Type.Optional(Type.String()),
});

/** Reads the environment. Fails with `configuration_invalid`. */
export function loadSidecarSettings(): SidecarSettings {
  const settings = loadSettings(SidecarVariables);
  const otlpEndpoint = settings.OTEL_EXPORTER_OTLP_ENDPOINT;
  return {
    position: readSidecarEnvironment(),
    busUrl: settings.DYNAMOS_BUS,
    runName: settings.DYNAMOS_RUN_NAME,
    ...persistentOf(settings),
    isWarm: settings.DYNAMOS_CHAIN_WARM,
    credits: settings.DYNAMOS_CREDITS,
    requestTimeoutMs: settings.DYNAMOS_RUN_REQUEST_TIMEOUT_MS,
    chainStartMs: settings.DYNAMOS_CHAIN_START_MS,
    stallTimeoutMs: settings.DYNAMOS_STALL_TIMEOUT_MS,
    tracing: otlpEndpoint === undefined ? {} : { otlpEndpoint },
    logLevel: settings.DYNAMOS_LOG_LEVEL,
    exitWithParent: settings.DYNAMOS_EXIT_WITH_PARENT,
  };
}

function persistentOf(settings: Static<typeof SidecarVariables>): Pick<SidecarSettings, "persistent"> {
  const workQueue = settings.DYNAMOS_CHAIN_QUEUE;
  if (workQueue === undefined) return {};
  return {
    persistent: {
      workQueue,
      concurrency: settings.DYNAMOS_CHAIN_CONCURRENCY,
      idleMs: settings.DYNAMOS_CHAIN_IDLE_MS,
      maxAgeMs: settings.DYNAMOS_CHAIN_MAX_AGE_MS,
    },
  };
}
