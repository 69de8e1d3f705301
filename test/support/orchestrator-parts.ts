/** What the orchestrator's parts work with, for several replicas over one embedded store and bus, without their HTTP servers. */
import { join } from "node:path";
import type { TestContext } from "node:test";
import { openMessageBus } from "../../lib/bus/open.ts";
import { RpcClient } from "../../lib/bus/rpc.ts";
import { systemClock, type Clock } from "../../lib/clock.ts";
import { orchestratorOnlineKeys } from "../../lib/knowledge/keys.ts";
import { KnowledgeBase } from "../../lib/knowledge/knowledge-base.ts";
import { openKnowledgeStore } from "../../lib/knowledge/open.ts";
import { ReleaseStack } from "../../lib/lifecycle.ts";
import { createLogger } from "../../lib/telemetry/logger.ts";
import { NODE_TRUST } from "../../lib/tls/trust.ts";
import { AgentLiveness } from "../../orchestrator/agent-liveness.ts";
import type { OrchestratorContext } from "../../orchestrator/context.ts";
import { GatheringSlots } from "../../orchestrator/gathering-slots.ts";
import { createMetrics } from "../../orchestrator/metrics.ts";
import { PlanStore } from "../../orchestrator/plans.ts";
import { Replicas } from "../../orchestrator/replicas.ts";
import { temporaryFolder } from "./temporary-folder.ts";

/** One replica's parts. */
export interface TestReplica extends OrchestratorContext {
  /** Its record in the store ends, as when its process dies. */
  die(): Promise<void>;
}

/** Replicas that live, each under its name; a clock of its own may be given to each. */
export async function openReplicas<const Name extends string>(
  t: TestContext,
  clocks: Readonly<Record<Name, Clock>>,
): Promise<Readonly<Record<Name, TestReplica>>> {
  const folder = await temporaryFolder();
  const releases = new ReleaseStack();
  t.after(() => releases.releaseAll());
  const replicas: Partial<Record<Name, TestReplica>> = {};
  for (const name of Object.keys(clocks) as Name[]) {
    const store = await openKnowledgeStore(`sqlite:${join(folder, "store.db")}`);
    releases.push("store", () => store.close());
    const bus = await openMessageBus(`embedded:${join(folder, "bus.db")}`);
    releases.push("bus", () => bus.close());
    const rpc = new RpcClient(bus, { replyQueue: `orchestrator-in-${name}` });
    releases.push("calls", () => rpc.close());
    const logger = createLogger("test", {}, "silent");
    const agents = new AgentLiveness(store, logger);
    releases.push("liveness", () => agents.close());
    const gathering = new GatheringSlots(1);
    const lease = await store.grantLease({ ttlMs: 60_000 });
    const record = { instance: name, url: "http://127.0.0.1:9", activeSince: "2026-01-01T00:00:00Z" };
    await store.put(orchestratorOnlineKeys.key({ instanceId: name }), record, { lease });
    replicas[name] = {
      knowledge: new KnowledgeBase(store),
      plans: new PlanStore(store),
      bus,
      rpc,
      clock: clocks[name],
      logger,
      trust: NODE_TRUST,
      gathering,
      agents,
      replicas: new Replicas(store, name),
      metrics: createMetrics(gathering),
      limits: {
        jobLeaseMs: 60_000,
        compositionTimeoutMs: 1000,
        requestDeadlineMs: 1000,
        deadlineGraceMs: 1000,
        maxPooledAnswerBytes: 1000,
        maxKeptAnswerBytes: 1000,
        keptAnswerMs: 1000,
      },
      die: () => lease.release(),
    };
  }
  return replicas as Record<Name, TestReplica>;
}

/** The machine's clock, wrong by so much; `aheadMs` may be changed. */
export function skewedClock(aheadMs = 0): Clock & { aheadMs: number } {
  return {
    aheadMs,
    now() {
      return systemClock.now() + this.aheadMs;
    },
    sleep: (ms, signal) => systemClock.sleep(ms, signal),
  };
}
