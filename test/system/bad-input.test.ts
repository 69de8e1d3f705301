/** Bad input over HTTP, at the front door and at an agent: a problem document with a stable code and the place, and the next request works. */
import assert from "node:assert/strict";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, test } from "node:test";
import type { Approval } from "../../cli/client.ts";
import { ANALYST, testExchange, writeConfiguration } from "../support/exchange.ts";

const MAX_BODY_BYTES = 20_000;
const GOOD_FILE = "team;age\nblue;30\nred;40\n";
const configuration = await writeConfiguration({
  dataSet: {
    name: "staff",
    type: "csv",
    tables: [
      {
        name: "staff",
        columns: [
          { name: "team", type: { type: "text" } },
          { name: "age", type: { type: "integer" } },
        ],
      },
    ],
    sensitive_columns: {},
  },
  providers: {
    VU: { staff: GOOD_FILE },
    UVA: { staff: GOOD_FILE },
    RUG: { staff: "team;age\nblue;30\nred;secret-value-4711\n" },
  },
});
const exchange = await testExchange({
  configuration,
  environment: {
    DYNAMOS_QUERY_TIME_LIMIT_MS: "5000",
    DYNAMOS_QUERY_MEMORY_BYTES: String(150 * 1024 * 1024),
    DYNAMOS_QUERY_TEMP_BYTES: String(50 * 1024 * 1024),
    DYNAMOS_MAX_BODY_BYTES: String(MAX_BODY_BYTES),
  },
});

const QUESTION = {
  type: "sqlDataRequest",
  query: "SELECT team, age FROM staff",
  algorithm: "average",
  algorithmColumns: { team: "age" },
};
const APPROVAL = { type: "sqlDataRequest", user: ANALYST, dataProviders: ["VU"] };
const approval = await exchange.client.requestApproval(APPROVAL);
const AGENT = approval.authorizedProviders["VU"] ?? "";
const FRONT_DOOR = `${exchange.url}/api/v1/requestApproval`;
const elsewhere = await exchange.client.requestApproval({ ...APPROVAL, dataProviders: ["UVA"] });

/** A problem, as far as it is looked at. */
interface FoundProblem {
  readonly code: string;
  readonly status: number;
  readonly detail: string;
  readonly pointer?: string;
  readonly line?: number;
  readonly column?: number;
  readonly file?: string;
  readonly known?: readonly string[];
}

/** What is sent (a string as it stands), the code that comes back, and what else the problem says. */
type Case = readonly [
  name: string,
  body: unknown,
  code: string,
  also?: Partial<FoundProblem>,
  headers?: Readonly<Record<string, string>>,
];

const asked = (change: object): object => ({ ...APPROVAL, data_request: { ...QUESTION, ...change } });
const NESTED = "[".repeat(9000) + "]".repeat(9000);

const AT_FRONT_DOOR: readonly Case[] = [
  ["malformed JSON", '{\n  "type": "sqlDataRequest",\n  "user": oops\n}', "bad_request", { line: 3, column: 11 }],
  ["an empty body", "", "bad_request"],
  ["JSON that is no object", "[1, 2]", "bad_request", { pointer: "" }],
  ["JSON nested thousands deep", `{"options":${NESTED}}`, "bad_request"],
  ["a member that would change prototypes", '{"__proto__": {"type": "sqlDataRequest"}}', "bad_request"],
  [
    "a body of another media type",
    JSON.stringify(APPROVAL),
    "unsupported_media_type",
    {},
    { "content-type": "text/plain" },
  ],
  ["a body larger than the limit", { ...APPROVAL, options: { x: "x".repeat(MAX_BODY_BYTES) } }, "message_too_large"],
  ["no user", { ...APPROVAL, user: undefined }, "bad_request", { pointer: "/user" }],
  [
    "a text for the list of providers",
    { ...APPROVAL, dataProviders: "VU" },
    "bad_request",
    { pointer: "/dataProviders" },
  ],
  ["no provider", { ...APPROVAL, dataProviders: [] }, "bad_request", { pointer: "/dataProviders" }],
  [
    "a provider's name that is none",
    { ...APPROVAL, dataProviders: ["../VU"] },
    "bad_request",
    { pointer: "/dataProviders/0" },
  ],
  ["a number for the query", asked({ query: 5 }), "bad_request", { pointer: "/data_request/query" }],
  [
    "a number for a column",
    asked({ algorithmColumns: { team: 1 } }),
    "bad_request",
    { pointer: "/data_request/algorithmColumns/team" },
  ],
  ["a text for the options", asked({ options: "anonymize" }), "bad_request", { pointer: "/data_request/options" }],
  [
    "an unknown option",
    { ...APPROVAL, options: { anonymise: true } },
    "bad_request",
    { pointer: "/options/anonymise" },
  ],
  [
    "an unknown request type",
    { ...APPROVAL, type: "sqlDataRequests" },
    "invalid_argument",
    { pointer: "/type", known: ["sqlDataRequest"] },
  ],
  ["an unknown provider", { ...APPROVAL, dataProviders: ["NOBODY"] }, "no_authorized_providers"],
  ["an Idempotency-Key with a space", asked({}), "bad_request", {}, { "idempotency-key": "two words" }],
  ["an Idempotency-Key that is too long", asked({}), "bad_request", {}, { "idempotency-key": "k".repeat(300) }],
];

const AT_AGENT: readonly Case[] = [
  ["malformed JSON", '{"query": "SELECT 1",}', "bad_request", { line: 1, column: 22 }],
  ["an array", "[]", "bad_request", { pointer: "" }],
  ["a number for the query", { query: 5 }, "bad_request", { pointer: "/query" }],
  ["a text for the options", { ...QUESTION, options: "anonymize" }, "bad_request", { pointer: "/options" }],
  [
    "a list for the options",
    { ...QUESTION, options: ["anonymize"], graph: true },
    "bad_request",
    { pointer: "/options" },
  ],
  [
    "an unknown option",
    { ...QUESTION, options: { anonymise: true } },
    "bad_request",
    { pointer: "/options/anonymise" },
  ],
  ["another request type than the path's", { ...QUESTION, type: "other" }, "bad_request", { pointer: "/type" }],
  [
    "a body of another media type",
    "query=SELECT 1",
    "unsupported_media_type",
    {},
    { "content-type": "application/x-www-form-urlencoded" },
  ],
  ["a format that cannot be made", QUESTION, "not_acceptable", {}, { accept: "application/xml" }],
  ["a bad Idempotency-Key", QUESTION, "bad_request", {}, { "idempotency-key": "two words" }],
  ["no token", QUESTION, "unauthenticated", {}, { authorization: "" }],
  ["a token that is none", QUESTION, "token_invalid", {}, { authorization: "Bearer x.y.z" }],
  [
    "a token for another steward",
    QUESTION,
    "token_invalid",
    {},
    { authorization: `Bearer ${elsewhere.auth.accessToken}` },
  ],
  [
    "a token whose signature was taken off",
    QUESTION,
    "token_invalid",
    {},
    { authorization: `Bearer ${unsigned(approval)}` },
  ],
  ["another job than the token's", { ...QUESTION, requestMetadata: { jobId: elsewhere.jobId } }, "token_invalid"],
];

const IN_THE_CHAIN: readonly Case[] = [
  ["an unknown algorithm", { ...QUESTION, algorithm: "avrage" }, "algorithm_unknown"],
  [
    "an unknown column",
    { ...QUESTION, algorithmColumns: { teem: "age" } },
    "column_unknown",
    { known: ["team", "age"] },
  ],
  ["an algorithm that does not fit the column", { ...QUESTION, algorithmColumns: { "": "team" } }, "type_mismatch"],
  [
    "bins that cannot be",
    { ...QUESTION, algorithm: "histogram", algorithmParameters: { histogram: { width: -1 } } },
    "invalid_argument",
  ],
  [
    "a picture of an unknown kind",
    { ...QUESTION, options: { graph: true }, graph: { kind: "pie" } },
    "invalid_argument",
  ],
];

/** Each refused before or within its limits; nothing else is reachable. */
const HOSTILE: readonly (readonly [sql: string, code: string])[] = [
  ["DELETE FROM staff", "query_invalid"],
  ["SELECT 1 AS a; DROP TABLE staff", "query_invalid"],
  ["ATTACH '/etc/passwd' AS p", "query_invalid"],
  ["PRAGMA writable_schema = 1", "query_invalid"],
  ["SELECT file FROM pragma_database_list", "query_invalid"],
  ["VACUUM INTO '/tmp/copy.sqlite'", "query_invalid"],
  ["SELECT load_extension('/tmp/x.so') AS x", "query_invalid"],
  ["SELECT * FROM nothing_here", "query_invalid"],
  ["SELEC team", "query_invalid"],
  ["WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT max(n) AS n FROM r", "time_limit_exceeded"],
  ["SELECT length(randomblob(1000000000)) AS n", "memory_limit_exceeded"],
];

describe("the front door answers bad input with the code and the place", () => {
  for (const [name, body, code, also, headers] of AT_FRONT_DOOR) {
    test(name, async () => {
      await assertProblem(FRONT_DOOR, { body, code, ...(also ? { also } : {}), headers: { ...headers } });
      assert.equal((await exchange.client.requestApproval(APPROVAL)).archetype, "computeToData");
    });
  }

  for (const [method, path] of [
    ["GET", "/api/v1/nothing"],
    ["PATCH", "/api/v1/requestApproval"],
    ["GET", "/%E0%A4%A"],
  ] as const) {
    test(`${method} ${path}`, async () => {
      const response = await fetch(`${exchange.url}${path}`, { method });
      assert.ok([400, 404, 405].includes(response.status), String(response.status));
      assert.match(response.headers.get("content-type") ?? "", /^application\/problem\+json/);
    });
  }
});

describe("an agent answers bad input with the code and the place", () => {
  for (const [name, body, code, also, headers] of [...AT_AGENT, ...IN_THE_CHAIN]) {
    test(name, async () => {
      const authorization = `Bearer ${approval.auth.accessToken}`;
      await assertProblem(AGENT, { body, code, ...(also ? { also } : {}), headers: { authorization, ...headers } });
    });
  }

  for (const [query, code] of HOSTILE) {
    test(query, async () => {
      const headers = { authorization: `Bearer ${approval.auth.accessToken}` };
      await assertProblem(AGENT, { body: { query, algorithm: "count" }, code, headers });
    });
  }

  test("and answers the next request", async () => {
    const answer = await exchange.client.askAgent(AGENT, QUESTION, { token: approval.auth.accessToken });
    assert.deepEqual(answer.rows, [
      { team: "blue", average_age: 30 },
      { team: "red", average_age: 40 },
    ]);
  });
});

describe("a steward's file with a broken line", () => {
  const request = { ...APPROVAL, dataProviders: ["VU", "RUG"], data_request: QUESTION };
  const file = join(configuration, "data", "RUG", "staff.csv");

  test("is a problem of that steward, with file, line and column, and without the value", async () => {
    const answer = await exchange.client.ask(request);
    const problem = answer.responses.find(({ provider }) => provider === "RUG")?.problem;
    assert.deepEqual(
      [problem?.code, problem?.["file"], problem?.["line"], problem?.["column"], problem?.party],
      ["data_invalid", "staff/staff", 3, 5, "RUG"],
    );
    assert.doesNotMatch(JSON.stringify(answer), /secret-value-4711/);
    assert.ok(!JSON.stringify(answer).includes(configuration), "the steward's folders are not the analyst's business");
    assert.equal(answer.responses.find(({ provider }) => provider === "VU")?.status, "ok");
  });

  test("is in the steward's log with its whole path, and without the value", async () => {
    const log = await readFile(join(exchange.stateFolder, "logs", "agent-RUG.log"), "utf8");
    const line = log.split("\n").find((text) => text.includes("cannot be loaded")) ?? "{}";
    assert.deepEqual((JSON.parse(line) as { place?: unknown }).place, { file, line: 3, column: 5 });
    assert.doesNotMatch(log, /secret-value-4711/);
  });

  test("is read once it is mended", async () => {
    await writeFile(file, GOOD_FILE);
    const { pooled } = await exchange.client.ask(request);
    assert.deepEqual(pooled?.providers, ["RUG", "VU"]);
  });
});

test("nothing of this was an error inside the system", async () => {
  for (const name of ["orchestrator", "policy-enforcer", "agent-VU", "agent-UVA", "agent-RUG", "agent-SURF"]) {
    const log = await readFile(join(exchange.stateFolder, "logs", `${name}.log`), "utf8");
    assert.doesNotMatch(log, /"code":"internal"|"status":5\d\d/, name);
  }
});

async function assertProblem(
  url: string,
  sent: { body: unknown; code: string; also?: Partial<FoundProblem>; headers: Readonly<Record<string, string>> },
): Promise<void> {
  const { "content-type": contentType = "application/json", ...headers } = sent.headers;
  const response = await fetch(url, {
    method: "POST",
    headers: { "content-type": contentType, ...headers },
    body: typeof sent.body === "string" ? sent.body : JSON.stringify(sent.body),
  });
  const text = await response.text();
  assert.match(response.headers.get("content-type") ?? "", /^application\/problem\+json/, text);
  const problem = JSON.parse(text) as FoundProblem;
  assert.equal(problem.code, sent.code, text);
  assert.ok(response.status >= 400 && response.status < 500, text);
  assert.equal(problem.status, response.status);
  assert.ok(problem.detail.length > 10, text);
  for (const [name, value] of Object.entries(sent.also ?? {})) {
    assert.deepEqual(problem[name as keyof FoundProblem], value, `${name} of ${text}`);
  }
}

/** The token with "none" as its algorithm and no signature (RFC 8725, section 2.1). */
function unsigned({ auth }: Approval): string {
  const header = Buffer.from(JSON.stringify({ alg: "none" })).toString("base64url");
  return `${header}.${auth.accessToken.split(".")[1] ?? ""}.`;
}
