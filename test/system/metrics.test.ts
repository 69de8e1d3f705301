/** What `/metrics` of a running exchange shows, before and after a question, and that it shows nothing of who asked what. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { POLICY_ENFORCER_QUEUE } from "../../lib/bus/queues.ts";
import { ANALYST, SALARY_QUERY, testExchange } from "../support/exchange.ts";
import { codeSpans, readPackageFile, tableOf } from "../support/markdown.ts";

const exchange = await testExchange({
  offline: ["RUG", "SURF"],
  environmentOf: { "agent-UVA": { DYNAMOS_METRICS: "off" } },
});

interface Sample {
  readonly name: string;
  readonly labels: string;
  readonly value: number;
}

function urlOf(part: string): string {
  const service = exchange.services.get(part);
  assert.ok(service, `${part} runs`);
  return service.url;
}

async function scrape(part: string): Promise<readonly Sample[]> {
  const response = await fetch(`${urlOf(part)}/metrics`);
  assert.equal(response.status, 200);
  assert.match(response.headers.get("content-type") ?? "", /^text\/plain; version=0\.0\.4/);
  const lines = (await response.text()).split("\n").filter((line) => line !== "" && !line.startsWith("#"));
  return lines.map((line) => {
    const [, name, labels, value] = /^([a-z_0-9]+)(\{.*\})? (\S+)$/.exec(line) ?? [];
    assert.ok(name !== undefined, `not a sample: ${line}`);
    return { name, labels: labels ?? "", value: Number(value) };
  });
}

/** The sum over all samples of this name whose labels match. */
function sum(samples: readonly Sample[], name: string, labels = /^/): number {
  const found = samples.filter((sample) => sample.name === name && labels.test(sample.labels));
  return found.reduce((total, { value }) => total + value, 0);
}

const question = {
  type: "sqlDataRequest",
  query: SALARY_QUERY,
  algorithm: "average",
  algorithmColumns: { Geslacht: "Aanst_22" },
};
const approval = { type: "sqlDataRequest", user: ANALYST, dataProviders: ["VU", "UVA"] };

test("each part shows its own queue, its dependencies and itself, before anything was asked", async () => {
  for (const [part, queue] of [
    ["orchestrator", POLICY_ENFORCER_QUEUE],
    ["policy-enforcer", POLICY_ENFORCER_QUEUE],
    ["agent-VU", "VU-in"],
  ] as const) {
    const samples = await scrape(part);
    const ofQueue = new RegExp(`queue="${queue}"`);
    assert.equal(sum(samples, "dynamos_bus_queue_consumers", ofQueue), 1, part);
    assert.equal(sum(samples, "dynamos_bus_queue_depth", ofQueue), 0, part);
    for (const dependency of ["knowledge store", "message bus"]) {
      assert.equal(sum(samples, "dynamos_dependency_up", new RegExp(`dependency="${dependency}"`)), 1, part);
    }
    const megabytes = sum(samples, "process_memory_usage_bytes") / 1024 / 1024;
    assert.ok(megabytes > 10 && megabytes < 1000, `${part} uses ${String(megabytes)} MiB`);
    assert.ok(sum(samples, "process_cpu_time_seconds_total") > 0, part);
  }
});

test("a question is seen at the front door, and as a chain at each agent that takes metrics", async () => {
  const answer = await exchange.client.ask({ ...approval, data_request: question });
  assert.equal(answer.status, "ok");
  const atDoor = await scrape("orchestrator");
  const approved = /http_request_method="POST",http_route="\/api\/v1\/requestApproval",http_response_status_code="200"/;
  assert.equal(sum(atDoor, "http_server_request_duration_seconds_count", approved), 1);
  assert.ok(sum(atDoor, "http_server_request_duration_seconds_sum", approved) > 0);
  const atAgent = await scrape("agent-VU");
  const chain = /archetype="computeToData",role="all",outcome="ok"/;
  assert.equal(sum(atAgent, "dynamos_chain_duration_seconds_count", chain), 1);
});

test("a question that fails is counted by its code", async () => {
  const wrong = { ...question, query: "SELECT nothing FROM nowhere" };
  await assert.rejects(exchange.client.ask({ ...approval, dataProviders: ["VU"], data_request: wrong }));
  const failed = /outcome="query_invalid"/;
  assert.equal(sum(await scrape("agent-VU"), "dynamos_chain_duration_seconds_count", failed), 1);
});

test("no metric tells who asked, what, or under which job, and all are listed in docs/operations.md", async () => {
  const parts = ["orchestrator", "policy-enforcer", "agent-VU"];
  const samples = (await Promise.all(parts.map((part) => scrape(part)))).flat();
  const table = tableOf(await readPackageFile("docs/operations.md"), "Metrics");
  const listed = table.rows.map((row) => (codeSpans(row["Metric"] ?? "")[0] ?? "").replaceAll(".", "_"));
  const suffix = /^(_seconds|_bytes|_ratio)?(_total|_bucket|_count|_sum)?$/;
  const isListed = (name: string): boolean =>
    listed.some((known) => name.startsWith(known) && suffix.test(name.slice(known.length)));
  assert.deepEqual(
    [...new Set(samples.map(({ name }) => name))].filter((name) => !isListed(name)),
    [],
  );
  const labels = samples.map((sample) => sample.labels).join("\n");
  assert.doesNotMatch(labels, /analyst|example|SELECT|Geslacht|Aanst|[0-9a-f]{8}-[0-9a-f]{4}-/);
});

test("a part whose setting says so takes none", async () => {
  assert.equal((await fetch(`${urlOf("agent-UVA")}/metrics`)).status, 404);
  assert.equal((await fetch(`${urlOf("agent-UVA")}/ready`)).status, 200);
});
