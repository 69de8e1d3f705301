import assert from "node:assert/strict";
import { after, beforeEach, describe, test } from "node:test";
import { call } from "../../cli/client.ts";
import { planKeys } from "../../lib/knowledge/keys.ts";
import { openKnowledgeStore } from "../../lib/knowledge/open.ts";
import type { Agreement } from "../../lib/model/agreement.ts";
import type { Archetype } from "../../lib/model/archetype.ts";
import { eventually } from "../support/eventually.ts";
import { changeDocument, pauseService, rejectsWith, testExchange } from "../support/exchange.ts";
import {
  KNOWN_SUMS,
  NUMBERS_APPROVAL,
  numbersAgreement,
  numbersConfiguration,
  SUM_QUESTION,
  sumsOf,
} from "../support/numbers.ts";

/** Far below the time that an endless answer is read for; how soon it is on a quiet machine no test can say. */
const REVOKED_WITHIN_MS = 30_000;
const GIVE_UP_MS = 90_000;
const ENDLESS = {
  type: "sqlDataRequest",
  query: "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n",
};

const exchange = await testExchange({ configuration: await numbersConfiguration() });
const { client, adminKey } = exchange;
const store = await openKnowledgeStore(exchange.storeUrl);
after(() => store.close());

const put = (agreement: Agreement) => client.put("policyEnforcer", agreement, { token: adminKey });
const onlyThroughTtp = (name: string) => put(numbersAgreement(name, { archetypes: ["dataThroughTtp"] }));
const planOf = async (jobName: string) =>
  (await store.get(planKeys.key({ jobName })))?.value as { version: number; state: string; archetype: string };
const settled = (jobName: string, holds: (plan: Awaited<ReturnType<typeof planOf>>) => boolean) =>
  eventually(async () => {
    const plan = await planOf(jobName);
    return plan.state !== "composing" && holds(plan) ? plan : undefined;
  });

async function approved(request: object = {}) {
  const { auth, jobId, archetype, authorizedProviders } = await client.requestApproval({
    ...NUMBERS_APPROVAL,
    ...request,
  });
  const endpointOf = (party: string) =>
    `${exchange.services.get(`agent-${party}`)?.url ?? ""}/agent/v1/sqlDataRequest/${party.toLowerCase()}`;
  const options = { token: auth.accessToken };
  return {
    jobId,
    archetype,
    authorizedProviders,
    token: auth.accessToken,
    atFrontDoor: (changes: object = {}) => client.askAgain({ ...SUM_QUESTION, ...changes }, options),
    atAgent: (party: string, changes: object = {}) =>
      client.askAgent(endpointOf(party), { ...SUM_QUESTION, ...changes }, options),
    /** Rows without end from a party; where nobody stops them, the test does. */
    stream: (party: string) =>
      call("POST", endpointOf(party), ENDLESS, { ...options, signal: AbortSignal.timeout(GIVE_UP_MS) }),
  };
}

beforeEach(async () => {
  for (const name of ["VU", "UVA"]) await put(numbersAgreement(name));
});

describe("an agreement that changes while a job lives", () => {
  test("moves the job to the other archetype under the same token, and back (thesis, 4.5.2)", async () => {
    const job = await approved();
    const before = await job.atFrontDoor();
    assert.equal(before.archetype, "computeToData");
    assert.deepEqual(sumsOf(before.pooled?.rows), KNOWN_SUMS.pooled);

    await onlyThroughTtp("VU");
    const through = await job.atFrontDoor();
    assert.equal(through.archetype, "dataThroughTtp", "at the very next request");
    assert.deepEqual(sumsOf(through.pooled?.rows), KNOWN_SUMS.pooled, "with the same answer");
    assert.deepEqual(sumsOf((await job.atAgent("SURF")).rows), KNOWN_SUMS.pooled);
    for (const party of ["VU", "UVA"]) {
      const moved = await rejectsWith(job.atAgent(party), "job_moved");
      assert.equal(moved["status"], 421);
      const { archetype, authorizedProviders } = moved["details"] as Record<string, object>;
      assert.equal(archetype, "dataThroughTtp");
      assert.deepEqual(authorizedProviders, {
        SURF: `${exchange.services.get("agent-SURF")?.url ?? ""}/agent/v1/sqlDataRequest/surf`,
      });
    }

    await put(numbersAgreement("VU"));
    const back = await job.atFrontDoor();
    assert.equal(back.archetype, "computeToData");
    assert.deepEqual(sumsOf(back.pooled?.rows), KNOWN_SUMS.pooled);
    assert.deepEqual(sumsOf((await job.atAgent("VU")).rows), KNOWN_SUMS.VU);
    const moved = await eventually(() => rejectsWith(job.atAgent("SURF"), "job_moved"));
    const { authorizedProviders } = moved["details"] as { authorizedProviders: object };
    assert.deepEqual(authorizedProviders, job.authorizedProviders);
  });

  test("stops what it no longer allows, and lets it live again when it allows it again", async () => {
    const job = await approved({ dataProviders: ["VU"] });
    await put(numbersAgreement("VU", { relations: {} }));
    const gone = await rejectsWith(job.atFrontDoor(), "agreement_gone");
    assert.deepEqual(
      (gone["details"] as { refused: { code: string }[] }).refused.map(({ code }) => code),
      ["no_relation"],
    );
    await rejectsWith(job.atAgent("VU"), "agreement_gone");
    await put(numbersAgreement("VU"));
    assert.deepEqual(sumsOf((await job.atFrontDoor()).responses[0]?.rows), KNOWN_SUMS.VU);
  });

  test("counts for the very next request: operations, raw rows, smallest group", async () => {
    const job = await approved();
    const rows = { algorithm: "", algorithmColumns: {} };
    assert.equal((await job.atAgent("VU", rows)).rows?.length, 3);
    await put(numbersAgreement("VU", {}, { rawRows: false }));
    await rejectsWith(job.atAgent("VU", rows), "operation_denied");
    await put(numbersAgreement("VU", {}, { operations: ["count"] }));
    await rejectsWith(job.atAgent("VU"), "operation_denied");
    await put(numbersAgreement("VU", {}, { minimumGroupSize: 2 }));
    const { rows: left, withheldGroups, minimumGroupSize } = await job.atAgent("VU");
    assert.deepEqual([sumsOf(left), withheldGroups, minimumGroupSize], [{ a: 3 }, 1, 2]);
    assert.equal((await planOf(job.jobId)).version, 1, "none of these touches the plan");
  });

  test("leaves the job alone where the change is another user's", async () => {
    const job = await approved();
    const { relations, ...agreement } = numbersAgreement("VU");
    const [relation] = Object.values(relations);
    assert.ok(relation);
    await put({ ...agreement, relations: { ...relations, "other@example.org": { ...relation, ID: "other" } } });
    await put({ ...agreement, relations: { ...relations } });
    assert.equal((await job.atFrontDoor()).archetype, "computeToData");
    // A later change that does move the job has been decided after these.
    await onlyThroughTtp("UVA");
    assert.equal((await settled(job.jobId, ({ archetype }) => archetype === "dataThroughTtp")).version, 2);
  });

  test("and archetypes that weigh otherwise compose the living jobs anew", async () => {
    const job = await approved();
    const weigh = (weight: number) =>
      changeDocument<Archetype>(exchange, "archetypes", "computeToData", (archetype) => ({ ...archetype, weight }));
    await weigh(900);
    await settled(job.jobId, ({ archetype }) => archetype === "dataThroughTtp");
    assert.deepEqual(sumsOf((await job.atAgent("SURF")).rows), KNOWN_SUMS.pooled);
    await weigh(100);
    await settled(job.jobId, ({ archetype }) => archetype === "computeToData");
  });
});

describe("rows on their way when an agreement changes", () => {
  test("stop where it no longer allows them, and the answer says why", async () => {
    const job = await approved({ dataProviders: ["VU"] });
    const reading = await readRows(await job.stream("VU"));
    await put(numbersAgreement("VU", { relations: {} }));
    await assertRevoked(reading, "agreement_gone");
  });

  test("stop on their way through a third party too, though the other steward still allows it", async () => {
    const job = await approved({ options: { aggregate: true } });
    const reading = await readRows(await job.stream("SURF"));
    await put(numbersAgreement("UVA", {}, { dataSets: [] }));
    await assertRevoked(reading, "agreement_gone");
  });

  test("do not wait for an agent that is silent: who withdrew is stopped all the same", async () => {
    const job = await approved();
    const reading = await readRows(await job.stream("VU"));
    const resume = await pauseService(exchange, "agent-UVA");
    try {
      await put(numbersAgreement("VU", { relations: {} }));
      await onlyThroughTtp("UVA");
      await assertRevoked(reading, "agreement_gone");
    } finally {
      resume();
    }
  });

  test("stop where the job moves, and asking again finds where it is", async () => {
    const job = await approved();
    const reading = await readRows(await job.stream("VU"));
    await onlyThroughTtp("UVA");
    await assertRevoked(reading, "job_moved");
    assert.deepEqual(sumsOf((await job.atFrontDoor()).pooled?.rows), KNOWN_SUMS.pooled);
  });
});

interface Reading {
  /** Resolves with the last characters of the answer. */
  readonly end: Promise<string>;
}

/** Reads an answer to its end, whose rows nobody keeps; resolves once rows come. */
async function readRows(response: Response): Promise<Reading> {
  assert.equal(response.status, 200, response.status === 200 ? "" : await response.text());
  const reader = (response.body as ReadableStream<Uint8Array> | null)?.getReader();
  assert.ok(reader);
  const first = await reader.read();
  assert.equal(first.done, false);
  const end = (async () => {
    let tail = "";
    const decoder = new TextDecoder();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return tail;
      tail = (tail + decoder.decode(value, { stream: true })).slice(-4_000);
    }
  })();
  return { end };
}

async function assertRevoked({ end }: Reading, code: string): Promise<void> {
  const startedMs = performance.now();
  const tail = await end;
  const tookMs = performance.now() - startedMs;
  assert.match(tail, new RegExp(`"code":"${code}"`), tail.slice(-1_000));
  assert.match(tail, /"status":"(failed|refused)"/);
  assert.ok(tookMs < REVOKED_WITHIN_MS, `rows came for ${tookMs.toFixed(0)} ms`);
}
