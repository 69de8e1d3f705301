import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";
import { systemClock } from "../../lib/clock.ts";
import { AppError } from "../../lib/errors.ts";
import type { Plan } from "../../orchestrator/plans.ts";
import type { JobSeed } from "../../orchestrator/request-approval.ts";
import { approveOnce } from "../../orchestrator/request-records.ts";
import { eventually } from "../support/eventually.ts";
import { openReplicas, skewedClock, type TestReplica } from "../support/orchestrator-parts.ts";

const USER = { id: "ada", userName: "ada@example.org" };
const NEVER = new AbortController().signal;

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
  archetypes: {},
  refused: [],
  offline: [],
  lease: lease.id,
});

/** An approval that does not come back before the test ends, as one whose process was killed; its claim. */
const neverEnding = (t: TestContext, replica: TestReplica): Promise<JobSeed> =>
  new Promise((resolve, reject) => {
    const approve = (seed: JobSeed): Promise<never> => {
      resolve(seed);
      return new Promise((_, end) => t.signal.addEventListener("abort", () => end(new Error("The test has ended."))));
    };
    approveOnce(name(), approve, replica, NEVER).catch(reject);
  });

const name = (fingerprint = "f") => ({ userName: USER.userName, requestId: "r", fingerprint });

test("of many callers with one id at the same moment one approves, and all have its job", async (t) => {
  const { a, b } = await openReplicas(t, { a: systemClock, b: systemClock });
  let approvals = 0;
  const approve = async (seed: JobSeed): Promise<Plan> => {
    approvals++;
    return (await a.plans.put(planOf(seed), 0)).document;
  };
  const callers = [a, b, a, b, a, b, a, b];
  const plans = await Promise.all(callers.map((replica) => approveOnce(name(), approve, replica, NEVER)));
  assert.equal(approvals, 1);
  assert.equal(new Set(plans.map(({ jobName }) => jobName)).size, 1);
  await assert.rejects(approveOnce(name("other"), approve, b, NEVER), { code: "idempotency_key_reused" });
});

test("where the first is refused the next one tries for itself, and nothing of the first is left", async (t) => {
  const { context } = await openReplicas(t, { context: systemClock });
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

test("the claim of a replica that was killed while approving is taken over once its record is gone, and its job ends", async (t) => {
  const { dead, b, c } = await openReplicas(t, { dead: systemClock, b: skewedClock(40_000), c: skewedClock(-40_000) });
  const { store } = b.knowledge;
  const killed = await neverEnding(t, dead);
  await store.put("/agents/jobs/VU/of-the-dead", {}, { lease: killed.lease });
  let approvals = 0;
  const approve = async (seed: JobSeed): Promise<Plan> => {
    approvals++;
    return (await b.plans.put(planOf(seed), 0)).document;
  };
  const waiting = [b, c].map((replica) => approveOnce(name(), approve, replica, NEVER));
  // Not before, whatever their clocks say: that nothing happens can only be seen by waiting.
  await systemClock.sleep(200);
  assert.equal(approvals, 0);
  await dead.die();
  const [first, second] = await Promise.all(waiting);
  assert.deepEqual([approvals, first?.jobName === second?.jobName], [1, true]);
  assert.notEqual(first?.jobName, killed.jobName);
  assert.equal(await store.get("/agents/jobs/VU/of-the-dead"), undefined);
});

test("an approver that was only slow, and lost its claim, follows the one that took it over", async (t) => {
  const { slow, b } = await openReplicas(t, { slow: systemClock, b: systemClock });
  const gate = new AbortController();
  const goesOn = new Promise((resolve) => gate.signal.addEventListener("abort", resolve));
  const begun = new AbortController();
  const first = approveOnce(
    name(),
    async (seed) => {
      begun.abort();
      await goesOn;
      // As the real approval: its plan stands under the job's lease, or not at all.
      return (await slow.plans.put(planOf(seed), 0)).document;
    },
    slow,
    NEVER,
  );
  await new Promise((resolve) => begun.signal.addEventListener("abort", resolve));
  await slow.die();
  const taken = await approveOnce(name(), async (seed) => (await b.plans.put(planOf(seed), 0)).document, b, NEVER);
  gate.abort();
  assert.equal((await first).jobName, taken.jobName);
  assert.equal((await b.plans.list()).length, 1);
});

test("the claim of a replica that lives, but left it undone, is taken over when it has stood unchanged for long", async (t) => {
  const clock = skewedClock();
  const { a, b } = await openReplicas(t, { a: systemClock, b: clock });
  await neverEnding(t, a);
  const second = approveOnce(name(), async (seed) => (await b.plans.put(planOf(seed), 0)).document, b, NEVER);
  await systemClock.sleep(100);
  clock.aheadMs = 16_500;
  assert.ok((await second).jobName);
});

test("an approver that takes long keeps its claim by writing it anew", async (t) => {
  // Only the test moves it: however slow the machine, the second caller has not waited long enough to give up.
  const clock = { ...systemClock, nowMs: systemClock.now(), now: () => clock.nowMs };
  const { a, b } = await openReplicas(t, { a: systemClock, b: clock });
  // A quarter of this is how often the claim is written.
  const slow = { ...a, limits: { ...a.limits, jobLeaseMs: 4000 } };
  const gate = new AbortController();
  // Also where the test fails: a claim that is held is written anew for ever.
  t.after(() => gate.abort());
  const first = approveOnce(
    name(),
    async (seed) => {
      await new Promise((resolve) => gate.signal.addEventListener("abort", resolve));
      return (await a.plans.put(planOf(seed), 0)).document;
    },
    slow,
    NEVER,
  );
  const key = "/orchestrator/requests/ada%40example.org/r";
  const revision = async () => (await a.knowledge.store.get(key))?.revision ?? 0;
  await eventually(async () => (await revision()) > 0);
  const second = approveOnce(name(), () => Promise.reject(new Error("approved twice")), b, NEVER);
  for (let renewed = 0, before = await revision(); renewed < 3; renewed++) {
    // Longer than any approval since the last writing, and not since this one.
    await eventually(async () => (await revision()) > before);
    before = await revision();
    clock.nowMs += 6_000;
    await systemClock.sleep(60);
  }
  gate.abort();
  assert.equal((await second).jobName, (await first).jobName);
});
