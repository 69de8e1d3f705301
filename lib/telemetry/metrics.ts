/**
 * Metrics: everybody makes instruments with the OpenTelemetry API (`metrics.getMeter("dynamos")`); a long-running program
 * calls {@link startMetrics} before it opens anything, and offers what was measured at `GET /metrics` in Prometheus' text
 * format. Without that call (in chains, in commands, in tests) instruments do nothing and cost nothing.
 *
 * Labels are bounded: routes, status codes, error codes, names of service queues. Never a user, a job, a query, a run queue.
 * `docs/operations.md` lists all metrics; a test compares.
 */
import { metrics, type Meter } from "@opentelemetry/api";
import { Type, type Static } from "@sinclair/typebox";
import type { ReleaseStack } from "../lifecycle.ts";
import { MetricRegistry } from "./metric-registry.ts";
import { observeProcess } from "./process-metrics.ts";
import { PROMETHEUS_CONTENT_TYPE, prometheusText } from "./prometheus-text.ts";

/** The one meter of this system. To be asked for when an instrument is made, not at import: before the start it is a dummy. */
export function dynamosMeter(): Meter {
  return metrics.getMeter("dynamos");
}

/** The setting of every program that offers metrics. */
export const MetricsSetting = Type.Union([Type.Literal("on"), Type.Literal("off")], {
  default: "on",
  description: "take metrics and offer them at /metrics: on or off",
});

/** What the programs' settings say of metrics. */
export interface MetricsSettings {
  readonly DYNAMOS_METRICS: Static<typeof MetricsSetting>;
}

/** Metrics that are being taken. */
export interface RunningMetrics {
  /** Content type of {@link RunningMetrics.scrape}'s text. */
  readonly contentType: string;
  /**
   * All metrics now, in Prometheus' text format. What cannot be observed within 2 s (a queue of a bus that is away) is left
   * out.
   */
  scrape(): Promise<string>;
}

/** Where the release goes that ends the taking. */
type Releases = Pick<ReleaseStack, "push">;

/** Prometheus gives a scrape up after 10 s unless told otherwise. */
const OBSERVE_LIMIT_MS = 2_000;

/**
 * Starts to take metrics in this process; undefined where the settings turn them off. Parts that share a process (in tests)
 * share their metrics.
 */
export function startMetrics(settings: MetricsSettings, releases: Releases): RunningMetrics | undefined {
  if (settings.DYNAMOS_METRICS === "off") return undefined;
  const taking = metrics.getMeterProvider();
  const registry = taking instanceof MetricRegistry ? taking : startRegistry(releases);
  return {
    contentType: PROMETHEUS_CONTENT_TYPE,
    scrape: async () => prometheusText(await registry.collect(OBSERVE_LIMIT_MS)),
  };
}

function startRegistry(releases: Releases): MetricRegistry {
  const registry = new MetricRegistry();
  metrics.setGlobalMeterProvider(registry);
  const stopObserving = observeProcess(dynamosMeter());
  releases.push("metrics", () => {
    stopObserving();
    metrics.disable();
  });
  return registry;
}
