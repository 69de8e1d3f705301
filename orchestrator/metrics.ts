/** What the orchestrator counts (OpenTelemetry, meter `dynamos`). `docs/operations.md` says what each figure tells. */
import type { Counter } from "@opentelemetry/api";
import { dynamosMeter } from "../lib/telemetry/metrics.ts";
import type { GatheringSlots } from "./gathering-slots.ts";

/** The instruments that parts of the orchestrator write to. */
export interface OrchestratorMetrics {
  /** Composition requests sent, by party and role. */
  readonly compositionsSent: Counter;
  /** Jobs that got another plan, by what came of it: `moved`, `stopped` or `failed`. */
  readonly recompositions: Counter;
  /** Requests passed on to the replica that keeps their answer. */
  readonly forwarded: Counter;
  /** Calls of another instance of an agent, since one could not be reached, went, or broke off. */
  readonly agentRetries: Counter;
}

/** Makes the instruments; once per process, after the SDK was started. */
export function createMetrics(gathering: GatheringSlots): OrchestratorMetrics {
  const meter = dynamosMeter();
  meter
    .createObservableGauge("dynamos.requests.gathering", { description: "Answers that are being gathered" })
    .addCallback((result) => result.observe(gathering.taken));
  return {
    compositionsSent: meter.createCounter("dynamos.composition.sent", { description: "Composition requests sent" }),
    recompositions: meter.createCounter("dynamos.recompositions", { description: "Jobs that got another plan" }),
    forwarded: meter.createCounter("dynamos.request.forwarded", {
      description: "Requests passed on to the replica that keeps their answer",
    }),
    agentRetries: meter.createCounter("dynamos.agent.retries", {
      description: "Calls of another instance of an agent, since one failed",
    }),
  };
}
