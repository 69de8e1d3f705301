import assert from "node:assert/strict";
import { after, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { tableFromIPC } from "apache-arrow";
import { call, type GatheredAnswer } from "../../cli/client.ts";
import { ANALYST, testExchange, writeConfiguration } from "../support/exchange.ts";
import { approve, residentMiB } from "../support/running-chains.ts";

/** Each member of a group meets each visit of it. */
const GROUPS = 10;
const MEMBERS = 200;
const VISITS = 150;
const JOINED_ROWS = GROUPS * MEMBERS * VISITS;
const LIMIT_MIB = 300;
const PROVIDERS = ["VU", "UVA"];

const ROWS = {
  type: "sqlDataRequest",
  query: 'SELECT m.name, v.day, m.weight + v.points AS points FROM Members m JOIN Visits v ON m."group" = v."group"',
};
const TOTALS = { ...ROWS, algorithm: "count,sum", algorithmColumns: { "*": "points" } };
/** Members weigh 1 to 200 in each group, visits give 1 to 150 points. */
const SUM = GROUPS * (VISITS * ((MEMBERS * (MEMBERS + 1)) / 2) + MEMBERS * ((VISITS * (VISITS + 1)) / 2));

const exchange = await testExchange({ configuration: await twoTables() });
const most = new Map<string, number>();
const watching = new AbortController();
const watched = watchMemory(watching.signal);
after(async () => {
  watching.abort();
  await watched;
});

describe(`${String(JOINED_ROWS)} joined rows of each steward`, () => {
  test("by computeToData, as CSV: each row arrives", async () => {
    const { auth, authorizedProviders } = await approve(exchange, ["VU"]);
    const options = { token: auth.accessToken, headers: { accept: "text/csv" } };
    const response = await call("POST", authorizedProviders["VU"] ?? "", ROWS, options);
    let rows = -1;
    let sum = 0;
    for await (const line of lines(response)) {
      if (rows++ >= 0) sum += Number(line.slice(line.lastIndexOf(",") + 1));
    }
    assert.deepEqual({ rows, sum }, { rows: JOINED_ROWS, sum: SUM });
  });

  test("by dataThroughTtp, as an Arrow stream: each row of both arrives", async () => {
    const { auth, authorizedProviders } = await approve(exchange, PROVIDERS, { throughThirdParty: true });
    const options = { token: auth.accessToken, headers: { accept: "application/vnd.apache.arrow.stream" } };
    const response = await call("POST", authorizedProviders["SURF"] ?? "", ROWS, options);
    const table = tableFromIPC(new Uint8Array(await response.arrayBuffer()));
    let sum = 0n;
    for (const value of table.getChild("points") ?? []) sum += BigInt(value as bigint);
    assert.equal(table.numRows, PROVIDERS.length * JOINED_ROWS);
    assert.equal(sum, BigInt(PROVIDERS.length * SUM));
  });

  for (const throughThirdParty of [false, true]) {
    test(`with an algorithm, by ${throughThirdParty ? "dataThroughTtp" : "computeToData"}: the pooled answer is that of all rows`, async () => {
      const answer = await exchange.client.ask(request(TOTALS, throughThirdParty));
      const [row] = answer.pooled?.rows ?? [];
      assert.equal(Number(row?.["count_points"] ?? row?.["count"]), PROVIDERS.length * JOINED_ROWS);
      assert.equal(Number(row?.["sum_points"]), PROVIDERS.length * SUM);
    });
  }

  test("in one go through the front door, as JSON: each row of both arrives under its steward's name", async () => {
    const response = await call("POST", `${exchange.url}/api/v1/requestApproval`, request(ROWS, false));
    const answer = (await response.json()) as GatheredAnswer;
    assert.equal(answer.status, "ok");
    assert.deepEqual(
      answer.responses.map(({ provider, rows = [] }) => [provider, rows.length, sumOf(rows)]).sort(),
      [...PROVIDERS].sort().map((provider) => [provider, JOINED_ROWS, SUM]),
    );
  });

  test(`and no process of the exchange ever had ${String(LIMIT_MIB)} MB of memory`, async () => {
    const tooLarge = [...most].filter(([, mebibytes]) => mebibytes * 1.048576 >= LIMIT_MIB);
    assert.deepEqual(tooLarge, []);
    for (const program of [
      "agent",
      "orchestrator",
      "sidecar",
      "sql-query",
      "query-child",
      "sql-algorithm",
      "sql-aggregate",
    ]) {
      assert.ok(
        [...most.keys()].some((name) => name.includes(program)),
        `${program} was seen`,
      );
    }
  });
});

/** Keeps what each process has had at most, looking often enough to see those that live briefly. */
async function watchMemory(signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    for (const [name, mebibytes] of await residentMiB(exchange))
      most.set(name, Math.max(most.get(name) ?? 0, mebibytes));
    await sleep(50);
  }
}

function request(question: typeof ROWS, throughThirdParty: boolean) {
  const options = throughThirdParty ? { options: { aggregate: true } } : {};
  const data_request = { ...question, ...options };
  return { type: "sqlDataRequest", user: ANALYST, dataProviders: PROVIDERS, ...options, data_request };
}

function sumOf(rows: readonly Readonly<Record<string, unknown>>[]): number {
  return rows.reduce((sum, { points }) => sum + Number(points), 0);
}

async function* lines(response: Response): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const chunk of response.body as unknown as AsyncIterable<Uint8Array>) {
    const parts = (rest + decoder.decode(chunk, { stream: true })).split(/\r?\n/);
    rest = parts.pop() ?? "";
    yield* parts;
  }
  if (rest !== "") yield rest;
}

/** Two small tables whose join is large. */
function twoTables(): Promise<string> {
  const members = ["group;name;weight"];
  const visits = ["group;day;points"];
  for (let group = 0; group < GROUPS; group += 1) {
    for (let i = 1; i <= MEMBERS; i += 1)
      members.push(`${String(group)};member ${String(i)} of group ${String(group)};${String(i)}`);
    for (let i = 1; i <= VISITS; i += 1)
      visits.push(`${String(group)};2024-${String((i % 12) + 1).padStart(2, "0")}-15;${String(i)}`);
  }
  const integer = { type: "integer" } as const;
  const tables = { Members: members.join("\n"), Visits: visits.join("\n") };
  return writeConfiguration({
    dataSet: {
      name: "visits",
      type: "csv",
      delimiter: ";",
      sensitive_columns: {},
      tables: [
        {
          name: "Members",
          columns: [
            { name: "group", type: integer },
            { name: "name", type: { type: "text" } },
            { name: "weight", type: integer },
          ],
        },
        {
          name: "Visits",
          columns: [
            { name: "group", type: integer },
            { name: "day", type: { type: "date" } },
            { name: "points", type: integer },
          ],
        },
      ],
    },
    providers: { VU: tables, UVA: tables },
  });
}
