/** The orchestrator's settings. `docs/configuration.md` lists them; a test compares. */
import { Type, type Static } from "@sinclair/typebox";
import { MetricsSetting } from "../lib/telemetry/metrics.ts";
import { TlsSettings } from "../lib/tls/settings.ts";

/** Names are environment variables. */
export const OrchestratorSettings = Type.Object({
  DYNAMOS_STORE: Type.String({ description: "knowledge store, for example sqlite:/path/store.db" }),
  DYNAMOS_BUS: Type.String({ description: "message bus, for example embedded:/path/bus.db" }),
  DYNAMOS_STATE_FOLDER: Type.String({ description: "folder for the signing key, the admin key and kept answers" }),
  DYNAMOS_SEED_FOLDER: Type.Optional(
    Type.String({ description: "folder of documents that an empty knowledge store is filled from" }),
  ),
  DYNAMOS_HOST: Type.String({ default: "127.0.0.1", description: "address to listen on" }),
  DYNAMOS_PORT: Type.Integer({
    default: 0,
    minimum: 0,
    maximum: 65535,
    description: "port to listen on; 0: any free one",
  }),
  DYNAMOS_INSTANCE_URL: Type.Optional(
    Type.String({ description: "base URL that other replicas reach this very instance at; absent: host and port" }),
  ),
  ...TlsSettings,
  DYNAMOS_ONLINE_LEASE_MS: Type.Integer({
    default: 5_000,
    minimum: 1000,
    description: "how soon other replicas take over what a dead one had begun",
  }),
  DYNAMOS_MAX_BODY_BYTES: Type.Integer({ default: 1024 * 1024, minimum: 1024, description: "largest request body" }),
  DYNAMOS_JOB_LEASE_MS: Type.Integer({
    default: 600_000,
    minimum: 1000,
    description: "how long an approval lives without use",
  }),
  DYNAMOS_COMPOSITION_TIMEOUT_MS: Type.Integer({
    default: 5_000,
    minimum: 100,
    description: "how long an agent may take to acknowledge a composition",
  }),
  DYNAMOS_REQUEST_DEADLINE_MS: Type.Integer({
    default: 600_000,
    minimum: 1000,
    maximum: 1_440_000,
    description: "longest time for one data request",
  }),
  DYNAMOS_MAX_POOLED_ANSWER_BYTES: Type.Integer({
    default: 16 * 1024 * 1024,
    minimum: 1024,
    description: "largest answer of one agent that is pooled",
  }),
  DYNAMOS_MAX_GATHERED_REQUESTS: Type.Integer({
    default: 64,
    minimum: 1,
    description: "requests with an algorithm that are gathered at once; more get 429",
  }),
  DYNAMOS_MAX_KEPT_ANSWER_BYTES: Type.Integer({
    default: 256 * 1024 * 1024,
    minimum: 1024,
    description: "largest answer of an asynchronous request",
  }),
  DYNAMOS_KEPT_ANSWER_MS: Type.Integer({
    default: 3_600_000,
    minimum: 1000,
    description: "how long the answer of an asynchronous request is kept",
  }),
  DYNAMOS_KEPT_ANSWERS_TOTAL_BYTES: Type.Integer({
    default: 1024 * 1024 * 1024,
    minimum: 1024,
    description: "all kept answers together; those that ended first make room",
  }),
  DYNAMOS_MAX_ASYNC_REQUESTS: Type.Integer({
    default: 32,
    minimum: 1,
    description: "asynchronous requests that run at once; more get 429",
  }),
  DYNAMOS_DRAIN_MS: Type.Integer({
    default: 10_000,
    minimum: 0,
    description: "how long answers may go on after the orchestrator was told to stop",
  }),
  DYNAMOS_METRICS: MetricsSetting,
  DYNAMOS_LOG_LEVEL: Type.String({ default: "info", description: "fatal, error, warn, info, debug or trace" }),
  DYNAMOS_EXIT_WITH_PARENT: Type.Boolean({ default: false, description: "stop when standard input closes" }),
  OTEL_EXPORTER_OTLP_ENDPOINT: Type.Optional(Type.String({ description: "OpenTelemetry collector; absent: no spans" })),
});
export type OrchestratorSettings = Static<typeof OrchestratorSettings>;
