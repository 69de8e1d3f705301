/** Two replicas of the orchestrator in this process, over one store and bus, with fake agents. */
import assert from "node:assert/strict";
import { copyFile, mkdir, readFile } from "node:fs/promises";
import type { ServerResponse } from "node:http";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { orchestratorOnlineKeys, planKeys } from "../../lib/knowledge/keys.ts";
import type { OrchestratorOnlineRecord } from "../../lib/messages.ts";
import type { Archetype } from "../../lib/model/archetype.ts";
import type { Plan } from "../../orchestrator/plans.ts";
import { eventually } from "../support/eventually.ts";
import {
  agentAnswer,
  agreementOf,
  ANALYST,
  call,
  startFrontDoor,
  type FakeAgent,
  type FrontDoor,
} from "../support/front-door.ts";

const QUESTION = { type: "sqlDataRequest", query: "SELECT 1" };
const LATER = { prefer: "respond-async" };

const approve = (url: string, dataProviders: readonly string[]) =>
  call("POST", `${url}/api/v1/requestApproval`, { type: "sqlDataRequest", user: ANALYST, dataProviders });

const planOf = async (door: FrontDoor, jobName: string): Promise<Plan> =>
  (await door.knowledge.store.get(planKeys.key({ jobName })))?.value as Plan;

/** As others see it when a replica dies: its record is gone. */
async function forgetReplica(door: FrontDoor, holds: (record: OrchestratorOnlineRecord) => boolean): Promise<void> {
  const { documents } = await door.knowledge.store.list(orchestratorOnlineKeys.prefix());
  const dead = documents.find(({ value }) => holds(value as OrchestratorOnlineRecord));
  assert.ok(dead);
  await door.knowledge.store.delete(dead.key);
}

/** A replica `a`, and one `b` with a state folder of its own but the same keys; an agent whose answers the test gives. */
async function twoReplicas(t: TestContext) {
  const held: ServerResponse[] = [];
  const door = await startFrontDoor(t);
  const vu = await door.agent("VU", { answer: (_request, response) => void held.push(response) });
  // As on a cluster: the keys are mounted into each.
  await mkdir(join(door.folder, "b"));
  for (const key of ["signing-key.json", "admin-key"]) {
    await copyFile(join(door.folder, "orchestrator", key), join(door.folder, "b", key));
  }
  const b = await door.replica("b");
  const { body } = await approve(door.url, ["VU"]);
  const headers = { authorization: `Bearer ${body.auth.accessToken}` };
  const at = (url: string, method: string, path: string, more: Record<string, string> = {}, question?: object) =>
    call(method, `${url}${path}`, question, { ...headers, ...more });
  const finish = async (index: number, rows: readonly object[]) => {
    const response = await eventually(() => held[index]);
    response.setHeader("content-type", "application/json").end(agentAnswer("VU", rows));
  };
  return { door, vu, a: door.url, b, at, finish };
}

const PATH = "/api/v1/sqlDataRequest";
const answered = (ask: () => ReturnType<typeof call>) =>
  eventually(async () => {
    const found = await ask();
    return found.status === 202 ? undefined : found;
  });

test("an asynchronous request that was posted at one replica is found, fetched and repeated at the other", async (t) => {
  const { vu, a, b, at, finish } = await twoReplicas(t);
  const key = { ...LATER, "idempotency-key": "here-and-there" };
  const { body, status } = await at(a, "POST", PATH, key, QUESTION);
  assert.equal(status, 202);
  const repeat = await at(b, "POST", PATH, key, QUESTION);
  assert.deepEqual([repeat.status, repeat.body.location], [202, body.location]);
  assert.equal(repeat.headers.get("preference-applied"), "respond-async");
  const other = await at(b, "POST", PATH, key, { ...QUESTION, query: "SELECT 2" });
  assert.equal(other.body.code, "idempotency_key_reused");
  assert.equal((await at(b, "GET", body.location)).status, 202);
  assert.equal((await call("GET", `${b}${body.location}`)).body.code, "unauthenticated");
  const large = Array.from({ length: 20_000 }, (_, n) => ({ n, text: "x".repeat(100) }));
  await finish(0, large);
  const answer = await answered(() => at(b, "GET", body.location));
  assert.deepEqual([answer.status, answer.body.responses[0]?.rows], [200, large]);
  assert.equal(vu.requests.length, 1, "it ran once");
});

test("an asynchronous request that runs at one replica is cancelled at the other", async (t) => {
  const { vu, a, b, at } = await twoReplicas(t);
  const { body } = await at(a, "POST", PATH, LATER, QUESTION);
  await eventually(() => vu.requests.length === 1);
  assert.equal((await at(b, "DELETE", body.location)).status, 204);
  await eventually(() => vu.cancels.includes(body.requestId));
  assert.equal((await at(a, "GET", body.location)).status, 404);
  assert.equal((await at(b, "GET", body.location)).status, 404);
  assert.equal((await at(b, "DELETE", body.location)).status, 404);
});

test("an answer that is lost with its replica says that the request is to be posted again, and the repeat runs anew", async (t) => {
  const { door, vu, a, b, at, finish } = await twoReplicas(t);
  const key = { ...LATER, "idempotency-key": "lost" };
  const { body } = await at(a, "POST", PATH, key, QUESTION);
  await eventually(() => vu.requests.length === 1);
  await forgetReplica(door, ({ url }) => url === a);
  const lost = await at(b, "GET", body.location);
  assert.deepEqual([lost.status, lost.body.code], [503, "unavailable"]);
  assert.match(lost.body.detail, /Post the request again under the same Idempotency-Key/);
  assert.equal((await at(b, "POST", PATH, key, QUESTION)).status, 202);
  await finish(1, [{ n: 2 }]);
  const answer = await answered(() => at(b, "GET", body.location));
  assert.deepEqual(answer.body.responses[0]?.rows, [{ n: 2 }]);
  assert.equal(vu.requests[1]?.headers["idempotency-key"], body.requestId, "under the same id");
});

test("one that is lost with its replica can be cancelled at another, and the parties hear of it", async (t) => {
  const { door, vu, a, b, at } = await twoReplicas(t);
  const { body } = await at(a, "POST", PATH, LATER, QUESTION);
  await eventually(() => vu.requests.length === 1);
  await forgetReplica(door, ({ url }) => url === a);
  assert.equal((await at(b, "DELETE", body.location)).status, 204);
  await eventually(() => vu.cancels.includes(body.requestId));
  assert.equal((await at(b, "GET", body.location)).status, 404);
});

test("an owner that stands in the store but takes no connections: its request is taken over", async (t) => {
  const { door, vu, a, b, at, finish } = await twoReplicas(t);
  const key = { ...LATER, "idempotency-key": "unreachable" };
  const { body } = await at(a, "POST", PATH, key, QUESTION);
  await eventually(() => vu.requests.length === 1);
  const { documents } = await door.knowledge.store.list(orchestratorOnlineKeys.prefix());
  const owner = documents.find(({ value }) => (value as OrchestratorOnlineRecord).url === a);
  assert.ok(owner);
  // The discard port: nobody listens there.
  await door.knowledge.store.put(owner.key, { ...(owner.value as object), url: "http://127.0.0.1:9" });
  assert.equal((await at(b, "GET", body.location)).body.code, "unavailable");
  assert.equal((await at(b, "POST", PATH, key, QUESTION)).status, 202);
  await finish(1, [{ n: 3 }]);
  const answer = await answered(() => at(b, "GET", body.location));
  assert.deepEqual(answer.body.responses[0]?.rows, [{ n: 3 }]);
});

test("replicas that start at once on one state folder have one signing key and one admin key", async (t) => {
  const door = await startFrontDoor(t);
  const urls = await Promise.all([1, 2, 3, 4].map(() => door.replica("fresh")));
  const keySets = await Promise.all(urls.map(async (url) => (await call("GET", `${url}/.well-known/jwks.json`)).text));
  assert.deepEqual(new Set(keySets).size, 1);
  const adminKey = (await readFile(join(door.folder, "fresh", "admin-key"), "utf8")).trim();
  for (const url of urls) {
    const put = await call("PUT", `${url}/api/v1/policyEnforcer`, agreementOf("VU"), { "x-admin-key": adminKey });
    assert.equal(put.status, 200);
  }
});

const versionsOf = ({ compositions }: FakeAgent) => compositions.map(({ plan_version }) => plan_version);
const moveTo = (door: FrontDoor, archetype: string) =>
  door.knowledge.put("agreements", agreementOf("VU", { archetypes: [archetype] }));

test("twelve changes of an agreement with two replicas watching: each is composed once, and no plan twice", async (t) => {
  const door = await startFrontDoor(t);
  const [vu, uva, surf] = [await door.agent("VU"), await door.agent("UVA"), await door.agent("SURF")];
  await door.replica();
  const { body } = await approve(door.url, ["VU", "UVA"]);
  const archetypes = ["dataThroughTtp", "computeToData"];
  for (let change = 0; change < 12; change++) {
    const archetype = archetypes[change % 2] ?? "";
    await moveTo(door, archetype);
    await eventually(async () => {
      const plan = await planOf(door, body.jobId);
      return plan.state === "ready" && plan.archetype === archetype;
    });
  }
  const all = Array.from({ length: 13 }, (_, index) => index + 1);
  assert.deepEqual(versionsOf(vu), all);
  assert.deepEqual(versionsOf(uva), all);
  assert.deepEqual(
    versionsOf(surf),
    all.filter((version) => version % 2 === 0),
  );
});

test("changes faster than they can be followed: no plan is composed twice, and the last one stands", async (t) => {
  const door = await startFrontDoor(t);
  const [vu, uva, surf] = [await door.agent("VU"), await door.agent("UVA"), await door.agent("SURF")];
  await Promise.all([door.replica(), door.replica()]);
  const { body } = await approve(door.url, ["VU", "UVA"]);
  for (let change = 0; change < 20; change++) {
    await moveTo(door, change % 2 === 0 ? "computeToData" : "dataThroughTtp");
  }
  await eventually(async () => {
    const plan = await planOf(door, body.jobId);
    return plan.state === "ready" && plan.archetype === "dataThroughTtp";
  });
  for (const agent of [vu, uva, surf]) {
    const versions = versionsOf(agent);
    assert.equal(new Set(versions).size, versions.length, `${agent.name}: ${versions.join()}`);
    const current = (await planOf(door, body.jobId)).version;
    assert.equal(versions.at(-1), current);
  }
});

test("a replica that is paused while composing is relieved, and does no harm when it goes on", async (t) => {
  const door = await startFrontDoor(t);
  const [vu, uva] = [await door.agent("VU"), await door.agent("UVA")];
  const gate = new AbortController();
  let acknowledgements = 0;
  // What the first composer waits for comes only when another has taken its place.
  const surf = await door.agent("SURF", {
    beforeAcknowledging: async () => {
      if (++acknowledgements > 1 || gate.signal.aborted) return;
      await new Promise((resolve) => gate.signal.addEventListener("abort", resolve));
    },
  });
  await door.replica();
  const { body } = await approve(door.url, ["VU", "UVA"]);
  await moveTo(door, "dataThroughTtp");
  await eventually(() => surf.compositions.length === 1);
  const { composer } = await planOf(door, body.jobId);
  await forgetReplica(door, ({ instance }) => instance === composer);
  const plan = await eventually(async () => {
    const now = await planOf(door, body.jobId);
    return now.state === "ready" && now.version === 3 ? now : undefined;
  });
  gate.abort();
  // It is told that its plan was replaced, and tells those it had composed: with the older version, which they refuse.
  await eventually(() => surf.policyUpdates.length > 0);
  assert.deepEqual(
    [vu, uva, surf].flatMap(({ policyUpdates }) => policyUpdates.map(({ planVersion }) => planVersion)),
    [2, 2, 2],
  );
  assert.deepEqual(await planOf(door, body.jobId), plan);
  assert.deepEqual(
    [versionsOf(vu), versionsOf(uva), versionsOf(surf)],
    [
      [1, 2, 3],
      [1, 2, 3],
      [2, 3],
    ],
  );
});

test("an archetype's weight that changes while a request is being approved counts for it", async (t) => {
  const gate = new AbortController();
  const door = await startFrontDoor(t);
  const vu = await door.agent("VU", {
    beforeAcknowledging: async () => {
      if (gate.signal.aborted) return;
      await new Promise((resolve) => gate.signal.addEventListener("abort", resolve));
    },
  });
  await door.agent("UVA");
  await door.agent("SURF");
  const approval = approve(door.url, ["VU", "UVA"]);
  await eventually(() => vu.compositions.length === 1);
  const { documents } = await door.knowledge.list("archetypes");
  const through = documents.find(({ document }) => document.name === "dataThroughTtp")?.document as Archetype;
  await door.knowledge.put("archetypes", { ...through, weight: -1 });
  gate.abort();
  const { body } = await approval;
  assert.equal(body.archetype, "dataThroughTtp", JSON.stringify(body));
});
