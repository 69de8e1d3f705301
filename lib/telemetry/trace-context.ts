/** W3C trace context (https://www.w3.org/TR/trace-context/): parsed, made, and put into headers. */
import { randomBytes } from "node:crypto";

/** The position in a trace that goes from hop to hop. */
export interface TraceContext {
  /** `00-<32 hex trace id>-<16 hex parent span id>-<2 hex flags>`. */
  readonly traceparent: string;
  readonly tracestate?: string;
}

/** Header values by lower-case name; a list counts by its first entry. */
export type HeaderSource = Readonly<Record<string, string | readonly string[] | undefined>>;

/** Version 00 ends with the flags; what a later version adds begins with another dash (section 3.2.2). */
const TRACEPARENT = /^(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:$|(?<!^00.*)-)/;

/** A new, sampled trace. */
export function newTraceContext(): TraceContext {
  return newTrace("01");
}

/** A new trace that nobody records, for work that nobody asked for. */
export function unrecordedTraceContext(): TraceContext {
  return newTrace("00");
}

/** The context in headers, or undefined when there is none or it is malformed (then, as the standard says, a new trace begins). */
export function parseTraceContext(headers: HeaderSource): TraceContext | undefined {
  const traceparent = first(headers["traceparent"]);
  if (traceparent === undefined || !TRACEPARENT.test(traceparent)) return undefined;
  const tracestate = first(headers["tracestate"]);
  return tracestate === undefined || tracestate === "" ? { traceparent } : { traceparent, tracestate };
}

/** The headers of a context. */
export function traceHeaders(context: TraceContext): Record<string, string> {
  return context.tracestate === undefined
    ? { traceparent: context.traceparent }
    : { traceparent: context.traceparent, tracestate: context.tracestate };
}

/** The 32 hex digits that name the trace. */
export function traceIdOf(context: TraceContext): string {
  return context.traceparent.slice(3, 35);
}

function first(value: string | readonly string[] | undefined): string | undefined {
  return typeof value === "string" ? value : value?.[0];
}

function newTrace(flags: string): TraceContext {
  return { traceparent: `00-${randomBytes(16).toString("hex")}-${randomBytes(8).toString("hex")}-${flags}` };
}
