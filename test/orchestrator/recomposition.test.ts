import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";
import { decodeJwt } from "jose";
import { agreementKeys, planKeys } from "../../lib/knowledge/keys.ts";
import { AppError, toProblem } from "../../lib/errors.ts";
import type { Agreement } from "../../lib/model/agreement.ts";
import type { Plan } from "../../orchestrator/plans.ts";
import { eventually } from "../support/eventually.ts";
import {
  agentAnswer,
  agreementOf,
  ANALYST,
  call,
  startFrontDoor,
  type FakeAgentOptions,
  type FrontDoor,
} from "../support/front-door.ts";

const QUESTION = { type: "sqlDataRequest", query: "SELECT 1" };
type Terms = readonly [changes: Partial<Agreement>, relation: object];
const AT_HOME: Terms = [{ computeProviders: [], archetypes: ["computeToData"] }, { allowedComputeProviders: [] }];
const through = (name: string): Terms => [
  { computeProviders: [name], archetypes: ["dataThroughTtp"] },
  { allowedComputeProviders: [name] },
];

/** Answers as a real agent: only who shows a token for this party. */
const onlyWithTokenFor =
  (party: string): NonNullable<FakeAgentOptions["answer"]> =>
  ({ headers }, response) => {
    const { aud } = decodeJwt(String(headers.authorization).replace("Bearer ", ""));
    if ([aud].flat().includes(party)) {
      response.setHeader("content-type", "application/json").end(agentAnswer(party, [{ n: 1 }]));
      return;
    }
    response.writeHead(401, { "content-type": "application/problem+json" });
    response.end(JSON.stringify(toProblem(new AppError("token_invalid", `The token is not for ${party}.`))));
  };

async function approvedJob(t: TestContext, agreements: Terms) {
  const door = await startFrontDoor(t);
  for (const name of ["VU", "UVA"]) await door.agent(name, { answer: onlyWithTokenFor(name) });
  await agree(door, agreements);
  const { status, body } = await call("POST", `${door.url}/api/v1/requestApproval`, {
    type: "sqlDataRequest",
    user: ANALYST,
    dataProviders: ["VU", "UVA"],
  });
  assert.equal(status, 200, JSON.stringify(body));
  const again = () =>
    call("POST", `${door.url}/api/v1/sqlDataRequest`, QUESTION, { authorization: `Bearer ${body.auth.accessToken}` });
  return { door, body, again, plan: () => planOf(door, body.jobId) };
}

async function agree(door: FrontDoor, agreement: Terms): Promise<void> {
  for (const name of ["VU", "UVA"]) await door.knowledge.put("agreements", agreementOf(name, ...agreement));
}

async function planOf(door: FrontDoor, jobName: string): Promise<Plan> {
  return (await door.knowledge.store.get(planKeys.key({ jobName })))?.value as Plan;
}

test("a job that moves to a third party accepted since its approval is answered there, under the old token and a refreshed one", async (t) => {
  const { door, body, again } = await approvedJob(t, AT_HOME);
  await door.agent("SURF", { answer: onlyWithTokenFor("SURF") });
  await agree(door, through("SURF"));
  const moved = await again();
  assert.deepEqual([moved.status, moved.body.archetype], [200, "dataThroughTtp"], moved.text);
  const refreshed = await call("POST", `${door.url}/api/v1/token`, { refreshToken: body.auth.refreshToken });
  assert.deepEqual(decodeJwt(refreshed.body.accessToken).aud, ["SURF", "UVA", "VU"]);
});

test("a stopped job says what stops it now, and lives again when that third party arrives", async (t) => {
  const { door, again, plan } = await approvedJob(t, AT_HOME);
  await door.knowledge.put("agreements", agreementOf("VU", ...through("TNO")));
  assert.equal((await again()).body.reason, "archetype_conflict");
  await door.knowledge.put("agreements", agreementOf("UVA", ...through("TNO")));
  const waiting = await again();
  assert.deepEqual([waiting.status, waiting.body.code], [503, "compute_provider_unavailable"]);
  await door.agent("TNO", { answer: onlyWithTokenFor("TNO") });
  await eventually(async () => (await plan()).state === "ready");
  assert.equal((await again()).status, 200);
});

test("a third party's own agreement counts: a withdrawal is seen before the next request", async (t) => {
  const { door, again, plan } = await approvedJob(t, AT_HOME);
  await door.agent("SURF", { answer: onlyWithTokenFor("SURF") });
  await agree(door, through("SURF"));
  assert.equal((await again()).status, 200);
  const key = agreementKeys.key({ steward: "SURF" });
  for (const archetypes of [["dataThroughTtp"], []]) {
    await door.knowledge.put("agreements", agreementOf("SURF", { archetypes }));
    const revision = (await door.knowledge.store.get(key))?.revision;
    const { status, body } = await again();
    assert.equal((await plan()).agreements["SURF"], revision);
    assert.equal(status, archetypes.length > 0 ? 200 : 403, JSON.stringify(body));
  }
});
