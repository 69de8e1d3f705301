/** Two orchestrators and two policy enforcers at work at once, and one of them killed, or paused, in the middle. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { call, ExchangeClient, type GatheredAnswer } from "../../cli/client.ts";
import type { RunningService } from "../../cli/exchange/service-process.ts";
import { openMessageBus } from "../../lib/bus/open.ts";
import { orchestratorOnlineKeys, planKeys } from "../../lib/knowledge/keys.ts";
import { KnowledgeBase } from "../../lib/knowledge/knowledge-base.ts";
import { openKnowledgeStore } from "../../lib/knowledge/open.ts";
import type { Agreement } from "../../lib/model/agreement.ts";
import { eventually } from "../support/eventually.ts";
import { ANALYST, pauseService, rejectsWith, SALARY_QUERY, smallSample, testExchange } from "../support/exchange.ts";
import { pauseProcess, resumeProcess } from "../support/pause-process.ts";
import {
  approve,
  assertNothingLeft,
  chainProcess,
  pauseQueries,
  slowQuery,
  startedChains,
} from "../support/running-chains.ts";

const STEPS = 3_000_000;
const SLOW = { type: "sqlDataRequest", query: slowQuery(STEPS) };
const SUM = { type: "sqlDataRequest", query: SALARY_QUERY, algorithm: "count", algorithmColumns: { Geslacht: "*" } };
const THROUGH = { options: { aggregate: true } };
/** Until the lease of an instance that is silent has ended, and another has seen it. */
const LEASE_OVER_MS = 30_000;

const exchange = await testExchange({
  configuration: await smallSample(20),
  offline: ["RUG"],
  replicas: { orchestrator: 2, policyEnforcer: 2 },
  // Long enough for a busy machine: an instance that is silent for a lease counts as gone.
  environmentOf: { orchestrator: { DYNAMOS_ONLINE_LEASE_MS: "4000" } },
});
const NAMES = ["orchestrator", "orchestrator-2"] as const;
const [a, b] = [0, 1].map((index) => new ExchangeClient(exchange.urls[index] ?? "")) as [
  ExchangeClient,
  ExchangeClient,
];
const store = await openKnowledgeStore(exchange.storeUrl);
const knowledge = new KnowledgeBase(store);
after(() => store.close());

test("both serve: what one approved the other answers, with tokens of either", async () => {
  const approval = await a.requestApproval(request());
  const { accessToken: token } = approval.auth;
  const answers = [await a.askAgain(SUM, { token }), await b.askAgain(SUM, { token })];
  assert.deepEqual(answers[0]?.pooled, answers[1]?.pooled);
  assert.ok((answers[0]?.pooled?.rows?.length ?? 0) > 0);
  const atB = await b.requestApproval(request());
  assert.equal((await a.askAgain(SUM, { token: atB.auth.accessToken })).jobId, atB.jobId);
  const keySets = await Promise.all(
    exchange.urls.map(async (url) => (await call("GET", `${url}/.well-known/jwks.json`, undefined)).text()),
  );
  assert.equal(keySets[0], keySets[1]);
});

describe("an orchestrator that is killed", () => {
  test("in the middle of requests of both archetypes: repeated at the other, each is answered, its chains run once", async () => {
    const before = await planCount();
    const home = { ...request(), data_request: SLOW };
    const through = { ...request(), ...THROUGH, data_request: SLOW };
    const lost = [
      assert.rejects(a.ask(home, { idempotencyKey: "home" }), /fetch failed|terminated/),
      assert.rejects(a.ask(through, { idempotencyKey: "through" }), /fetch failed|terminated/),
    ];
    const goOn = await Promise.all(["VU", "UVA"].map((party) => pauseQueries(exchange, party, 2)));
    await chainProcess(exchange, "SURF", "sql-aggregate");
    await kill("orchestrator");
    await Promise.all(lost);
    for (const resume of goOn) resume();
    const [atHome, throughSurf] = await Promise.all([
      b.ask(home, { idempotencyKey: "home" }),
      b.ask(through, { idempotencyKey: "through" }),
    ]);
    assert.deepEqual(rowsOf(atHome), { UVA: [{ steps: STEPS }], VU: [{ steps: STEPS }] });
    assert.deepEqual(
      throughSurf.responses[0]?.rows?.map(({ steps }) => steps),
      [STEPS, STEPS],
    );
    assert.equal((await planCount()) - before, 2, "one job for each approval");
    for (const party of ["VU", "UVA"]) assert.equal(startedChains(exchange, party, atHome.requestId), 1);
    assert.equal(startedChains(exchange, "SURF", throughSurf.requestId), 1);
    await exchange.start("orchestrator");
    assert.deepEqual(rowsOf(await a.ask(home, { idempotencyKey: "home" })), rowsOf(atHome));
  });

  test("in the middle of an approval: repeated at the other, there is one job, and nothing of the first", async () => {
    const before = await planCount();
    const asked = { ...request(), data_request: SUM };
    // An agent that acknowledges nothing keeps the approval in the middle.
    const resumeAgent = await pauseService(exchange, "agent-UVA");
    const lost = assert.rejects(a.ask(asked, { idempotencyKey: "approval" }), /fetch failed|terminated/);
    await eventually(async () => (await claims()).length === 1);
    await kill("orchestrator");
    resumeAgent();
    await lost;
    const answer = await b.ask(asked, { idempotencyKey: "approval" });
    assert.deepEqual(answer.pooled?.providers, ["UVA", "VU"]);
    assert.equal((await planCount()) - before, 1);
    await eventually(
      async () =>
        (await store.list("/agents/jobs/VU/")).documents.length ===
        (await store.list("/agents/jobs/UVA/")).documents.length,
    );
    await exchange.start("orchestrator");
  });

  test("with an asynchronous answer under way: the other says what to do, and the repeat runs", async () => {
    const { auth } = await b.requestApproval(request());
    const options = { token: auth.accessToken, idempotencyKey: "later", headers: { prefer: "respond-async" } };
    const accepted = await call("POST", `${a.url}/api/v1/sqlDataRequest`, SLOW, options);
    const { location } = (await accepted.json()) as { location: string };
    const fetchAt = (client: ExchangeClient) =>
      call("GET", `${client.url}${location}`, undefined, { token: auth.accessToken });
    const goOn = await pauseQueries(exchange, "VU");
    assert.equal((await fetchAt(b)).status, 202, "found at the other");
    await kill("orchestrator");
    const lost = await eventually(
      async () => {
        const response = await fetchAt(b);
        return response.status === 503 ? response : undefined;
      },
      { timeoutMs: LEASE_OVER_MS },
    );
    const problem = (await lost.json()) as { code: string; retryable: boolean; detail: string };
    assert.deepEqual([problem.code, problem.retryable], ["unavailable", true]);
    assert.match(problem.detail, /under the same Idempotency-Key/);
    assert.equal((await call("POST", `${b.url}/api/v1/sqlDataRequest`, SLOW, options)).status, 202);
    goOn();
    await exchange.start("orchestrator");
    const done = await eventually(
      async () => {
        const response = await fetchAt(a);
        return response.status === 202 ? undefined : response;
      },
      { timeoutMs: 30_000 },
    );
    assert.deepEqual(rowsOf((await done.json()) as GatheredAnswer), {
      UVA: [{ steps: STEPS }],
      VU: [{ steps: STEPS }],
    });
  });
});

describe("an agreement that changes while both watch", () => {
  test("moves a job once for each change, whatever the number of replicas", async () => {
    const { jobId, auth } = await a.requestApproval(request());
    for (const archetype of ["dataThroughTtp", "computeToData", "dataThroughTtp", "computeToData"]) {
      await agree("VU", { archetypes: [archetype] });
      await eventually(async () => {
        const plan = await planOf(jobId);
        return plan.state === "ready" && plan.archetype === archetype;
      });
      for (const client of [a, b]) {
        const answer = await client.askAgain(SUM, { token: auth.accessToken });
        assert.equal(answer.archetype, archetype);
      }
    }
    const job = jobId.split("-").at(-1) ?? "";
    const composed = () => composedAt("VU").filter((line) => line.includes(`"job":"${job}"`)).length;
    await eventually(() => composed() >= 5);
    assert.equal(composed(), 5, "the approval, and four changes");
    await agree("VU", {});
  });

  test("and is withdrawn: neither answers any more, and both do when it is back", async () => {
    const { auth } = await b.requestApproval(request(["VU"]));
    const agreement = await knowledge.get("agreements", "VU");
    assert.ok(agreement);
    await knowledge.delete("agreements", "VU");
    for (const client of [a, b]) await rejectsWith(client.askAgain(SUM, { token: auth.accessToken }), "agreement_gone");
    await knowledge.put("agreements", agreement.document);
    for (const client of [b, a]) {
      assert.equal((await client.askAgain(SUM, { token: auth.accessToken })).archetype, "computeToData");
    }
  });

  test("with the replica paused that composes: the other completes it, and the late one does no harm", async () => {
    const { jobId, auth } = await approve(exchange, ["VU", "UVA"]);
    const resumeAgent = await pauseService(exchange, "agent-UVA");
    await agree("VU", { archetypes: ["dataThroughTtp"] });
    const { composer = "" } = await eventually(async () => {
      const plan = await planOf(jobId);
      return plan.state === "composing" ? plan : undefined;
    });
    const url = await urlOf(composer);
    const index = exchange.urls.indexOf(url ?? "");
    const paused = exchange.services.get(NAMES[index] ?? "");
    assert.ok(paused);
    await pause(paused);
    resumeAgent();
    const taken = await eventually(
      async () => {
        const plan = await planOf(jobId);
        return plan.state === "ready" && plan.archetype === "dataThroughTtp" ? plan : undefined;
      },
      { timeoutMs: LEASE_OVER_MS },
    );
    const other = index === 0 ? b : a;
    assert.equal((await other.askAgain(SUM, { token: auth.accessToken })).archetype, "dataThroughTtp");
    resumeProcess(paused.pid);
    await eventually(async () => (await urlOf(composer)) !== undefined, {
      timeoutMs: LEASE_OVER_MS,
      describe: "it to be registered again",
    });
    for (const client of [a, b]) {
      const answer = await client.askAgain(SUM, { token: auth.accessToken });
      assert.deepEqual([answer.archetype, answer.pooled?.providers?.length], ["dataThroughTtp", 2]);
    }
    assert.equal((await planOf(jobId)).version, taken.version);
    await agree("VU", {});
  });
});

test("a policy enforcer that is killed among many questions: every one is answered", async () => {
  const approvals = Array.from({ length: 8 }, (_, index) => (index % 2 === 0 ? a : b).requestApproval(request()));
  const enforcer = exchange.services.get("policy-enforcer");
  enforcer?.kill("SIGKILL");
  for (const approval of await Promise.all(approvals)) assert.equal(approval.archetype, "computeToData");
  assert.equal((await a.requestApproval(request())).archetype, "computeToData");
  await enforcer?.exited;
  await exchange.start("policy-enforcer");
});

test("of all this no chain, no run queue and no job is left", () => assertNothingLeft(exchange));

function request(dataProviders: readonly string[] = ["VU", "UVA"]) {
  return { type: "sqlDataRequest", user: ANALYST, dataProviders: [...dataProviders] };
}

async function kill(name: string): Promise<void> {
  const service = exchange.services.get(name);
  service?.kill("SIGKILL");
  await service?.exited;
}

/** Stops a process for a while, but not where it holds the lock of an embedded file: that would stop all the others, too. */
async function pause(service: RunningService): Promise<void> {
  // Open no longer than this: when the exchange has stopped, the bus must be without connections.
  const bus = await openMessageBus(exchange.busUrl);
  const isFree = async (): Promise<boolean> => {
    await store.put("/test/paused", {});
    await bus.declareQueue("test-paused", { kind: "run" });
    await bus.deleteQueue("test-paused");
    return store.delete("/test/paused");
  };
  await eventually(
    async () => {
      await pauseProcess(service.pid);
      const isAlone = await Promise.race([isFree(), sleep(1_000, false)]);
      if (!isAlone) resumeProcess(service.pid);
      return isAlone;
    },
    { describe: `${service.name} to be paused while it holds no lock` },
  ).finally(() => bus.close());
}

interface StoredPlan {
  readonly state: string;
  readonly archetype: string;
  readonly version: number;
  readonly composer?: string;
}

async function planOf(jobName: string): Promise<StoredPlan> {
  return (await store.get(planKeys.key({ jobName })))?.value as StoredPlan;
}

async function planCount(): Promise<number> {
  return (await store.list(planKeys.prefix())).documents.length;
}

/** Approvals under an Idempotency-Key that have no plan yet. */
async function claims(): Promise<readonly unknown[]> {
  const { documents } = await store.list("/orchestrator/requests/");
  const jobs = new Set((await store.list(planKeys.prefix())).documents.map(({ key }) => key));
  return documents.filter(({ value }) => !jobs.has(planKeys.key({ jobName: (value as { jobName: string }).jobName })));
}

async function urlOf(instanceId: string): Promise<string | undefined> {
  const stored = await store.get(orchestratorOnlineKeys.key({ instanceId }));
  return (stored?.value as { readonly url: string } | undefined)?.url;
}

/** An agent's log lines about jobs that it was composed for. */
function composedAt(party: string): string[] {
  const log = readFileSync(join(exchange.stateFolder, "logs", `agent-${party}.log`), "utf8");
  return log.split("\n").filter((line) => line.includes('"msg":"composed"'));
}

/** The steward's agreement as it was at first, with changes. */
async function agree(steward: string, changes: Partial<Agreement>): Promise<void> {
  const path = join(exchange.configuration, "agreements", `${steward}.json`);
  await knowledge.put("agreements", { ...(JSON.parse(readFileSync(path, "utf8")) as Agreement), ...changes });
}

function rowsOf(answer: GatheredAnswer): Record<string, unknown> {
  return Object.fromEntries(answer.responses.map(({ provider, rows }) => [provider, rows]));
}
