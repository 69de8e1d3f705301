/**
 * OpenTelemetry: spans hang on the trace context that travels by hand through HTTP, bus and gRPC. The SDK takes a second to
 * load, so it is loaded only where an exporter is set; without it the context still travels, unchanged.
 */
import { ROOT_CONTEXT, SpanStatusCode, trace, TraceFlags, type SpanContext } from "@opentelemetry/api";
import { toAppError } from "../errors.ts";
import { newTraceContext, type TraceContext } from "./trace-context.ts";

/** The standard OpenTelemetry variables that decide; the SDK reads the others itself. */
export interface TracingSettings {
  /** `OTEL_EXPORTER_OTLP_ENDPOINT`, for example `http://127.0.0.1:4318`. Absent: no spans are made. */
  readonly otlpEndpoint?: string;
}

/**
 * Starts the SDK if an endpoint is set.
 *
 * @param service the `service.name` of every span.
 * @returns what sends the rest and stops it.
 */
export async function startTracing(service: string, settings: TracingSettings): Promise<() => Promise<void>> {
  if (settings.otlpEndpoint === undefined) return async () => {};
  const [{ NodeSDK }, { OTLPTraceExporter }] = await Promise.all([
    import("@opentelemetry/sdk-node"),
    import("@opentelemetry/exporter-trace-otlp-http"),
  ]);
  const sdk = new NodeSDK({
    serviceName: service,
    traceExporter: new OTLPTraceExporter({ url: `${settings.otlpEndpoint.replace(/\/$/, "")}/v1/traces` }),
    autoDetectResources: false,
    // Otherwise the SDK would also push metrics; they are scraped (docs/decisions/0011).
    metricReaders: [],
  });
  sdk.start();
  return () => sdk.shutdown();
}

/**
 * Does work inside a span.
 *
 * @param parent the context that came in; absent: a new trace begins.
 * @param attributes `dynamos.…` names; no personal data.
 * @param work gets the context that goes on to the next hop.
 */
export async function withSpan<Result>(
  name: string,
  parent: TraceContext | undefined,
  attributes: Readonly<Record<string, string | number>>,
  work: (span: TraceContext) => Promise<Result>,
): Promise<Result> {
  const incoming = parent ?? newTraceContext();
  const span = trace
    .getTracer("dynamos")
    .startSpan(name, { attributes }, trace.setSpanContext(ROOT_CONTEXT, toSpanContext(incoming)));
  try {
    return await work(fromSpanContext(span.spanContext(), incoming));
  } catch (error) {
    span.setStatus({ code: SpanStatusCode.ERROR, message: toAppError(error).code });
    throw error;
  } finally {
    span.end();
  }
}

function toSpanContext(context: TraceContext): SpanContext {
  const [, traceId = "", spanId = "", flags = "01"] = context.traceparent.split("-");
  return { traceId, spanId, traceFlags: Number.parseInt(flags, 16) & TraceFlags.SAMPLED, isRemote: true };
}

function fromSpanContext(span: SpanContext, incoming: TraceContext): TraceContext {
  const flags = (span.traceFlags & TraceFlags.SAMPLED).toString(16).padStart(2, "0");
  const traceparent = `00-${span.traceId}-${span.spanId}-${flags}`;
  return incoming.tracestate === undefined ? { traceparent } : { traceparent, tracestate: incoming.tracestate };
}
