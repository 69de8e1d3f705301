import assert from "node:assert/strict";
import { test } from "node:test";
import { telemetryEnvironment } from "../../../lib/config/env.ts";

test("the OpenTelemetry variables are passed on, but for the name of the process itself", () => {
  const environment = {
    OTEL_EXPORTER_OTLP_ENDPOINT: "http://127.0.0.1:4318",
    OTEL_TRACES_SAMPLER: "parentbased_traceidratio",
    OTEL_SERVICE_NAME: "agent-VU",
    OTEL_EXPORTER_OTLP_HEADERS: "authorization=secret",
    PATH: "/bin",
    NOT_OTEL_: "x",
  };
  assert.deepEqual(telemetryEnvironment(environment), {
    OTEL_EXPORTER_OTLP_ENDPOINT: "http://127.0.0.1:4318",
    OTEL_TRACES_SAMPLER: "parentbased_traceidratio",
  });
});
