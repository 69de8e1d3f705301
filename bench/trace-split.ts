/**
 * Where the time of a request goes, from its trace: start-up until the query's microservice begins, processing until the last row
 * has left the query, transfer until the caller has the last byte. Rows flow while they are made, so processing includes what
 * the rest of the chain does meanwhile.
 */
import { randomBytes } from "node:crypto";
import { eventually } from "../test/support/eventually.ts";
import type { CollectedSpan, TraceCollector } from "../test/support/trace-collector.ts";

/** Milliseconds. */
export interface Split {
  /** Of the traced request itself, which is slower than one without spans: the sum of the parts. */
  readonly totalMs: number;
  readonly startUpMs: number;
  readonly processingMs: number;
  readonly transferMs: number;
}

const QUERY = "sql-query";
const SPANS_MS = 15_000;

/** Makes a request under a trace of its own, and splits its time. */
export async function splitByTrace(
  collector: TraceCollector,
  work: (headers: Readonly<Record<string, string>>) => Promise<unknown>,
): Promise<Split> {
  const traceId = randomBytes(16).toString("hex");
  const traceparent = `00-${traceId}-${randomBytes(8).toString("hex")}-01`;
  const sentMs = epochMs();
  await work({ traceparent });
  const answeredMs = epochMs();
  const queries = await eventually(
    () => {
      const found = collector.spans.filter((span) => span.traceId === traceId && span.name === QUERY);
      return found.length > 0 ? found : undefined;
    },
    { timeoutMs: SPANS_MS, intervalMs: 20, describe: `the span of ${QUERY}` },
  );
  return split(sentMs, answeredMs, queries);
}

/** Pure. Clocks of one machine differ by less than a millisecond; no part is counted below 0. */
export function split(
  sentMs: number,
  answeredMs: number,
  queries: readonly Pick<CollectedSpan, "startMs" | "endMs">[],
): Split {
  const within = (ms: number): number => Math.min(answeredMs, Math.max(sentMs, ms));
  const begunMs = within(Math.min(...queries.map(({ startMs }) => startMs)));
  const doneMs = within(Math.max(...queries.map(({ endMs }) => endMs)));
  return {
    totalMs: answeredMs - sentMs,
    startUpMs: begunMs - sentMs,
    processingMs: doneMs - begunMs,
    transferMs: answeredMs - doneMs,
  };
}

function epochMs(): number {
  return performance.timeOrigin + performance.now();
}
