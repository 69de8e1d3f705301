/** One trace goes from the caller to the last microservice; logs say which request they are about, and nothing that is personal. */
import assert from "node:assert/strict";
import { randomBytes, randomUUID } from "node:crypto";
import { readdir, readFile } from "node:fs/promises";
import { join, relative } from "node:path";
import { describe, test } from "node:test";
import { ANALYST, testExchange, writeConfiguration } from "../support/exchange.ts";
import { eventually } from "../support/eventually.ts";
import { startTraceCollector, type CollectedSpan } from "../support/trace-collector.ts";

/** Values, and words of queries, that stand nowhere else. */
const VALUES = ["zebrafinch", "quokkaland", "48151623.42"];
const QUERY_WORD = "wombatwords";
const QUESTION = {
  type: "sqlDataRequest",
  query: `SELECT team AS ${QUERY_WORD}, pay FROM staff WHERE team <> '${QUERY_WORD}'`,
  algorithm: "average",
  algorithmColumns: { [QUERY_WORD]: "pay" },
};
const collector = await startTraceCollector();
const exchange = await testExchange({
  configuration: await writeConfiguration({
    dataSet: {
      name: "staff",
      type: "csv",
      tables: [
        {
          name: "staff",
          columns: [
            { name: "team", type: { type: "text" } },
            { name: "pay", type: { type: "decimal", precision: 12, scale: 2 } },
          ],
        },
      ],
      sensitive_columns: {},
    },
    providers: {
      VU: { staff: `team;pay\n${String(VALUES[0])};${String(VALUES[2])}\n` },
      UVA: { staff: `team;pay\n${String(VALUES[1])};1.00\n` },
    },
  }),
  environment: { OTEL_EXPORTER_OTLP_ENDPOINT: collector.url, OTEL_BSP_SCHEDULE_DELAY: "200" },
});
const tokens: string[] = [];

const AT_HOME = ["orchestrator", "policy-enforcer", "agent-VU", "agent-UVA", "sidecar", "sql-query", "sql-algorithm"];
const PARTS = {
  computeToData: AT_HOME,
  dataThroughTtp: [...AT_HOME, "agent-SURF", "sql-aggregate"],
};

for (const archetype of ["computeToData", "dataThroughTtp"] as const) {
  describe(`a request through ${archetype}`, () => {
    const traceId = randomBytes(16).toString("hex");
    const callersSpan = randomBytes(8).toString("hex");
    const requestId = randomUUID();

    test("has one trace, the caller's, with all parts in it", async () => {
      const answer = await exchange.client.ask(
        {
          type: "sqlDataRequest",
          user: ANALYST,
          dataProviders: ["VU", "UVA"],
          options: { aggregate: archetype === "dataThroughTtp" },
          data_request: QUESTION,
        },
        { idempotencyKey: requestId, headers: { traceparent: `00-${traceId}-${callersSpan}-01` } },
      );
      assert.equal(answer.archetype, archetype);
      await eventually(() => {
        assert.deepEqual(missingParts(spansOf(traceId), PARTS[archetype]), []);
        return true;
      });
      assert.deepEqual(
        [...new Set(spansOf(traceId).map(({ service }) => service))].sort(),
        [...PARTS[archetype]].sort(),
      );
    });

    test("links its spans into one tree under the caller's span", async () => {
      await eventually(() => {
        const spans = spansOf(traceId);
        const known = new Set([callersSpan, ...spans.map(({ spanId }) => spanId)]);
        const lost = spans.filter(({ parentSpanId }) => !known.has(parentSpanId));
        assert.deepEqual(
          lost.map(({ service, name }) => `${service}: ${name}`),
          [],
        );
        return true;
      });
      const queries = spansOf(traceId).filter(({ name }) => name === "sql-query");
      assert.deepEqual(queries.map(({ attributes }) => attributes["dynamos.steward"]).sort(), ["UVA", "VU"]);
      for (const query of queries) {
        const line = ancestors(query, traceId).map(({ service }) => service);
        assert.ok(line.includes(archetype === "dataThroughTtp" ? "agent-SURF" : "orchestrator"), line.join(" < "));
      }
      const algorithms = spansOf(traceId).filter(({ name }) => name === "sql-algorithm");
      assert.equal(algorithms.length, archetype === "dataThroughTtp" ? 1 : 2);
      for (const algorithm of algorithms) {
        const before = archetype === "dataThroughTtp" ? "sql-aggregate" : "sql-query";
        assert.equal(ancestors(algorithm, traceId)[0]?.service, before);
      }
    });

    test("stands in the log of every part by its id", async () => {
      const logs = await readLogs();
      const naming = [...logs].filter(([, text]) => text.includes(requestId)).map(([file]) => file);
      const agents = archetype === "dataThroughTtp" ? ["SURF", "VU", "UVA"] : ["VU", "UVA"];
      for (const part of ["orchestrator", ...agents.map((steward) => `agent-${steward}`)]) {
        assert.ok(naming.includes(join("logs", `${part}.log`)), `${part} is not among ${naming.join(", ")}`);
      }
    });
  });
}

test("spans that no caller asked for hang on none of the callers' traces, and those of a request on no other", () => {
  const chains = collector.spans.filter(({ name }) => name === "chain");
  assert.ok(chains.length >= 5);
  const traces = new Set(chains.map(({ traceId }) => traceId));
  assert.equal(traces.size, 2);
});

describe("logs and spans", () => {
  test("say nothing personal, not even where a request fails", async () => {
    const approval = await exchange.client.requestApproval({
      type: "sqlDataRequest",
      user: ANALYST,
      dataProviders: ["VU"],
    });
    tokens.push(approval.auth.accessToken, approval.auth.refreshToken);
    const endpoint = approval.authorizedProviders["VU"] ?? "";
    for (const query of [`SELECT ${QUERY_WORD} FROM staff`, `SELECT json_extract('{}', team) AS x FROM staff`]) {
      const work = exchange.client.askAgent(endpoint, { ...QUESTION, query }, { token: approval.auth.accessToken });
      await assert.rejects(work, { code: "query_invalid" });
    }
    await assert.rejects(exchange.client.askAgent(endpoint, QUESTION, { token: `${approval.auth.accessToken}x` }));
    const logs = await readLogs();
    assert.ok(logs.size > 6, [...logs.keys()].join(", "));
    for (const [file, text] of [...logs, ["the spans", collector.bodies.join("\n")] as const]) {
      for (const secret of [
        ANALYST.userName,
        QUERY_WORD,
        ...VALUES,
        ...tokens,
        ...tokens.map((token) => token.split(".")[2] ?? token),
        exchange.adminKey,
      ]) {
        assert.ok(!text.includes(secret), `${file} has "${secret}"`);
      }
    }
  });

  test("are JSON, line by line", async () => {
    for (const [file, text] of await readLogs()) {
      for (const line of text.split("\n").filter((each) => each !== "")) {
        assert.doesNotThrow(() => JSON.parse(line), `${file}: ${line}`);
        assert.ok("msg" in (JSON.parse(line) as object), `${file}: ${line}`);
      }
    }
  });
});

function spansOf(traceId: string): CollectedSpan[] {
  return collector.spans.filter((span) => span.traceId === traceId);
}

function missingParts(spans: readonly CollectedSpan[], parts: readonly string[]): string[] {
  return parts.filter((part) => !spans.some(({ service }) => service === part));
}

/** The span's parent, its parent, and so on. */
function ancestors(span: CollectedSpan, traceId: string): CollectedSpan[] {
  const parent = spansOf(traceId).find(({ spanId }) => spanId === span.parentSpanId);
  return parent === undefined ? [] : [parent, ...ancestors(parent, traceId)];
}

/** All logs of the exchange: of its services, and of chains' processes as far as they are kept. */
async function readLogs(): Promise<Map<string, string>> {
  const logs = new Map<string, string>();
  for (const entry of await readdir(exchange.stateFolder, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile() || !/log/.test(entry.name)) continue;
    const path = join(entry.parentPath, entry.name);
    logs.set(relative(exchange.stateFolder, path), await readFile(path, "utf8"));
  }
  return logs;
}
