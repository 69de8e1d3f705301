import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { planKeys } from "../../lib/knowledge/keys.ts";
import type { Plan } from "../../orchestrator/plans.ts";
import { eventually } from "../support/eventually.ts";
import { agreementOf, ANALYST, call, startFrontDoor, type FakeAgent, type FrontDoor } from "../support/front-door.ts";

const QUESTION = { type: "sqlDataRequest", query: "SELECT 1" };

async function exchange(t: TestContext, settings: Record<string, string> = {}) {
  const door = await startFrontDoor(t, { settings });
  const [vu, uva, surf] = [await door.agent("VU"), await door.agent("UVA"), await door.agent("SURF")];
  const { status, body } = await call("POST", `${door.url}/api/v1/requestApproval`, {
    type: "sqlDataRequest",
    user: ANALYST,
    dataProviders: ["VU", "UVA"],
  });
  assert.equal(status, 200, JSON.stringify(body));
  const again = (url = door.url) =>
    call("POST", `${url}/api/v1/sqlDataRequest`, QUESTION, { authorization: `Bearer ${body.auth.accessToken}` });
  return { door, vu, uva, surf, jobId: body.jobId, again };
}

const planOf = async (door: FrontDoor, jobName: string): Promise<Plan> =>
  (await door.knowledge.store.get(planKeys.key({ jobName })))?.value as Plan;
const rolesOf = ({ compositions }: FakeAgent) => compositions.map(({ role, plan_version }) => [plan_version, role]);
const settled = (door: FrontDoor, jobName: string, holds: (plan: Plan) => boolean) =>
  eventually(async () => {
    const plan = await planOf(door, jobName);
    return plan.state !== "composing" && holds(plan) ? plan : undefined;
  });

test("an agreement that no longer allows the archetype moves the job to the other, and back, under the same token", async (t) => {
  const { door, vu, uva, surf, jobId, again } = await exchange(t);
  assert.equal((await again()).body.archetype, "computeToData");
  await door.knowledge.put("agreements", agreementOf("VU", { archetypes: ["dataThroughTtp"] }));
  await settled(door, jobId, ({ archetype }) => archetype === "dataThroughTtp");
  assert.deepEqual(rolesOf(vu), [
    [1, "all"],
    [2, "dataProvider"],
  ]);
  assert.deepEqual(rolesOf(uva), [
    [1, "all"],
    [2, "dataProvider"],
  ]);
  assert.deepEqual(rolesOf(surf), [[2, "computeProvider"]]);
  assert.deepEqual(vu.policyUpdates, [], "who stays in the plan is composed, not sent away");
  const through = await again();
  assert.deepEqual([through.status, through.body.archetype], [200, "dataThroughTtp"]);
  assert.equal(surf.requests.length, 1);

  await door.knowledge.put("agreements", agreementOf("VU"));
  await settled(door, jobId, ({ archetype }) => archetype === "computeToData");
  const [moved] = await eventually(() => (surf.policyUpdates.length > 0 ? surf.policyUpdates : undefined));
  assert.deepEqual([moved?.outcome, moved?.archetype, moved?.planVersion], ["moved", "computeToData", 3]);
  assert.deepEqual(moved?.authorizedProviders, {
    UVA: `${uva.url}/agent/v1/sqlDataRequest/uva`,
    VU: `${vu.url}/agent/v1/sqlDataRequest/vu`,
  });
  assert.equal((await again()).body.archetype, "computeToData");
});

test("a changed agreement counts for the very next request, by whichever replica", async (t) => {
  const { door, again } = await exchange(t);
  const second = await door.replica();
  for (const [url, archetype] of [
    [door.url, "dataThroughTtp"],
    [second, "computeToData"],
    [door.url, "dataThroughTtp"],
  ] as const) {
    await door.knowledge.put("agreements", agreementOf("VU", { archetypes: [archetype] }));
    const { status, body } = await again(url);
    assert.deepEqual([status, body.archetype], [200, archetype]);
  }
});

test("an agreement that is put through the config API does the same", async (t) => {
  const { door, jobId } = await exchange(t);
  const put = await call(
    "PUT",
    `${door.url}/api/v1/policyEnforcer`,
    agreementOf("UVA", { archetypes: ["dataThroughTtp"] }),
    {
      "x-admin-key": door.adminKey,
    },
  );
  assert.equal(put.status, 200);
  await settled(door, jobId, ({ archetype }) => archetype === "dataThroughTtp");
});

test("a job that nothing allows any more is stopped everywhere, and lives again when it is allowed again", async (t) => {
  const { door, vu, uva, jobId, again } = await exchange(t);
  await door.knowledge.put("agreements", agreementOf("VU", { archetypes: ["computeToData"] }));
  await door.knowledge.put("agreements", agreementOf("UVA", { archetypes: ["dataThroughTtp"] }));
  await settled(door, jobId, ({ state }) => state === "stopped");
  await eventually(() => vu.policyUpdates.length === 1 && uva.policyUpdates.length === 1);
  assert.equal(vu.policyUpdates[0]?.outcome, "stopped");
  const refused = await again();
  assert.deepEqual(
    [refused.status, refused.body.code, refused.body.reason],
    [403, "agreement_gone", "archetype_conflict"],
  );
  await door.knowledge.put("agreements", agreementOf("UVA"));
  await settled(door, jobId, ({ state }) => state === "ready");
  assert.equal((await again()).status, 200);
});

test("a steward that withdraws leaves the job to the others, and is named", async (t) => {
  const { door, uva, jobId, again } = await exchange(t);
  await door.knowledge.delete("agreements", "UVA");
  await settled(door, jobId, ({ providers }) => providers.length === 1);
  await eventually(() => uva.policyUpdates[0]?.outcome === "stopped");
  const { body } = await again();
  assert.deepEqual(body.responses.map(({ provider }) => provider).length, 1);
  assert.deepEqual(
    body.refused.map(({ provider, code }) => [provider, code]),
    [["UVA", "no_agreement"]],
  );
});

test("a change that leaves the plan as it is tells nobody anything", async (t) => {
  const { door, vu, jobId, again } = await exchange(t);
  await door.knowledge.put("agreements", agreementOf("VU", {}, { minimumGroupSize: 5 }));
  await door.knowledge.put("agreements", agreementOf("OTHER"));
  // A later change that does move the job has been decided after these.
  await door.knowledge.put("agreements", agreementOf("UVA", { archetypes: ["dataThroughTtp"] }));
  const plan = await settled(door, jobId, ({ archetype }) => archetype === "dataThroughTtp");
  assert.equal(plan.version, 2);
  assert.equal(vu.compositions.length, 2);
  assert.equal((await again()).status, 200);
});

test("of several replicas one does the work, however long it takes", async (t) => {
  let isHeld = false;
  const beforeAcknowledging = () => eventually(() => !isHeld);
  const { door, vu, uva, jobId, again } = await exchange(t);
  const tno = await door.agent("TNO", { beforeAcknowledging: async () => void (await beforeAcknowledging()) });
  const throughTno = { computeProviders: ["TNO"], archetypes: ["dataThroughTtp"] };
  const [second, third] = [await door.replica(), await door.replica()];
  await door.knowledge.put(
    "agreements",
    agreementOf("VU", { computeProviders: ["TNO"] }, { allowedComputeProviders: ["TNO"] }),
  );
  isHeld = true;
  await door.knowledge.put("agreements", agreementOf("UVA", throughTno, { allowedComputeProviders: ["TNO"] }));
  await eventually(() => tno.compositions.length > 0);
  // While one waits for TNO, all others look at the job again and again.
  const answers = [second, third, door.url].map((url) => again(url));
  await door.knowledge.put("agreements", agreementOf("OTHER"));
  // That nothing happens can only be seen by waiting.
  await sleep(500);
  assert.equal(tno.compositions.length, 1);
  isHeld = false;
  const plan = await settled(door, jobId, ({ archetype }) => archetype === "dataThroughTtp");
  assert.equal(plan.version, 2);
  for (const answer of await Promise.all(answers)) assert.equal(answer.body.archetype, "dataThroughTtp");
  assert.deepEqual(
    [vu, uva, tno].map(({ compositions }) => compositions.filter(({ plan_version }) => plan_version === 2).length),
    [1, 1, 1],
  );
});

test("an agent that does not follow stops the job, with the reason", async (t) => {
  const { door, vu, jobId, again } = await exchange(t, { DYNAMOS_COMPOSITION_TIMEOUT_MS: "2000" });
  const silent = await door.agent("TNO", { isSilent: true });
  const throughTno = { computeProviders: ["TNO"], archetypes: ["dataThroughTtp"] };
  await door.knowledge.put("agreements", agreementOf("UVA", throughTno, { allowedComputeProviders: ["TNO"] }));
  await door.knowledge.put("agreements", agreementOf("VU", throughTno, { allowedComputeProviders: ["TNO"] }));
  await settled(door, jobId, ({ stopped }) => stopped?.code === "agent_timeout");
  assert.ok(silent.compositions.length > 0);
  await eventually(() => vu.policyUpdates.some(({ outcome }) => outcome === "stopped"));
  const { code, party } = (await again()).body;
  assert.deepEqual([code, party], ["agent_timeout", "TNO"], "what keeps it from running, since no agreement does");
});

test("a composition that its replica left undone is completed by another", async (t) => {
  const { door, vu, jobId } = await exchange(t);
  const key = planKeys.key({ jobName: jobId });
  const stored = await door.knowledge.store.get(key);
  assert.ok(stored);
  const plan = stored.value as Plan;
  const lease = await door.knowledge.store.attachLease(plan.lease);
  await door.knowledge.store.put(key, { ...plan, version: 7, state: "composing", composer: "dead" }, { lease });
  await door.replica();
  const after = await settled(door, jobId, ({ state }) => state === "ready");
  assert.equal(after.version, 8);
  assert.deepEqual(vu.compositions.at(-1)?.plan_version, 8);
});

test("a steward that was offline when the job moved joins again when it is back", async (t) => {
  const { door, uva, jobId } = await exchange(t);
  await uva.goOffline();
  await door.knowledge.put("agreements", agreementOf("VU", { archetypes: ["dataThroughTtp"] }));
  await settled(door, jobId, ({ offline }) => offline.includes("UVA"));
  await uva.goOnline();
  const plan = await settled(door, jobId, ({ providers }) => providers.includes("UVA"));
  assert.deepEqual([plan.archetype, plan.providers, plan.offline], ["dataThroughTtp", ["UVA", "VU"], []]);
});
