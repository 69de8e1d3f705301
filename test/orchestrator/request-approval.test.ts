import assert from "node:assert/strict";
import { test } from "node:test";
import Database from "better-sqlite3";
import { decodeJson, encodeJson } from "../../lib/bus/json.ts";
import { POLICY_ENFORCER_QUEUE } from "../../lib/bus/queues.ts";
import { reply } from "../../lib/bus/rpc.ts";
import { planKeys } from "../../lib/knowledge/keys.ts";
import { systemClock } from "../../lib/clock.ts";
import { remoteJwks, verifyAccessToken } from "../../lib/tokens.ts";
import { eventually } from "../support/eventually.ts";
import { agreementOf, ANALYST, call, startFrontDoor, type FrontDoor } from "../support/front-door.ts";

const APPROVAL = { type: "sqlDataRequest", user: ANALYST, dataProviders: ["VU", "UVA"] };

const approve = (door: FrontDoor, changes: object = {}) =>
  call("POST", `${door.url}/api/v1/requestApproval`, { ...APPROVAL, ...changes });

test("an approval composes each steward for the preferred archetype, and names endpoints, job and tokens", async (t) => {
  const door = await startFrontDoor(t);
  const [vu, uva] = [await door.agent("VU"), await door.agent("UVA")];
  const { status, body } = await approve(door);
  assert.equal(status, 200, JSON.stringify(body));
  assert.equal(body.type, "requestApproved");
  assert.equal(body.archetype, "computeToData");
  assert.match(body.jobId, /^analyst-[0-9a-f]{8}$/);
  assert.deepEqual(body.user, ANALYST);
  assert.deepEqual(body.authorizedProviders, {
    UVA: `${uva.url}/agent/v1/sqlDataRequest/uva`,
    VU: `${vu.url}/agent/v1/sqlDataRequest/vu`,
  });
  const [composition] = vu.compositions;
  assert.deepEqual(
    { ...composition, lease_id: undefined },
    {
      archetype_id: "computeToData",
      request_type: "sqlDataRequest",
      role: "all",
      user: ANALYST,
      data_providers: ["UVA", "VU"],
      destination_queue: "VU-in",
      job_name: body.jobId,
      local_job_name: `${body.jobId}-vu`,
      data_sets: ["wageGap"],
      lease_id: undefined,
      plan_version: 1,
    },
  );
  const getKey = remoteJwks([`${door.url}/.well-known/jwks.json`], { clock: systemClock });
  const claims = await verifyAccessToken(body.auth.accessToken, getKey, { audience: "VU", clock: systemClock });
  assert.deepEqual(
    [claims.sub, claims.uid, claims.job, claims.dataSets, claims.aud, Object.keys(claims.agreements)],
    [ANALYST.userName, ANALYST.id, body.jobId, ["wageGap"], ["SURF", "UVA", "VU"], ["UVA", "VU"]],
  );
});

test("snake case and the lower-case path are accepted", async (t) => {
  const door = await startFrontDoor(t);
  await door.agent("VU");
  const { status, body } = await call("POST", `${door.url}/api/v1/requestapproval`, {
    type: "sqlDataRequest",
    user: { id: "analyst-1", user_name: ANALYST.userName },
    data_providers: ["VU"],
  });
  assert.equal(status, 200, JSON.stringify(body));
});

test("a steward without agreement is refused with its reason, one without agent is named as offline, the rest is approved", async (t) => {
  const door = await startFrontDoor(t);
  await door.agent("VU");
  await door.agent("RUG");
  const { status, body } = await approve(door, { dataProviders: ["VU", "UVA", "RUG"] });
  assert.equal(status, 200);
  assert.deepEqual(Object.keys(body.authorizedProviders), ["VU"]);
  assert.deepEqual(body.refused, [{ provider: "RUG", code: "no_agreement", detail: "RUG has no agreement." }]);
  assert.deepEqual(body.offline, ["UVA"]);
});

test("without any provider it is a refusal that names each one's reason", async (t) => {
  const door = await startFrontDoor(t);
  const { status, body } = await approve(door, { dataProviders: ["VU", "RUG"] });
  assert.equal(status, 403);
  assert.equal(body.code, "no_authorized_providers");
  assert.deepEqual(body.offline, ["VU"]);
  assert.equal(body.refused[0]?.code, "no_agreement");
});

test("the option aggregate leads through the third party, composed beside the data providers", async (t) => {
  const door = await startFrontDoor(t);
  const [vu, surf] = [await door.agent("VU"), await door.agent("SURF")];
  await door.agent("UVA");
  const { body } = await approve(door, { options: { aggregate: true } });
  assert.equal(body.archetype, "dataThroughTtp");
  assert.deepEqual(body.authorizedProviders, { SURF: `${surf.url}/agent/v1/sqlDataRequest/surf` });
  assert.deepEqual([vu.compositions[0]?.role, vu.compositions[0]?.destination_queue], ["dataProvider", "SURF-in"]);
  assert.deepEqual(
    [surf.compositions[0]?.role, surf.compositions[0]?.data_providers],
    ["computeProvider", ["UVA", "VU"]],
  );
  assert.equal(surf.compositions[0]?.lease_id, vu.compositions[0]?.lease_id);
});

test("a third party's own agreement counts as well", async (t) => {
  const door = await startFrontDoor(t);
  await Promise.all(["VU", "UVA", "SURF"].map((name) => door.agent(name)));
  await door.knowledge.put("agreements", agreementOf("SURF", { archetypes: ["computeToData"] }, { dataSets: [] }));
  const refused = await approve(door, { options: { aggregate: true } });
  assert.equal(refused.body.code, "archetype_conflict");
  assert.match(refused.body.detail, /own agreements of SURF do not allow it/);
  await door.knowledge.put("agreements", agreementOf("SURF", {}, { dataSets: [] }));
  assert.equal((await approve(door, { options: { aggregate: true } })).body.archetype, "dataThroughTtp");
});

test("an acceptable third party that is offline is unavailable, not forbidden", async (t) => {
  const door = await startFrontDoor(t);
  await Promise.all(["VU", "UVA"].map((name) => door.agent(name)));
  const { status, body } = await approve(door, { options: { aggregate: true } });
  assert.deepEqual([status, body.code, body.accepted], [503, "compute_provider_unavailable", ["SURF"]]);
});

test("an agent that does not acknowledge in time is named, and the others are told to stop", async (t) => {
  const door = await startFrontDoor(t, { settings: { DYNAMOS_COMPOSITION_TIMEOUT_MS: "2000" } });
  const vu = await door.agent("VU");
  await door.agent("UVA", { isSilent: true });
  const { status, body } = await approve(door);
  assert.deepEqual([status, body.code, body.party], [504, "agent_timeout", "UVA"]);
  const [update] = await eventually(() => (vu.policyUpdates.length > 0 ? vu.policyUpdates : undefined));
  assert.equal(update?.outcome, "stopped");
  assert.deepEqual((await door.knowledge.store.list(planKeys.prefix())).documents, [], "no plan is left");
});

test("any program behind the queue may be the policy enforcer, and what it refuses is refused", async (t) => {
  const door = await startFrontDoor(t, { withoutPolicyEnforcer: true });
  await Promise.all(["VU", "UVA"].map((name) => door.agent(name)));
  await door.bus.declareQueue(POLICY_ENFORCER_QUEUE, { kind: "service" });
  const consumer = await door.bus.consume(POLICY_ENFORCER_QUEUE, async (question) => {
    const { dataProviders } = decodeJson(question) as { dataProviders: string[] };
    const stewards = dataProviders.map((steward) => ({
      steward,
      allowedArchetypes: ["computeToData"],
      allowedComputeProviders: [],
      dataSets: ["wageGap"],
      agreementRevision: 1,
      ...(steward === "UVA" ? { refusal: { code: "on_sundays", detail: "Not today." } } : {}),
    }));
    await reply(door.bus, question, {
      type: "validationResponse",
      body: encodeJson({ type: "validationResponse", stewards }),
    });
    return "accept";
  });
  t.after(() => consumer.close());
  const { body } = await approve(door);
  assert.deepEqual(Object.keys(body.authorizedProviders), ["VU"]);
  assert.deepEqual(body.refused, [{ provider: "UVA", code: "on_sundays", detail: "Not today." }]);
});

test("third parties that the agreements name are asked about beside the stewards, others once they count", async (t) => {
  const door = await startFrontDoor(t, { withoutPolicyEnforcer: true });
  await Promise.all(["VU", "SURF", "TNO"].map((name) => door.agent(name)));
  await door.bus.declareQueue(POLICY_ENFORCER_QUEUE, { kind: "service" });
  const asked: string[][] = [];
  let accepted = ["SURF"];
  const consumer = await door.bus.consume(POLICY_ENFORCER_QUEUE, async (question) => {
    const { dataProviders } = decodeJson(question) as { dataProviders: string[] };
    asked.push(dataProviders);
    // Where one question waited for the other's answer, neither would be answered.
    await eventually(() => asked.length >= 2, { describe: "the stewards and their third party to be asked about" });
    const stewards = dataProviders.map((steward) => ({
      steward,
      allowedArchetypes: ["computeToData", "dataThroughTtp"],
      allowedComputeProviders: accepted,
      dataSets: ["wageGap"],
      agreementRevision: 1,
      ...(steward === "SURF" ? { refusal: { code: "no_agreement", detail: "SURF has no agreement." } } : {}),
    }));
    await reply(door.bus, question, {
      type: "validationResponse",
      body: encodeJson({ type: "validationResponse", stewards }),
    });
    return "accept";
  });
  t.after(() => consumer.close());
  const question = { dataProviders: ["VU"], options: { aggregate: true } };
  assert.deepEqual(Object.keys((await approve(door, question)).body.authorizedProviders), ["SURF"]);
  assert.deepEqual(asked.sort(), [["SURF"], ["VU"]]);
  asked.length = 0;
  accepted = ["TNO"];
  assert.deepEqual(Object.keys((await approve(door, question)).body.authorizedProviders), ["TNO"]);
  assert.deepEqual(asked.sort(), [["SURF"], ["TNO"], ["VU"]]);
});

test("what refuses an approval leaves no lease behind", async (t) => {
  const door = await startFrontDoor(t);
  await door.agent("VU");
  const database = new Database(door.storeUrl.replace(/^sqlite:/, ""), { readonly: true });
  t.after(() => database.close());
  const leases = (): unknown[] => database.prepare("SELECT id FROM leases").all();
  const before = leases();
  assert.equal((await approve(door, { dataProviders: ["RUG"] })).status, 403);
  assert.deepEqual(leases(), before);
  assert.equal((await approve(door, { dataProviders: ["VU"] })).status, 200);
  assert.equal(leases().length, before.length + 1, "an approval has its own");
});

test("a policy enforcer that is not there is unavailable, and nothing is allowed", async (t) => {
  const door = await startFrontDoor(t, { withoutPolicyEnforcer: true });
  const vu = await door.agent("VU");
  const { status, body } = await approve(door);
  assert.deepEqual([status, body.code, body.party], [503, "unavailable", "policyEnforcer"]);
  assert.deepEqual(vu.compositions, []);
});

test("malformed approvals are refused with the place of the fault, and the next one works", async (t) => {
  const door = await startFrontDoor(t);
  await door.agent("VU");
  const pointerOf = async (changes: object) => {
    const { status, body } = await approve(door, changes);
    assert.equal(status, 400, JSON.stringify(body));
    return body.pointer;
  };
  assert.equal(await pointerOf({ dataProviders: "VU" }), "/dataProviders");
  assert.equal(await pointerOf({ dataProviders: ["../VU"] }), "/dataProviders/0");
  assert.equal(await pointerOf({ user: { id: "x" } }), "/user/userName");
  assert.equal(await pointerOf({ type: "noSuchType" }), "/type");
  assert.equal(await pointerOf({ data_request: { type: "other", query: "SELECT 1" } }), "/data_request/type");
  assert.equal((await call("POST", `${door.url}/api/v1/requestApproval`, "{")).body.code, "bad_request");
  assert.equal((await call("POST", `${door.url}/api/v1/requestApproval`, "[]")).body.code, "bad_request");
  assert.equal((await approve(door, { dataProviders: ["VU"] })).status, 200);
});

test("nothing that the services log holds the user's name or a token", async (t) => {
  const door = await startFrontDoor(t);
  await door.agent("VU");
  const { body } = await approve(door, { dataProviders: ["VU"] });
  assert.ok(door.logLines.some((line) => line.includes("request approved")));
  for (const line of door.logLines) {
    assert.ok(!line.includes(ANALYST.userName) && !line.includes(body.auth.accessToken), line);
    assert.ok(!line.includes(body.jobId), line);
  }
});
