/** What the orchestrator's parts share: the ports, and how long things may take. Made once, in `app.ts`. */
import type { MessageBus } from "../lib/bus/message-bus.ts";
import type { RpcClient } from "../lib/bus/rpc.ts";
import type { Clock } from "../lib/clock.ts";
import type { KnowledgeBase } from "../lib/knowledge/knowledge-base.ts";
import type { Logger } from "../lib/telemetry/logger.ts";
import type { Trust } from "../lib/tls/trust.ts";
import type { AgentLiveness } from "./agent-liveness.ts";
import type { GatheringSlots } from "./gathering-slots.ts";
import type { OrchestratorMetrics } from "./metrics.ts";
import type { PlanStore } from "./plans.ts";
import type { Replicas } from "./replicas.ts";

/** See the file comment. */
export interface OrchestratorContext {
  readonly knowledge: KnowledgeBase;
  readonly plans: PlanStore;
  readonly bus: MessageBus;
  /** Calls over the bus; answers come to this instance. */
  readonly rpc: RpcClient;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Whose certificates count, of agents and of other replicas. */
  readonly trust: Trust;
  readonly gathering: GatheringSlots;
  /** Which agents' instances live, for calls that wait for them. */
  readonly agents: AgentLiveness;
  /** The instances of the orchestrator, this one among them. */
  readonly replicas: Replicas;
  readonly metrics: OrchestratorMetrics;
  readonly limits: OrchestratorLimits;
}

/** Durations in milliseconds, sizes in bytes. */
export interface OrchestratorLimits {
  /** How long an approval lives without use. */
  readonly jobLeaseMs: number;
  /** How long an agent may take to acknowledge a composition. */
  readonly compositionTimeoutMs: number;
  /** How long a data request may take, all agents together. */
  readonly requestDeadlineMs: number;
  /** How long after its deadline an agent may take to say so. */
  readonly deadlineGraceMs: number;
  /** Largest answer of one agent that is pooled. */
  readonly maxPooledAnswerBytes: number;
  /** Largest answer kept for an asynchronous request. */
  readonly maxKeptAnswerBytes: number;
  /** How long the answer of an asynchronous request is kept. */
  readonly keptAnswerMs: number;
}
