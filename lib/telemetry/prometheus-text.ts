/**
 * Metrics in Prometheus' text format (https://prometheus.io/docs/instrumenting/exposition_formats/), named as OpenTelemetry's
 * specification says (https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/): `dynamos.chain.retries`
 * is `dynamos_chain_retries_total`, a duration in seconds ends with `_seconds`.
 */
import type { Attributes } from "@opentelemetry/api";
import type { MetricSnapshot } from "./metric-registry.ts";

/** The content type of {@link prometheusText}. */
export const PROMETHEUS_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8";

const UNIT_WORDS: Readonly<Record<string, string>> = { s: "seconds", ms: "milliseconds", By: "bytes" };

/** All metrics as one text. A counter without a figure yet is shown with 0, so that its first step is seen as one. */
export function prometheusText(metrics: readonly MetricSnapshot[]): string {
  return metrics.map((metric) => metricText(metric)).join("");
}

/** The name under which Prometheus has a metric. */
export function prometheusName({ name, unit, kind }: Pick<MetricSnapshot, "name" | "unit" | "kind">): string {
  const word = unit === "1" && kind === "gauge" ? "ratio" : UNIT_WORDS[unit];
  const base = name.replace(/[^A-Za-z0-9_]/g, "_");
  const withUnit = word === undefined || base.endsWith(`_${word}`) ? base : `${base}_${word}`;
  return kind === "counter" ? `${withUnit}_total` : withUnit;
}

function metricText(metric: MetricSnapshot): string {
  const name = prometheusName(metric);
  const type = metric.kind === "upDownCounter" ? "gauge" : metric.kind;
  const lines = [`# HELP ${name} ${escape(metric.description)}`, `# TYPE ${name} ${type}`, ...samples(name, metric)];
  return `${lines.join("\n")}\n`;
}

function samples(name: string, metric: MetricSnapshot): readonly string[] {
  if (metric.kind !== "histogram") {
    const isUntouched = metric.points.length === 0 && metric.kind !== "gauge";
    const points = isUntouched ? [{ attributes: {}, value: 0 }] : metric.points;
    return points.map(({ attributes, value }) => `${name}${labels(attributes)} ${String(value)}`);
  }
  return metric.points.flatMap(({ attributes, count, sum, bucketCounts }) => {
    let cumulative = 0;
    const buckets = bucketCounts.map((inBucket, index) => {
      cumulative += inBucket;
      const le = metric.bounds[index];
      return `${name}_bucket${labels({ ...attributes, le: le === undefined ? "+Inf" : String(le) })} ${String(cumulative)}`;
    });
    return [
      ...buckets,
      `${name}_sum${labels(attributes)} ${String(sum)}`,
      `${name}_count${labels(attributes)} ${String(count)}`,
    ];
  });
}

function labels(attributes: Attributes): string {
  const texts = Object.entries(attributes).map(
    ([name, value]) => `${name.replace(/[^A-Za-z0-9_]/g, "_")}="${escape(String(value)).replaceAll('"', '\\"')}"`,
  );
  return texts.length === 0 ? "" : `{${texts.join(",")}}`;
}

function escape(text: string): string {
  return text.replaceAll("\\", "\\\\").replaceAll("\n", "\\n");
}
