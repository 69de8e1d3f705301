/** What an agent counts, for whoever operates it (OpenTelemetry, meter `dynamos`). Made once, at the start, after the SDK. */
import type { Counter } from "@opentelemetry/api";
import { dynamosMeter } from "../lib/telemetry/metrics.ts";
import type { Admission } from "./admission.ts";
import type { WarmPool } from "./chains/warm-pool.ts";

/** Counters that are raised where it happens. */
export interface AgentMetrics {
  /** Second attempts of chains. */
  readonly chainRetries: Counter;
  /** Chains that attempts ran on; by `lifetime`. */
  readonly chainClaims: Counter;
  /** Data requests passed on to the instance that runs them. */
  readonly requestsForwarded: Counter;
  /** Data requests taken over from an instance that could not be reached. */
  readonly requestsTakenOver: Counter;
  /** Requests refused because too many wait; by `role`. */
  readonly admissionRefused: Counter;
}

/** Makes the instruments, those of admission included. */
export function agentMetrics(admission: Readonly<Record<string, Admission>>): AgentMetrics {
  const meter = dynamosMeter();
  const running = meter.createObservableGauge("dynamos.admission.running", { description: "Chains that run" });
  const queued = meter.createObservableGauge("dynamos.admission.queued", {
    description: "Requests that wait for a chain",
  });
  meter.addBatchObservableCallback(
    (result) => {
      for (const [role, { load }] of Object.entries(admission)) {
        result.observe(running, load.running, { role });
        result.observe(queued, load.queued, { role });
      }
    },
    [running, queued],
  );
  const counter = (name: string, description: string): Counter => meter.createCounter(name, { description });
  return {
    chainRetries: counter("dynamos.chain.retries", "Second attempts of chains"),
    chainClaims: counter("dynamos.chain.claims", "Chains that attempts ran on: started for them, or ahead of them"),
    requestsForwarded: counter("dynamos.request.forwarded", "Data requests passed on to the instance that runs them"),
    requestsTakenOver: counter("dynamos.request.taken_over", "Data requests taken over from a dead instance"),
    admissionRefused: counter("dynamos.admission.refused", "Requests refused because too many wait"),
  };
}

/** Observes how many chains wait for requests: `ready`, or `starting`. */
export function observeWarmChains(pool: Pick<WarmPool, "load">): void {
  const meter = dynamosMeter();
  const warm = meter.createObservableGauge("dynamos.chain.warm", { description: "Chains that wait for a request" });
  warm.addCallback((result) => {
    for (const [state, count] of Object.entries(pool.load)) result.observe(count, { state });
  });
}
