/**
 * Pooled answers are those over all rows, computed independently (`test/support/oracle.ts`), whoever takes part and
 * whichever archetype runs. `POOLED_CASES=100 POOLED_SEED=1` tries more cases, or the same ones again.
 */
import assert from "node:assert/strict";
import { before, describe, test } from "node:test";
import type { AnswerRow, GatheredAnswer } from "../../cli/client.ts";
import type { DataRequest } from "../../lib/model/data-request.ts";
import { ANALYST, testExchange, writeConfiguration } from "../support/exchange.ts";
import { differenceFrom, expectedValue } from "../support/oracle.ts";
import {
  cellOfFile,
  COLUMNS,
  DECLARED,
  differences,
  randomQuestion,
  randomRow,
  type OracleRow,
} from "../support/pooling-case.ts";
import { countFrom, SeededRandom, seedFrom } from "../support/random.ts";

const STEWARDS = ["AMC", "EUR", "TUD", "UVA", "VU"];
const ARCHETYPES = ["computeToData", "dataThroughTtp"] as const;
/** Rows per steward: many, some, one, none; the last table is empty everywhere but at one. */
const TABLES = { Many: [60, 45, 70, 1, 30], Few: [3, 0, 1, 2, 4], Hardly: [0, 2, 0, 0, 0] };

const random = new SeededRandom(seedFrom("POOLED_SEED"));
const cases = countFrom("POOLED_CASES", 8);
const data = new Map(
  Object.entries(TABLES).map(([table, counts]) => [
    table,
    new Map(
      STEWARDS.map((steward, place) => [steward, Array.from({ length: counts[place] ?? 0 }, () => randomRow(random))]),
    ),
  ]),
);
const exchange = await testExchange({ configuration: await configuration() });

describe("pooled answers", () => {
  before(() => console.log(`The data and questions are those of POOLED_SEED=${String(random.seed)}`));

  for (let number = 0; number < cases; number += 1) {
    const stewards = random.some(STEWARDS, 1 + (number % STEWARDS.length));
    const table = random.pick(Object.keys(TABLES).slice(0, number % 8 < 4 ? 1 : undefined));
    const { isAsked, ...question } = randomQuestion(random, number, table);

    test(`case ${String(number)}: ${question.algorithm} at ${stewards.join(", ")}`, async () => {
      const answers = await Promise.all(ARCHETYPES.map((archetype) => ask(archetype, stewards, question)));
      const rows = stewards.flatMap((steward) => rowsOf(table, steward));
      for (const [place, { pooled }] of answers.entries()) {
        const found = differences({ ...question, isAsked }, rows, pooled?.rows ?? []);
        assert.deepEqual(
          found,
          [],
          `${String(ARCHETYPES[place])}, seed ${String(random.seed)}: ${JSON.stringify(question)}`,
        );
        assert.deepEqual([...(pooled?.providers ?? [])].sort(), stewards);
      }
      const [atHome, atThirdParty] = answers;
      assert.deepEqual(atHome?.pooled?.rows, atThirdParty?.pooled?.rows, "both archetypes give the same, bit for bit");
    });
  }
});

describe("the median", () => {
  const question = {
    query: "SELECT place, number, pay, measure, moment FROM Many",
    algorithm: "median, count",
    algorithmColumns: { place: "number, pay, measure, moment" },
  };

  test("is exact where the rows meet", async () => {
    const { pooled } = await ask("dataThroughTtp", STEWARDS, question);
    assertMedians(STEWARDS, pooled?.rows ?? []);
  });

  test("is each steward's own where they do not meet, and the answer says so", async () => {
    const { responses, pooled } = await ask("computeToData", STEWARDS, question);
    for (const { provider, rows } of responses) assertMedians([provider], rows ?? []);
    assert.match((pooled?.notes ?? []).join(" "), /median does not pool/);
    assert.deepEqual(
      Object.keys(pooled?.rows?.[0] ?? {}).filter((name) => name.startsWith("median")),
      [],
    );
  });

  function assertMedians(stewards: readonly string[], answer: readonly AnswerRow[]): void {
    const all = stewards.flatMap((steward) => rowsOf("Many", steward));
    assert.equal(answer.length, new Set(all.map(({ place }) => place)).size);
    for (const row of answer) {
      const members = all.filter(({ place }) => place === row["place"]);
      for (const column of ["number", "pay", "measure", "moment"]) {
        const values = members.map((member) => member[column] ?? null);
        for (const algorithm of ["median", "count"]) {
          const right = expectedValue(algorithm, COLUMNS[column] ?? { type: "integer" }, values);
          const fault = differenceFrom(right, row[`${algorithm}_${column}`]);
          assert.equal(
            fault,
            undefined,
            `${algorithm}_${column} of ${String(row["place"])}, seed ${String(random.seed)}`,
          );
        }
      }
    }
  }
});

async function ask(
  archetype: (typeof ARCHETYPES)[number],
  dataProviders: string[],
  question: Omit<DataRequest, "type">,
): Promise<GatheredAnswer> {
  const answer = await exchange.client.ask({
    type: "sqlDataRequest",
    user: ANALYST,
    dataProviders,
    options: { aggregate: archetype === "dataThroughTtp" },
    data_request: { type: "sqlDataRequest", ...question },
  });
  assert.equal(answer.archetype, archetype);
  return answer;
}

function rowsOf(table: string, steward: string): readonly OracleRow[] {
  return data.get(table)?.get(steward) ?? [];
}

async function configuration(): Promise<string> {
  const columns = DECLARED.map((name) => {
    const type = COLUMNS[name] ?? { type: "text" };
    return { name, type: type.type === "decimal" ? { ...type, precision: 15 } : type };
  });
  const fileOf = (rows: readonly OracleRow[]): string =>
    [DECLARED.join(";"), ...rows.map((row) => DECLARED.map((name) => cellOf(name, row)).join(";"))].join("\n") + "\n";
  const cellOf = (name: string, row: OracleRow): string =>
    cellOfFile(COLUMNS[name] ?? { type: "text" }, row[name] ?? null);
  return writeConfiguration({
    dataSet: {
      name: "random",
      type: "csv",
      tables: [...data.keys()].map((name) => ({ name, columns })),
      sensitive_columns: {},
    },
    providers: Object.fromEntries(
      STEWARDS.map((steward) => [
        steward,
        Object.fromEntries([...data].map(([table, bySteward]) => [table, fileOf(bySteward.get(steward) ?? [])])),
      ]),
    ),
  });
}
