import assert from "node:assert/strict";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { averageSalaryBySex } from "../../cli/demo/known-answer.ts";
import { ANALYST, SALARY_QUERY, smallSample, testExchange } from "../support/exchange.ts";

const configuration = await smallSample();
const party = join(configuration, "parties/VU.json");
await writeFile(party, (await readFile(party, "utf8")).replaceAll('"csv"', '"duckdb"'));
const exchange = await testExchange({ configuration });

test("stewards with different engines answer one question, and their answers pool", async () => {
  const answer = await exchange.client.ask({
    type: "sqlDataRequest",
    user: ANALYST,
    dataProviders: ["VU", "UVA"],
    data_request: {
      type: "sqlDataRequest",
      query: SALARY_QUERY,
      algorithm: "average",
      algorithmColumns: { Geslacht: "Aanst_22" },
    },
  });
  assert.deepEqual(answer.responses.map(({ provider, status }) => `${provider} ${status}`).sort(), ["UVA ok", "VU ok"]);
  const known = await averageSalaryBySex(join(configuration, "data"), ["VU", "UVA"]);
  const rows = answer.pooled?.rows ?? [];
  assert.equal(rows.length, known.size);
  for (const [sex, average] of known) {
    const found = Number(rows.find(({ Geslacht }) => (Geslacht ?? "") === sex)?.["average_Aanst_22"]);
    assert.ok(Math.abs(found - average) <= 1e-9 * average, `${sex}: ${String(found)} instead of ${String(average)}`);
  }
});
