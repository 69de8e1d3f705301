import assert from "node:assert/strict";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { openMessageBus } from "../../lib/bus/open.ts";
import { RpcClient } from "../../lib/bus/rpc.ts";
import { systemClock, type Clock } from "../../lib/clock.ts";
import { AppError } from "../../lib/errors.ts";
import { KnowledgeBase } from "../../lib/knowledge/knowledge-base.ts";
import { openKnowledgeStore } from "../../lib/knowledge/open.ts";
import { ReleaseStack } from "../../lib/lifecycle.ts";
import { createLogger } from "../../lib/telemetry/logger.ts";
import type { OrchestratorContext } from "../../orchestrator/context.ts";
import { GatheringSlots } from "../../orchestrator/gathering-slots.ts";
import { PlanStore, type Plan } from "../../orchestrator/plans.ts";
import type { JobSeed } from "../../orchestrator/request-approval.ts";
import { approveOnce } from "../../orchestrator/request-records.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const USER = { id: "ada", userName: "ada@example.org" };
const NEVER = new AbortController().signal;

async function openContext(t: TestContext): Promise<OrchestratorContext> {
  const folder = await temporaryFolder();
  const releases = new ReleaseStack();
  t.after(() => releases.releaseAll());
  const store = await openKnowledgeStore({ kind: "sqlite", path: join(folder, "store.db") });
  releases.push("store", () => store.close());
  const bus = await openMessageBus(`embedded:${join(folder, "bus.db")}`);
  releases.push("bus", () => bus.close());
  return {
    knowledge: new KnowledgeBase(store),
    plans: new PlanStore(store),
    bus,
    rpc: new RpcClient(bus, { replyQueue: "orchestrator-in-test" }),
    clock: systemClock,
    logger: createLogger("test", {}, "silent"),
    gathering: new GatheringSlots(1),
    limits: {
      jobLeaseMs: 60_000,
      compositionTimeoutMs: 1000,
      requestDeadlineMs: 1000,
      deadlineGraceMs: 1000,
      maxPooledAnswerBytes: 1000,
      maxKeptAnswerBytes: 1000,
      keptAnswerMs: 1000,
    },
  };
}

const planOf = ({ jobName, lease }: JobSeed): Plan => ({
  jobName,
  user: USER,
  requestType: "sqlDataRequest",
  options: {},
  dataSets: ["wageGap"],
  approved: ["VU"],
  version: 1,
  state: "ready",
  archetype: "computeToData",
  providers: ["VU"],
  acceptedComputeProviders: [],
  agreements: {},
  refused: [],
  offline: [],
  lease: lease.id,
});

const name = (fingerprint = "f") => ({ userName: USER.userName, requestId: "r", fingerprint });

test("of many callers with one id at the same moment one approves, and all have its job", async (t) => {
  const context = await openContext(t);
  let approvals = 0;
  const approve = async (seed: JobSeed): Promise<Plan> => {
    approvals++;
    return (await context.plans.put(planOf(seed), 0)).document;
  };
  const plans = await Promise.all(Array.from({ length: 8 }, () => approveOnce(name(), approve, context, NEVER)));
  assert.equal(approvals, 1);
  assert.equal(new Set(plans.map(({ jobName }) => jobName)).size, 1);
  await assert.rejects(approveOnce(name("other"), approve, context, NEVER), { code: "idempotency_key_reused" });
});

test("where the first is refused the next one tries for itself, and nothing of the first is left", async (t) => {
  const context = await openContext(t);
  const refusal = new AppError("no_authorized_providers", "No.");
  let attempts = 0;
  const approve = async (seed: JobSeed): Promise<Plan> => {
    if (++attempts === 1) throw refusal;
    return (await context.plans.put(planOf(seed), 0)).document;
  };
  const [first, second] = await Promise.allSettled([
    approveOnce(name(), approve, context, NEVER),
    approveOnce(name(), approve, context, NEVER),
  ]);
  assert.deepEqual([first, second].map(({ status }) => status).sort(), ["fulfilled", "rejected"]);
  assert.equal((await context.knowledge.store.list("/orchestrator/jobs/")).documents.length, 1);
});

test("the claim of an orchestrator that was killed while approving is taken over when its time has passed, and its job ends", async (t) => {
  const context = await openContext(t);
  const { store } = context.knowledge;
  let aheadMs = 0;
  const clock: Clock = { now: () => systemClock.now() + aheadMs, sleep: (ms, signal) => systemClock.sleep(ms, signal) };
  const killed = new Promise<JobSeed>((resolve) => {
    // Never comes back, as one that was killed.
    void approveOnce(name(), (seed) => new Promise(() => resolve(seed)), { ...context, clock }, NEVER);
  });
  const dead = await killed;
  await store.put("/agents/jobs/VU/of-the-dead", {}, { lease: dead.lease });
  let approvals = 0;
  const approve = async (seed: JobSeed): Promise<Plan> => {
    approvals++;
    return (await context.plans.put(planOf(seed), 0)).document;
  };
  const waiting = [1, 2].map(() => approveOnce(name(), approve, { ...context, clock }, NEVER));
  // Not before its time: that nothing happens can only be seen by waiting.
  await systemClock.sleep(200);
  assert.equal(approvals, 0);
  aheadMs = 16_500;
  const [first, second] = await Promise.all(waiting);
  assert.deepEqual([approvals, first?.jobName === second?.jobName], [1, true]);
  assert.notEqual(first?.jobName, dead.jobName);
  assert.equal(await store.get("/agents/jobs/VU/of-the-dead"), undefined);
});
