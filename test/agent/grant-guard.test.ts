import assert from "node:assert/strict";
import { describe, test, type TestContext } from "node:test";
import { evaluateGrant, type Caller } from "../../agent/authorization.ts";
import { followAgreement, guardGrant, isWithin } from "../../agent/grant-guard.ts";
import type { LiveRun } from "../../agent/runs/live-runs.ts";
import type { AppError } from "../../lib/errors.ts";
import type { Agreement } from "../../lib/model/agreement.ts";
import type { Grant } from "../../lib/model/grant.ts";
import { openAgentDoor, type AgentDoor } from "../support/agent-door.ts";
import { eventually } from "../support/eventually.ts";
import { ANALYST } from "../support/exchange.ts";
import { NUMBERS, numbersAgreement } from "../support/numbers.ts";

const never = new AbortController().signal;

type Relation = Partial<Agreement["relations"][string]>;

/** A run at VU under the agreement as it is, held to it from then on. */
async function openGuardedRun(t: TestContext, relation: Relation = {}): Promise<{ door: AgentDoor; run: LiveRun }> {
  const door = await openAgentDoor(t, "VU", { role: "all" }, numbersAgreement("VU", {}, relation));
  const { context, jobName } = door;
  const following = new AbortController();
  const followed = followAgreement(context, context.live, following.signal);
  const job = await context.jobs.find(ANALYST.userName, jobName);
  assert.ok(job);
  const run = context.live.enter({ requestId: "r", jobName }, never);
  t.after(async () => {
    run.close();
    following.abort();
    await followed;
  });
  const claims = { sub: ANALYST.userName, uid: ANALYST.id, job: jobName, dataSets: [NUMBERS.name] };
  const caller = { claims, accessToken: "" } as unknown as Caller;
  const purpose = { requestId: "r", deadlineMs: Date.now() + 60_000, algorithms: ["sum"] };
  const evaluation = await evaluateGrant(context, caller, job, purpose);
  guardGrant(context, run, { ...evaluation, caller, job, purpose });
  return { door, run };
}

async function reasonOf(run: LiveRun): Promise<AppError> {
  await eventually(() => run.signal.aborted, { timeoutMs: 20_000 });
  return run.signal.reason as AppError;
}

describe("a run whose agreement changes", () => {
  test("ends when it grants less, and says to ask again", async (t) => {
    const { door, run } = await openGuardedRun(t);
    await door.knowledge.put("agreements", numbersAgreement("VU", {}, { minimumGroupSize: 7 }));
    const { code, message } = await reasonOf(run);
    assert.equal(code, "agreement_gone");
    assert.match(message, /Ask again/);
  });

  test("goes on when it grants more, or something else to somebody else", async (t) => {
    const { door, run } = await openGuardedRun(t, { minimumGroupSize: 7 });
    const { relations, ...agreement } = numbersAgreement("VU", {}, { minimumGroupSize: 5 });
    await door.knowledge.put("agreements", { ...agreement, relations });
    await door.knowledge.put("agreements", { ...agreement, relations, computeProviders: [] });
    let rechecks = 0;
    door.context.live.enter({ requestId: "s", jobName: "other" }, never).recheckBy(async () => void (rechecks += 1));
    await door.knowledge.put("agreements", { ...agreement, relations });
    await eventually(() => rechecks > 0);
    assert.equal(run.signal.aborted, false);
  });

  test("ends when nothing is granted any more, after a time in which the orchestrator may say more", async (t) => {
    const { door, run } = await openGuardedRun(t);
    const withdrawnMs = performance.now();
    await door.knowledge.put("agreements", numbersAgreement("VU", { relations: {} }));
    assert.equal((await reasonOf(run)).details["refusal"], "no_relation");
    assert.ok(performance.now() - withdrawnMs > 2_000, "the orchestrator was not waited for");
  });

  test("ends when its time is over, without any change", async (t) => {
    const validUntil = new Date(Date.now() + 4_000).toISOString();
    const { run } = await openGuardedRun(t, { validUntil });
    assert.equal(run.signal.aborted, false);
    assert.equal((await reasonOf(run)).details["refusal"], "relation_not_valid_now");
    assert.ok(Date.now() >= Date.parse(validUntil));
  });

  test("gets the time that a later agreement gives it", async (t) => {
    const { door, run } = await openGuardedRun(t, { validUntil: new Date(Date.now() + 4_000).toISOString() });
    const later = new Date(Date.now() + 6_500).toISOString();
    await door.knowledge.put("agreements", numbersAgreement("VU", {}, { validUntil: later }));
    await reasonOf(run);
    assert.ok(Date.now() >= Date.parse(later));
  });
});

test("a change before a run can be asked is not missed", async (t) => {
  const { context } = await openAgentDoor(t, "VU", { role: "all" });
  const run = context.live.enter({ requestId: "r", jobName: "job" }, never);
  await context.live.recheckAll();
  let rechecks = 0;
  run.recheckBy(async () => void (rechecks += 1));
  assert.equal(rechecks, 1);
});

describe("a grant is within another", () => {
  const grant: Grant = {
    steward: "VU",
    requestId: "r",
    jobName: "job",
    requestType: "sqlDataRequest",
    dataSets: [NUMBERS],
    minimumGroupSize: 3,
    rawRows: true,
    agreementRevision: 1,
    deadlineMs: 0,
  };
  const [table] = NUMBERS.tables;
  assert.ok(table);
  const fewerColumns = { ...NUMBERS, tables: [{ ...table, columns: table.columns.slice(1) }] };

  test("that grants the same, more data, smaller groups", () => {
    assert.ok(isWithin(grant, { ...grant, agreementRevision: 2 }));
    assert.ok(isWithin({ ...grant, dataSets: [fewerColumns] }, grant));
    assert.ok(isWithin(grant, { ...grant, minimumGroupSize: 1 }));
    assert.ok(isWithin({ ...grant, rawRows: false }, grant));
    assert.ok(isWithin({ ...grant, dataSets: [] }, grant));
  });

  test("not that grants fewer columns, tables or data sets, larger groups, no rows", () => {
    assert.ok(!isWithin(grant, { ...grant, dataSets: [fewerColumns] }));
    assert.ok(!isWithin(grant, { ...grant, dataSets: [{ ...NUMBERS, tables: [] }] }));
    assert.ok(!isWithin(grant, { ...grant, dataSets: [] }));
    assert.ok(!isWithin(grant, { ...grant, minimumGroupSize: 4 }));
    assert.ok(!isWithin(grant, { ...grant, rawRows: false }));
  });
});
