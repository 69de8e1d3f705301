import assert from "node:assert/strict";
import { statSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { lockKeys } from "../../lib/knowledge/keys.ts";
import type { Agreement } from "../../lib/model/agreement.ts";
import type { DataSet } from "../../lib/model/dataset.ts";
import { agreementOf, ANALYST, call, startFrontDoor, type FrontDoor } from "../support/front-door.ts";

const KINDS = ["archetypes", "policyEnforcer", "requestTypes", "microservices", "datasets", "forcedServices"];

function admin(door: FrontDoor) {
  const headers = { authorization: `Bearer ${door.adminKey}` };
  return {
    get: (path: string) => call("GET", `${door.url}/api/v1/${path}`, undefined, headers),
    put: (path: string, document: unknown, more = {}) =>
      call("PUT", `${door.url}/api/v1/${path}`, document, { ...headers, ...more }),
    delete: (path: string, more = {}) =>
      call("DELETE", `${door.url}/api/v1/${path}`, undefined, { ...headers, ...more }),
  };
}

const algorithm = {
  name: "sql-algorithm",
  label: "computeProvider",
  allowedOutputs: ["sql-graph"],
  invalidArchetypes: [],
};

test("documents of every kind are listed, read one by one with an ETag, and unknown names are not found", async (t) => {
  const door = await startFrontDoor(t);
  const { get } = admin(door);
  for (const kind of KINDS) {
    const all = await get(kind);
    assert.equal(all.status, 200, kind);
    const [first] = all.body as unknown as { name?: string; data_steward?: string }[];
    const one = await get(`${kind}/${first?.name ?? first?.data_steward ?? ""}`);
    assert.deepEqual([one.status, one.body], [200, first], kind);
    assert.match(one.headers.get("etag") ?? "", /^"\d+"$/);
    const missing = await get(`${kind}/noSuchName`);
    assert.deepEqual([missing.status, missing.body.code], [404, "not_found"], kind);
  }
  assert.deepEqual((await get("policyEnforcer/agreements/VU")).body, (await get("policyEnforcer/VU")).body);
});

test("a document is put, changed under its ETag, and deleted", async (t) => {
  const { put, get, delete: remove } = admin(await startFrontDoor(t));
  const post = { name: "byPost", computeProvider: "other", resultRecipient: "requestor", weight: 900 };
  const first = await put("archetypes", post, { "if-none-match": "*" });
  assert.equal(first.status, 201, JSON.stringify(first.body));
  const etag = first.headers.get("etag") ?? "";
  assert.equal((await put("archetypes", post, { "if-none-match": "*" })).body.code, "precondition_failed");
  const second = await put("archetypes/byPost", { ...post, weight: 901 }, { "if-match": etag });
  assert.equal(second.status, 200);
  const stale = await put("archetypes", { ...post, weight: 902 }, { "if-match": etag });
  assert.deepEqual([stale.status, stale.body.code], [412, "precondition_failed"]);
  assert.equal(((await get("archetypes/byPost")).body as unknown as { weight: number }).weight, 901);
  assert.equal((await remove("archetypes/byPost", { "if-match": etag })).status, 412);
  assert.equal((await remove("archetypes/byPost")).status, 204);
  assert.equal((await remove("archetypes/byPost")).status, 404);
});

test("writes need the admin key, and the file that holds it is its owner's alone", async (t) => {
  const door = await startFrontDoor(t);
  const url = `${door.url}/api/v1/policyEnforcer`;
  const document = agreementOf("VU");
  assert.equal((await call("PUT", url, document)).body.code, "unauthenticated");
  assert.equal((await call("PUT", url, document, { "x-admin-key": `${door.adminKey}x` })).body.code, "forbidden");
  assert.equal((await call("DELETE", `${url}/VU`)).body.code, "unauthenticated");
  assert.equal((await call("PUT", url, document, { "x-admin-key": door.adminKey })).status, 200);
  assert.equal(statSync(join(door.folder, "orchestrator", "admin-key")).mode & 0o777, 0o600);
});

test("of agreements a token's bearer sees what concerns the bearer, and nobody sees them without one", async (t) => {
  const door = await startFrontDoor(t);
  await door.agent("VU");
  const own = agreementOf("VU").relations[ANALYST.userName];
  assert.ok(own);
  await admin(door).put(
    "policyEnforcer",
    agreementOf("VU", { relations: { [ANALYST.userName]: own, "other@example.org": own } }),
  );
  assert.equal((await call("GET", `${door.url}/api/v1/policyEnforcer`)).body.code, "unauthenticated");
  const approval = await call("POST", `${door.url}/api/v1/requestApproval`, {
    type: "sqlDataRequest",
    user: ANALYST,
    dataProviders: ["VU"],
  });
  const bearer = { authorization: `Bearer ${approval.body.auth.accessToken}` };
  const list = (await call("GET", `${door.url}/api/v1/policyEnforcer`, undefined, bearer))
    .body as unknown as Agreement[];
  assert.deepEqual(
    list.flatMap(({ relations }) => Object.keys(relations)),
    [ANALYST.userName, ANALYST.userName],
  );
  const one = (await call("GET", `${door.url}/api/v1/policyEnforcer/VU`, undefined, bearer))
    .body as unknown as Agreement;
  assert.deepEqual(Object.keys(one.relations), [ANALYST.userName]);
});

test("a document of a wrong form is refused with the place of each fault, and not stored", async (t) => {
  const { put, get } = admin(await startFrontDoor(t));
  const fault = async (path: string, document: unknown) => {
    const { status, body } = await put(path, document);
    return [status, body.code, body.pointer];
  };
  assert.deepEqual(
    await fault("archetypes", { name: "x", computeProvider: "moon", resultRecipient: "requestor", weight: 1 }),
    [422, "configuration_invalid", "/computeProvider"],
  );
  assert.deepEqual(await fault("archetypes", { name: "x" }), [422, "configuration_invalid", "/computeProvider"]);
  assert.deepEqual(await fault("policyEnforcer", { ...agreementOf("VU"), name: "V U" }), [
    422,
    "configuration_invalid",
    "/name",
  ]);
  assert.deepEqual(await fault("policyEnforcer", agreementOf("VU", {}, { minimumGroupSize: 0 })), [
    422,
    "configuration_invalid",
    `/relations/${ANALYST.userName}/minimumGroupSize`,
  ]);
  assert.deepEqual(await fault("datasets", []), [422, "configuration_invalid", ""]);
  assert.deepEqual(
    await fault("archetypes/another", { name: "x", computeProvider: "other", resultRecipient: "requestor", weight: 1 }),
    [400, "bad_request", "/name"],
  );
  assert.equal((await get("archetypes/x")).status, 404);
});

test("a microservice or request type that makes no chain is refused by name, and nothing is stored", async (t) => {
  const { put, get } = admin(await startFrontDoor(t));
  const refused = async (path: string, document: unknown) => {
    const { status, body } = await put(path, document);
    assert.deepEqual([status, body.code], [422, "chain_invalid"], JSON.stringify(body));
    return body.detail;
  };
  const before = (await get("microservices/sql-algorithm")).headers.get("etag");
  assert.match(await refused("microservices", { ...algorithm, allowedOutputs: ["sql-query"] }), /cycle/);
  assert.match(
    await refused("microservices", { ...algorithm, allowedOutputs: ["sql-nothing"] }),
    /"sql-nothing", which does not exist/,
  );
  assert.match(
    await refused("microservices", { ...algorithm, allowedOutputs: [] }),
    /"sql-algorithm" and "sql-graph" are not connected/,
  );
  assert.match(
    await refused("microservices", {
      ...algorithm,
      name: "sql-query",
      label: "dataProvider",
      allowedOutputs: ["sql-algorithm", "sql-anonymize"],
    }),
    /may not hand on to "sql-aggregate"/,
  );
  assert.match(
    await refused("microservices", { ...algorithm, label: "dataProvider", allowedOutputs: ["sql-graph"] }),
    /not connected|no chain/,
  );
  assert.match(
    await refused("requestTypes", {
      name: "other",
      requiredServices: ["sql-query", "sql-graph"],
      optionalServices: [],
    }),
    /not connected/,
  );
  assert.match(
    await refused("forcedServices", { data_steward: "VU", types: { sqlDataRequest: ["sql-lost"] } }),
    /no microservice "sql-lost"/,
  );
  assert.equal((await get("microservices/sql-algorithm")).headers.get("etag"), before);
  assert.equal((await get("requestTypes/other")).status, 404);
});

test("what others need is not deleted, and the answer says who needs it", async (t) => {
  const { delete: remove } = admin(await startFrontDoor(t));
  const refusal = async (path: string) => {
    const { status, body } = await remove(path);
    assert.equal(status, 422, path);
    return body.detail;
  };
  assert.match(await refusal("microservices/sql-graph"), /names microservice "sql-graph".*still needed/);
  assert.match(await refusal("archetypes/dataThroughTtp"), /archetype "dataThroughTtp"/);
  assert.match(await refusal("datasets/wageGap"), /no data set "wageGap"/);
  assert.match(await refusal("requestTypes/sqlDataRequest"), /no request type "sqlDataRequest"/);
});

test("an agreement must name what exists", async (t) => {
  const { put } = admin(await startFrontDoor(t));
  const fault = async (changes: Partial<Agreement>, relation: object = {}) => {
    const { status, body } = await put("policyEnforcer", agreementOf("VU", changes, relation));
    assert.deepEqual([status, body.code], [422, "configuration_invalid"], JSON.stringify(body));
    return body.pointer.replace(`/relations/${ANALYST.userName}`, "");
  };
  assert.equal(await fault({ archetypes: ["computeToData", "byPost"] }), "/archetypes/1");
  assert.equal(await fault({}, { allowedArchetypes: ["byPost"] }), "/allowedArchetypes/0");
  assert.equal(await fault({}, { requestTypes: ["phoneCall"] }), "/requestTypes/0");
  assert.equal(await fault({}, { dataSets: ["wageGap", "gossip"] }), "/dataSets/1");
  assert.equal(await fault({}, { validUntil: "next year" }), "/validUntil");
  assert.equal(
    await fault({}, { columns: { wageGap: { tables: { Personen: ["Schoenmaat"] } } } }),
    "/columns/wageGap/tables/Personen/0",
  );
  assert.equal(
    await fault({}, { columns: { wageGap: { tables: { Huisdieren: "*" } } } }),
    "/columns/wageGap/tables/Huisdieren",
  );
  const fine = { columns: { wageGap: { tables: { PERSONEN: ["geslacht"] } } }, validFrom: "2020-01-01T00:00:00Z" };
  assert.equal((await put("policyEnforcer", agreementOf("VU", {}, fine))).status, 200);
});

test("a data set's sensitive columns must be there, and its names be told apart", async (t) => {
  const { put, get } = admin(await startFrontDoor(t));
  const dataSet = (await get("datasets/wageGap")).body as unknown as DataSet;
  const fault = async (changes: object) => {
    const { status, body } = await put("datasets", { ...dataSet, ...changes });
    assert.equal(status, 422, JSON.stringify(body));
    return body.pointer;
  };
  const column = { name: "a", type: { type: "text" } };
  const plain = { sensitive_columns: {}, anonymization: {} };
  assert.equal(
    await fault({ sensitive_columns: { Personen: ["Unieknr", "Schoenmaat"] } }),
    "/sensitive_columns/Personen/1",
  );
  assert.equal(await fault({ sensitive_columns: { Huisdieren: [] } }), "/sensitive_columns/Huisdieren");
  assert.equal(
    await fault({ anonymization: { Personen: { Schoenmaat: { method: "mask" } } } }),
    "/anonymization/Personen/Schoenmaat",
  );
  assert.equal(
    await fault({ ...plain, tables: [{ name: "t", columns: [column, { ...column, name: "A" }] }] }),
    "/tables/0/columns/1/name",
  );
  assert.equal(
    await fault({
      ...plain,
      tables: [{ name: "t", columns: [{ name: "d", type: { type: "decimal", precision: 3, scale: 4 } }] }],
    }),
    "/tables/0/columns/0/type/scale",
  );
});

test("who is online is listed", async (t) => {
  const door = await startFrontDoor(t);
  const vu = await door.agent("VU");
  const { body } = await call("GET", `${door.url}/api/v1/getAvailableProviders`);
  assert.deepEqual(body, { VU: { name: "VU", activeSince: "2026-01-01T00:00:00Z", routingKey: "VU-in", dns: vu.url } });
});

test("chains are shown as JSON, DOT and SVG", async (t) => {
  const door = await startFrontDoor(t);
  await admin(door).put("forcedServices", { data_steward: "UVA", types: { sqlDataRequest: ["sql-anonymize"] } });
  const get = (path: string, headers = {}) => call("GET", `${door.url}/api/v1/chains/${path}`, undefined, headers);
  const chains = (await get("sqlDataRequest?archetype=dataThroughTtp&steward=UVA&options=graph")).body as unknown as {
    chains: { role: string; services: string[] }[];
  };
  assert.deepEqual(
    chains.chains.map(({ role, services }) => [role, services]),
    [
      ["dataProvider", ["sql-query", "sql-anonymize"]],
      ["computeProvider", ["sql-aggregate", "sql-algorithm", "sql-graph"]],
    ],
  );
  assert.match((await get("sqlDataRequest.dot")).text, /^digraph/);
  for (const [path, headers] of [
    ["sqlDataRequest.svg", {}],
    ["sqlDataRequest?format=svg", {}],
    ["sqlDataRequest", { accept: "image/svg+xml" }],
  ] as const) {
    const { headers: got, text } = await get(path, headers);
    assert.equal(got.get("content-type"), "image/svg+xml");
    assert.match(text.replaceAll("&#45;", "-"), /<svg[\s\S]*sql-query[\s\S]*<\/svg>/);
  }
  assert.equal((await get("phoneCall")).status, 404);
  assert.equal((await get("sqlDataRequest?role=boss")).status, 400);
});

test("the service says whether it lives and whether store and bus answer", async (t) => {
  const door = await startFrontDoor(t);
  assert.equal((await call("GET", `${door.url}/health`)).status, 200);
  const ready = await call("GET", `${door.url}/ready`);
  assert.equal(ready.status, 200, JSON.stringify(ready.body));
});

test("writes at two replicas wait for each other, and of two that are only wrong together one is refused", async (t) => {
  const door = await startFrontDoor(t);
  const replica = { ...door, url: await door.replica() };
  const archetype = { name: "extra", computeProvider: "other", resultRecipient: "requestor", weight: 900 };
  assert.equal((await admin(door).put("archetypes", archetype)).status, 201);
  // As a third replica would that is at work on a document.
  const lease = await door.knowledge.store.grantLease({ ttlMs: 5000 });
  await door.knowledge.store.put(lockKeys.key({ name: "documents" }), {}, { lease });
  const writes = [
    admin(door).put("policyEnforcer", agreementOf("NEW", { archetypes: [archetype.name] })),
    admin(replica).delete(`archetypes/${archetype.name}`),
  ];
  // That they wait can only be seen by waiting.
  assert.equal(await Promise.race([...writes, sleep(700, "waiting")]), "waiting");
  await lease.release();
  const statuses = (await Promise.all(writes)).map(({ status }) => status);
  assert.equal(statuses.filter((status) => status < 300).length, 1, String(statuses));
});

test("the lock of an orchestrator that was killed while writing documents is free again within moments", async (t) => {
  const door = await startFrontDoor(t);
  const lease = await door.knowledge.store.grantLease({ ttlMs: 1000, renewal: "manual" });
  await door.knowledge.store.put(lockKeys.key({ name: "documents" }), {}, { lease });
  const archetype = { name: "later", computeProvider: "other", resultRecipient: "requestor", weight: 900 };
  assert.equal((await admin(door).put("archetypes", archetype)).status, 201);
  assert.equal(await door.knowledge.store.get(lockKeys.key({ name: "documents" })), undefined);
});

test("the chain of a request type that is named as what every object has is drawn like any other", async (t) => {
  const door = await startFrontDoor(t);
  const unknown = await call("GET", `${door.url}/api/v1/chains/constructor`);
  assert.equal(unknown.status, 404);
  const requestType = { ...(await admin(door).get("requestTypes/sqlDataRequest")).body, name: "constructor" };
  assert.equal((await admin(door).put("requestTypes", requestType)).status, 201);
  const forced = (await admin(door).get("forcedServices")).body as unknown as { data_steward: string }[];
  const drawn = await call("GET", `${door.url}/api/v1/chains/constructor?steward=${forced[0]?.data_steward ?? ""}`);
  assert.equal(drawn.status, 200, drawn.text);
});
