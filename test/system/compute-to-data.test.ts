import assert from "node:assert/strict";
import { join } from "node:path";
import { describe, test } from "node:test";
import { averageSalaryBySex } from "../../cli/demo/known-answer.ts";
import { ANALYST, SALARY_QUERY, testExchange } from "../support/exchange.ts";

const QUESTION = {
  type: "sqlDataRequest",
  query: SALARY_QUERY,
  algorithm: "average",
  algorithmColumns: { Geslacht: "Aanst_22" },
};

const exchange = await testExchange();

describe("computeToData", () => {
  test("each steward answers for its own data, and the pooled answer is that of all rows", async () => {
    const answer = await exchange.client.ask({
      type: "sqlDataRequest",
      user: ANALYST,
      dataProviders: ["VU", "UVA"],
      data_request: QUESTION,
    });
    assert.equal(answer.archetype, "computeToData");
    assert.deepEqual(answer.responses.map(({ provider, status }) => `${provider} ${status}`).sort(), [
      "UVA ok",
      "VU ok",
    ]);
    for (const response of answer.responses) {
      await assertAverages([response.provider], response.rows ?? []);
    }
    await assertAverages(["VU", "UVA"], answer.pooled?.rows ?? []);
  });

  test("with the token, a steward's agent answers directly, as often as asked", async () => {
    const approval = await exchange.client.requestApproval({
      type: "sqlDataRequest",
      user: ANALYST,
      dataProviders: ["VU", "UVA"],
    });
    assert.deepEqual(Object.keys(approval.authorizedProviders).sort(), ["UVA", "VU"]);
    for (let time = 0; time < 2; time += 1) {
      const endpoint = approval.authorizedProviders["VU"] ?? "";
      const answer = await exchange.client.askAgent(endpoint, QUESTION, { token: approval.auth.accessToken });
      await assertAverages(["VU"], answer.rows ?? []);
    }
  });

  async function assertAverages(stewards: string[], rows: readonly Readonly<Record<string, unknown>>[]): Promise<void> {
    const known = await averageSalaryBySex(join(exchange.configuration, "data"), stewards);
    assert.equal(rows.length, known.size);
    for (const [sex, average] of known) {
      const found = Number(rows.find(({ Geslacht }) => (Geslacht ?? "") === sex)?.["average_Aanst_22"]);
      assert.ok(Math.abs(found - average) <= 1e-9 * average, `${sex}: ${String(found)} instead of ${String(average)}`);
    }
  }
});
