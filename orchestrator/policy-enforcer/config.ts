/** The policy enforcer's settings. `docs/configuration.md` lists them; a test compares. */
import { Type, type Static } from "@sinclair/typebox";
import { MetricsSetting } from "../../lib/telemetry/metrics.ts";

/** Names are environment variables. */
export const PolicyEnforcerSettings = Type.Object({
  DYNAMOS_STORE: Type.String({ description: "knowledge store, for example sqlite:/path/store.db" }),
  DYNAMOS_BUS: Type.String({ description: "message bus, for example embedded:/path/bus.db" }),
  DYNAMOS_HOST: Type.String({ default: "127.0.0.1", description: "address to listen on, for health and readiness" }),
  DYNAMOS_PORT: Type.Integer({
    default: 0,
    minimum: 0,
    maximum: 65535,
    description: "port to listen on; 0: any free one",
  }),
  DYNAMOS_METRICS: MetricsSetting,
  DYNAMOS_LOG_LEVEL: Type.String({ default: "info", description: "fatal, error, warn, info, debug or trace" }),
  DYNAMOS_EXIT_WITH_PARENT: Type.Boolean({ default: false, description: "stop when standard input closes" }),
  OTEL_EXPORTER_OTLP_ENDPOINT: Type.Optional(Type.String({ description: "OpenTelemetry collector; absent: no spans" })),
});
export type PolicyEnforcerSettings = Static<typeof PolicyEnforcerSettings>;
