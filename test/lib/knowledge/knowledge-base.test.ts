import assert from "node:assert/strict";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { agreementKeys, microserviceKeys, onlineKeys } from "../../../lib/knowledge/keys.ts";
import { documentKey, documentName, DOCUMENT_KINDS, KnowledgeBase } from "../../../lib/knowledge/knowledge-base.ts";
import { openKnowledgeStore } from "../../../lib/knowledge/open.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

async function openBase(t: TestContext): Promise<KnowledgeBase> {
  const store = await openKnowledgeStore({ kind: "sqlite", path: join(await temporaryFolder(), "knowledge.db") });
  t.after(() => store.close());
  return new KnowledgeBase(store);
}

const agreement = { name: "VU", relations: {}, computeProviders: ["SURF"], archetypes: ["computeToData"] };

test("a document comes back as it was put, with its revision, and is gone after its delete", async (t) => {
  const base = await openBase(t);
  const revision = await base.put("agreements", agreement, { ifRevision: 0 });
  assert.deepEqual(await base.get("agreements", "VU"), { document: agreement, revision });
  assert.deepEqual((await base.list("agreements")).documents, [{ document: agreement, revision }]);
  assert.equal(await base.delete("agreements", "VU"), true);
  assert.equal(await base.get("agreements", "VU"), undefined);
});

test("a document of a wrong form is not stored, and the error points into it", async (t) => {
  const base = await openBase(t);
  await assert.rejects(base.put("agreements", { ...agreement, archetypes: [1] as unknown as string[] }), {
    code: "configuration_invalid",
    place: { pointer: "/archetypes/0" },
  });
  assert.equal(await base.store.get(documentKey("agreements", "VU")), undefined);
});

test("a stored document of a wrong form is an error that names its key and the place in it", async (t) => {
  const base = await openBase(t);
  await base.store.put(agreementKeys.key({ steward: "UVA" }), { ...agreement, name: 5 });
  const fault = { code: "configuration_invalid", message: /\/policyEnforcer\/agreements\/UVA is invalid at "\/name"/ };
  await assert.rejects(base.get("agreements", "UVA"), fault);
  await assert.rejects(base.list("agreements"), fault);
});

test("a document that had its form once is checked anew when it has changed, by whomever", async (t) => {
  const base = await openBase(t);
  await base.put("agreements", agreement);
  for (let again = 0; again < 2; again += 1)
    assert.deepEqual((await base.get("agreements", "VU"))?.document, agreement);
  await base.store.put(agreementKeys.key({ steward: "VU" }), { ...agreement, name: 5 });
  for (let again = 0; again < 2; again += 1) {
    await assert.rejects(base.get("agreements", "VU"), { code: "configuration_invalid" });
    await assert.rejects(base.list("agreements"), { code: "configuration_invalid" });
  }
  const { revision } = (await base.store.get(agreementKeys.key({ steward: "VU" }))) ?? { revision: 0 };
  await base.put("agreements", { ...agreement, archetypes: [] }, { ifRevision: revision });
  assert.deepEqual(
    (await base.get("agreements", "VU"))?.document.archetypes,
    [],
    "as it is now, not as it was checked",
  );
});

test("a large agreement that was checked before is read without being checked again", async (t) => {
  const base = await openBase(t);
  const relation = {
    ID: "x",
    requestTypes: ["sqlDataRequest"],
    dataSets: ["codes", "wages"],
    allowedArchetypes: ["computeToData"],
    allowedComputeProviders: ["SURF"],
  };
  const people = Array.from({ length: 2_000 }, (_, n) => [`user${String(n)}@example.org`, relation] as const);
  await base.put("agreements", { ...agreement, relations: Object.fromEntries(people) });
  const first = await processorMs(() => base.get("agreements", "VU"));
  const later = [];
  for (let round = 0; round < 5; round += 1) later.push(await processorMs(() => base.get("agreements", "VU")));
  assert.ok(
    Math.min(...later) < first / 2,
    `${first.toFixed(1)} ms, then ${later.map((ms) => ms.toFixed(1)).join(", ")}`,
  );
});

async function processorMs(work: () => Promise<unknown>): Promise<number> {
  const before = process.cpuUsage();
  await work();
  const { user, system } = process.cpuUsage(before);
  return (user + system) / 1000;
}

test("every kind's keys give the name back, and no other kind's", () => {
  for (const kind of DOCUMENT_KINDS) {
    assert.equal(documentName(kind, documentKey(kind, "Abc")), "Abc");
    for (const other of DOCUMENT_KINDS) {
      if (other !== kind) assert.equal(documentName(other, documentKey(kind, "Abc")), undefined);
    }
  }
});

test("keys of other kinds under the same prefix are not listed as documents", async (t) => {
  const base = await openBase(t);
  await base.store.put(`${microserviceKeys.prefix()}sql-query/logo`, "a picture");
  assert.deepEqual((await base.list("microservices")).documents, []);
});

test("who is online is listed by instance", async (t) => {
  const base = await openBase(t);
  const record = {
    name: "VU",
    activeSince: "2025-06-01T12:00:00Z",
    routingKey: "VU-in",
    dns: "http://127.0.0.1:1",
    instanceUrl: "http://127.0.0.1:1",
    instance: "a",
    grantKeys: [],
  };
  await base.store.put(onlineKeys.key({ party: "VU", instanceId: "a" }), record);
  await base.store.put(onlineKeys.key({ party: "VUB", instanceId: "b" }), { ...record, name: "VUB" });
  assert.deepEqual(await base.onlineInstances("VU"), [record]);
  assert.deepEqual(await base.onlineInstances("UVA"), []);
  assert.equal((await base.online()).documents.length, 2);
});
