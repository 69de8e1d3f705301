import assert from "node:assert/strict";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { describe, test } from "node:test";
import { call, type Approval } from "../../cli/client.ts";
import type { Agreement } from "../../lib/model/agreement.ts";
import type { User } from "../../lib/model/names.ts";
import { ANALYST, rejectsWith, testExchange, writeConfiguration } from "../support/exchange.ts";
import { approve, assertNothingLeft, chainProcess, chainProcesses, slowQuery } from "../support/running-chains.ts";

const REQUESTS = 100;
const MAX_RUNS = 4;
/** What every amount of a steward is above the code: no two questions have the same answer. */
const BASES: Readonly<Record<string, number>> = { VU: 1000, UVA: 2000, RUG: 3000 };
const USERS = [1, 2, 3, 4, 5].map((n) => ({ id: `user-${String(n)}`, userName: `user${String(n)}@example.org` }));

const exchange = await testExchange({
  configuration: await codesConfiguration(),
  // Fifteen approvals at once must not fail where the machine is slow: the chains are what is tried here.
  environment: { DYNAMOS_MAX_RUNS: String(MAX_RUNS), DYNAMOS_COMPOSITION_TIMEOUT_MS: "30000" },
  environmentOf: { "agent-RUG": { DYNAMOS_MAX_RUNS: "1", DYNAMOS_MAX_QUEUED_RUNS: "1" } },
});

test("a hundred requests at once, of five users, to two stewards, by both archetypes: each gets its own answer", async () => {
  const approvals = await Promise.all(
    USERS.map(async (user) => ({
      user,
      home: await approve(exchange, ["VU", "UVA"], { user }),
      third: await approve(exchange, ["VU"], { user, throughThirdParty: true }),
    })),
  );
  const watching = new AbortController();
  const most = mostAtOnce(watching.signal);
  const outcomes = await Promise.all(
    Array.from({ length: REQUESTS }, async (_, index) => {
      const { user, home, third } = approvals[index % USERS.length] as (typeof approvals)[number];
      return ask(index + 1, user, home, third);
    }),
  ).finally(() => watching.abort());
  assert.equal(new Set(outcomes.map(({ expected }) => JSON.stringify(expected))).size, REQUESTS);
  for (const { expected, answered } of outcomes) assert.deepEqual(answered, expected);
  const chains = await most;
  assert.ok(chains > 1 && chains <= MAX_RUNS, `one agent ran up to ${String(chains)} chains at once`);
  await assertNothingLeft(exchange);
});

describe("more requests than may wait", () => {
  test("are refused with 429 and a time to come back; those that wait have their turn", async () => {
    const { auth, authorizedProviders } = await approve(exchange, ["RUG"]);
    const { accessToken: token } = auth;
    const endpoint = authorizedProviders["RUG"] ?? "";
    const endless = { type: "sqlDataRequest", query: slowQuery(1e12) };
    const running = rejectsWith(
      exchange.client.askAgent(endpoint, endless, { token, idempotencyKey: "endless" }),
      "cancelled",
    );
    await chainProcess(exchange, "RUG", "query-child");
    const numbers = [7, 8];
    const two = numbers.map((number) => call("POST", endpoint, question(number), { token }));
    // The other one waits, so it is the refused one that is answered first.
    const refused = await Promise.race(two);
    assert.equal(refused.status, 429);
    assert.equal(refused.headers.get("retry-after"), "5");
    assert.match(await refused.text(), /DYNAMOS_MAX_QUEUED_RUNS.*"code":"rate_limited"/);
    await call("DELETE", new URL("/agent/v1/requests/endless", endpoint).href, undefined, { token });
    await running;
    const place = (await Promise.all(two)).findIndex(({ status }) => status === 200);
    const waited = (await two[place]?.then((response) => response.json())) as { readonly rows: unknown };
    assert.deepEqual(waited.rows, sums(["RUG"], numbers[place] ?? 0));
  });
});

interface Outcome {
  readonly expected: unknown;
  readonly answered: unknown;
}

/** Asks the question of this number, by the way that is its turn; resolves with what came and what should have. */
async function ask(number: number, user: User, home: Approval, third: Approval): Promise<Outcome> {
  const party = number % 2 === 0 ? "VU" : "UVA";
  const direct = async (approval: Approval, answering: string, of: string): Promise<Outcome> => {
    const { accessToken: token } = approval.auth;
    const endpoint = approval.authorizedProviders[answering] ?? "";
    return {
      expected: sums([of], number),
      answered: (await exchange.client.askAgent(endpoint, question(number), { token })).rows,
    };
  };
  switch (number % 20) {
    case 0:
      return direct(third, "SURF", "VU");
    case 10:
      return atFrontDoor(number, user, ["VU", "UVA"], true);
    case 5:
    case 15:
      return atFrontDoor(number, user, [party], false);
    default:
      return direct(home, party, party);
  }
}

async function atFrontDoor(
  number: number,
  user: User,
  dataProviders: string[],
  throughThirdParty: boolean,
): Promise<Outcome> {
  const options = throughThirdParty ? { options: { aggregate: true } } : {};
  const answer = await exchange.client.ask({
    type: "sqlDataRequest",
    user,
    dataProviders,
    ...options,
    data_request: { ...question(number), ...options },
  });
  assert.equal(answer.archetype, throughThirdParty ? "dataThroughTtp" : "computeToData");
  return { expected: sums(dataProviders, number), answered: answer.pooled?.rows };
}

function question(number: number) {
  return {
    type: "sqlDataRequest",
    query: `SELECT code, amount FROM Codes WHERE code = ${String(number)}`,
    algorithm: "sum",
    algorithmColumns: { code: "amount" },
  };
}

function sums(stewards: readonly string[], code: number): unknown {
  const sum = stewards.reduce((total, steward) => total + (BASES[steward] ?? 0) + code, 0);
  return [{ code, sum_amount: sum }];
}

/** The most chains that VU or UVA ran at a time, seen by their sidecars. */
async function mostAtOnce(signal: AbortSignal): Promise<number> {
  let most = 0;
  while (!signal.aborted) {
    for (const party of ["VU", "UVA"]) {
      most = Math.max(most, (await chainProcesses(exchange, party, "sidecar")).length);
    }
    await sleep(500);
  }
  return most;
}

/** Three stewards with one row per code, and agreements with all users. */
async function codesConfiguration(): Promise<string> {
  const rows = (base: number): string =>
    ["code;amount", ...Array.from({ length: REQUESTS }, (_, i) => `${String(i + 1)};${String(base + i + 1)}`)].join(
      "\n",
    );
  const integer = { type: "integer" } as const;
  const folder = await writeConfiguration({
    dataSet: {
      name: "codes",
      type: "csv",
      sensitive_columns: {},
      tables: [
        {
          name: "Codes",
          columns: [
            { name: "code", type: integer },
            { name: "amount", type: integer },
          ],
        },
      ],
    },
    providers: Object.fromEntries(Object.entries(BASES).map(([name, base]) => [name, { Codes: rows(base) }])),
  });
  for (const steward of Object.keys(BASES)) {
    const path = join(folder, "agreements", `${steward}.json`);
    const agreement = JSON.parse(await readFile(path, "utf8")) as Agreement;
    const relation = agreement.relations[ANALYST.userName] as Agreement["relations"][string];
    for (const { id, userName } of USERS) agreement.relations[userName] = { ...relation, ID: id };
    await writeFile(path, JSON.stringify(agreement));
  }
  return folder;
}
