/** What the parts of one agent share; made once, in `app.ts`. */
import type { MessageBus } from "../lib/bus/message-bus.ts";
import type { RpcClient } from "../lib/bus/rpc.ts";
import type { Clock } from "../lib/clock.ts";
import type { JobRunner } from "../lib/jobs/job-runner.ts";
import type { KnowledgeBase } from "../lib/knowledge/knowledge-base.ts";
import type { Logger } from "../lib/telemetry/logger.ts";
import type { Trust } from "../lib/tls/trust.ts";
import type { AccessTokenVerifier } from "../lib/tokens.ts";
import type { Admission } from "./admission.ts";
import type { PersistentChains } from "./chains/persistent-chains.ts";
import type { WarmPool } from "./chains/warm-pool.ts";
import type { AgentSettings } from "./config.ts";
import type { DataSources } from "./data-sources.ts";
import type { StewardKeys } from "./identity.ts";
import type { JobRegistry } from "./jobs.ts";
import type { AgentMetrics } from "./metrics.ts";
import type { ProvidedStreams } from "./replicas/provided-streams.ts";
import type { RequestClaims } from "./replicas/request-claims.ts";
import type { Siblings } from "./replicas/siblings.ts";
import type { LiveRuns } from "./runs/live-runs.ts";

/** See the file comment. */
export interface AgentContext {
  readonly steward: string;
  /** Of this process among those of the same party; new at each start. */
  readonly instance: string;
  readonly settings: AgentSettings;
  /** The standard OpenTelemetry variables, which chains get too. */
  readonly telemetryEnvironment: Readonly<Record<string, string>>;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Whose certificates count, of orchestrators and of other instances. */
  readonly trust: Trust;
  readonly knowledge: KnowledgeBase;
  readonly bus: MessageBus;
  readonly rpc: RpcClient;
  readonly runner: JobRunner;
  /** Chains that serve many requests. */
  readonly persistent: PersistentChains;
  /** Chains that were started ahead. */
  readonly warm: WarmPool;
  readonly keys: StewardKeys;
  /** By the orchestrator's published keys. */
  readonly tokens: AccessTokenVerifier;
  readonly jobs: JobRegistry;
  readonly live: LiveRuns;
  readonly siblings: Siblings;
  readonly claims: RequestClaims;
  readonly streams: ProvidedStreams;
  readonly metrics: AgentMetrics;
  /** Slots for runs that read data, and for runs that compute over others' streams. */
  readonly admission: { readonly reading: Admission; readonly computing: Admission };
  readonly data: DataSources;
}
