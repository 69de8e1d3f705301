/** What an agreement withholds: small groups and bins at every party that sees them, rows, and operations that it does not list. */
import assert from "node:assert/strict";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, test } from "node:test";
import type { GatheredAnswer } from "../../cli/client.ts";
import type { Agreement } from "../../lib/model/agreement.ts";
import type { DataRequest } from "../../lib/model/data-request.ts";
import { ANALYST, rejectsWith, testExchange, writeConfiguration } from "../support/exchange.ts";

/** Members of each team; every one has an age of its own. */
const TEAMS = { VU: { red: 4, blue: 2, green: 6, gray: 4 }, UVA: { red: 6, blue: 3, green: 1 } };
const MINIMUM = { VU: 3, UVA: 5 };
/** Allowed no rows, and two operations. */
const COUNTER = { id: "counter-1", userName: "counter@example.org" };

const exchange = await testExchange({ configuration: await configuration() });
const BY_TEAM = { query: "SELECT team, age FROM staff", algorithm: "count", algorithmColumns: { team: "age" } };
const AGES = {
  query: "SELECT age FROM staff",
  algorithm: "histogram",
  algorithmColumns: { "": "age" },
  algorithmParameters: { histogram: { bins: [20, 30, 40] } },
};

describe("groups smaller than the minimum", () => {
  test("are withheld by each steward, and again where answers are pooled", async () => {
    const { responses, pooled } = await ask("computeToData", BY_TEAM);
    const of = (steward: string) => responses.find(({ provider }) => provider === steward);
    assert.deepEqual(counts(of("VU")?.rows), { gray: 4, green: 6, red: 4 });
    assert.deepEqual([of("VU")?.withheldGroups, of("VU")?.minimumGroupSize], [1, MINIMUM.VU]);
    assert.deepEqual(counts(of("UVA")?.rows), { red: 6 });
    assert.deepEqual([of("UVA")?.withheldGroups, of("UVA")?.minimumGroupSize], [2, MINIMUM.UVA]);
    // Gray's four are enough for VU, but in the pool UVA's minimum counts, too.
    assert.deepEqual(counts(pooled?.rows), { green: 6, red: 10 });
    assert.deepEqual([pooled?.withheldGroups, pooled?.minimumGroupSize], [4, MINIMUM.UVA]);
  });

  test("are withheld at the third party by the largest of the stewards' minima", async () => {
    const { responses, pooled } = await ask("dataThroughTtp", BY_TEAM);
    assert.deepEqual(counts(pooled?.rows), { blue: 5, green: 7, red: 10 });
    assert.deepEqual([pooled?.withheldGroups, pooled?.minimumGroupSize], [1, MINIMUM.UVA]);
    assert.deepEqual(
      responses.map(({ provider, rows }) => [provider, rows?.length]),
      [["SURF", 3]],
    );
  });

  test("do not show by the number of rows that a steward sent either", async () => {
    const ofTwo = { ...BY_TEAM, query: "SELECT team, age FROM staff WHERE team = 'green' AND age > 24" };
    for (const archetype of ["computeToData", "dataThroughTtp"] as const) {
      const answer = await ask(archetype, ofTwo);
      // VU has one such member, UVA none.
      assert.deepEqual(answer.pooled?.rows, []);
      for (const { providers = [] } of answer.responses) {
        assert.deepEqual(
          providers.filter(({ rows }) => rows !== undefined && rows > 0 && rows < MINIMUM.UVA),
          [],
        );
      }
    }
  });
});

describe("bins smaller than the minimum", () => {
  test("are withheld by each steward and where answers are pooled", async () => {
    const { responses, pooled } = await ask("computeToData", AGES);
    const of = (steward: string) => responses.find(({ provider }) => provider === steward);
    assert.deepEqual(bins(of("VU")?.rows), { "20-30": 16 });
    assert.deepEqual(bins(of("UVA")?.rows), { "20-30": 9 });
    assert.deepEqual(bins(pooled?.rows), { "20-30": 25 });
    assert.equal((of("UVA") as { withheldBins?: number }).withheldBins, 1);
  });

  test("are withheld at the third party", async () => {
    const { pooled } = await ask("dataThroughTtp", AGES);
    assert.deepEqual(bins(pooled?.rows), { "20-30": 25 });
  });
});

describe("values that a query leaves to one person in a large group", () => {
  for (const archetype of ["computeToData", "dataThroughTtp"] as const) {
    test(`are withheld and counted (${archetype})`, async () => {
      const { responses, pooled } = await ask(archetype, {
        query: "SELECT CASE WHEN team = 'green' AND age = 25 THEN age END AS theirs FROM staff",
        algorithm: "min, average",
        algorithmColumns: { "": "theirs" },
      });
      const nothing = [{ min_theirs: null, average_theirs: null }];
      assert.deepEqual(
        responses.map(({ rows }) => rows),
        responses.map(() => nothing),
      );
      assert.deepEqual(pooled?.rows, nothing);
      assert.equal((pooled as { withheldValues?: number } | undefined)?.withheldValues, 2);
    });
  }
});

describe("what the agreement does not allow", () => {
  for (const archetype of ["computeToData", "dataThroughTtp"] as const) {
    test(`rows do not leave as they are (${archetype})`, async () => {
      const { algorithm: _, algorithmColumns: __, ...rows } = BY_TEAM;
      await rejectsWith(ask(archetype, rows, COUNTER), "operation_denied");
    });

    test(`an operation that is not listed is refused in one go (${archetype})`, async () => {
      const error = await rejectsWith(
        ask(archetype, { ...BY_TEAM, algorithm: "count, max" }, COUNTER),
        "no_authorized_providers",
      );
      const refused = (error["details"] as { refused: { provider: string; code: string }[] }).refused;
      assert.deepEqual(refused.map(({ provider, code }) => `${provider} ${code}`).sort(), [
        "UVA operation_not_allowed",
        "VU operation_not_allowed",
      ]);
    });

    test(`an operation that is listed is not (${archetype})`, async () => {
      const { pooled } = await ask(archetype, { ...BY_TEAM, algorithm: "mean, count" }, COUNTER);
      assert.deepEqual(counts(pooled?.rows), { blue: 5, gray: 4, green: 7, red: 10 });
    });
  }

  test("nor at the agents, whom the token lets one ask directly", async () => {
    for (const aggregate of [false, true]) {
      const approval = await exchange.client.requestApproval({
        type: "sqlDataRequest",
        user: COUNTER,
        dataProviders: ["VU", "UVA"],
        options: { aggregate },
      });
      for (const endpoint of Object.values(approval.authorizedProviders)) {
        const asked = (question: Omit<DataRequest, "type">): Promise<unknown> =>
          exchange.client.askAgent(
            endpoint,
            { type: "sqlDataRequest", ...question },
            { token: approval.auth.accessToken },
          );
        await rejectsWith(asked({ query: BY_TEAM.query }), "operation_denied");
        await rejectsWith(asked({ ...BY_TEAM, algorithm: "max" }), "operation_denied");
      }
    }
  });
});

function ask(
  archetype: "computeToData" | "dataThroughTtp",
  question: Omit<DataRequest, "type">,
  user = ANALYST,
): Promise<GatheredAnswer> {
  return exchange.client.ask({
    type: "sqlDataRequest",
    user,
    dataProviders: ["VU", "UVA"],
    options: { aggregate: archetype === "dataThroughTtp" },
    data_request: { type: "sqlDataRequest", ...question },
  });
}

function counts(rows: readonly Readonly<Record<string, unknown>>[] = []): Record<string, unknown> {
  return Object.fromEntries(rows.map((row) => [String(row["team"]), row["count_age"]]));
}

function bins(rows: readonly Readonly<Record<string, unknown>>[] = []): Record<string, unknown> {
  return Object.fromEntries(rows.map((row) => [`${String(row["binStart"])}-${String(row["binEnd"])}`, row["count"]]));
}

/** Ages from 20 on in each team; one of UVA is 35. */
async function configuration(): Promise<string> {
  const rowsOf = (steward: keyof typeof TEAMS): string[] =>
    Object.entries(TEAMS[steward]).flatMap(([team, members]) =>
      Array.from(
        { length: members },
        (_, place) => `${team};${steward === "UVA" && team === "green" ? 35 : 20 + place}`,
      ),
    );
  const folder = await writeConfiguration({
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
      VU: { staff: ["team;age", ...rowsOf("VU"), ""].join("\n") },
      UVA: { staff: ["team;age", ...rowsOf("UVA"), ""].join("\n") },
    },
  });
  for (const steward of ["VU", "UVA"] as const) {
    const path = join(folder, "agreements", `${steward}.json`);
    const agreement = JSON.parse(await readFile(path, "utf8")) as Agreement;
    const relation = agreement.relations[ANALYST.userName];
    assert.ok(relation);
    agreement.relations[ANALYST.userName] = { ...relation, minimumGroupSize: MINIMUM[steward] };
    agreement.relations[COUNTER.userName] = {
      ...relation,
      ID: COUNTER.id,
      rawRows: false,
      operations: ["count", "average"],
    };
    await writeFile(path, JSON.stringify(agreement));
  }
  return folder;
}
