/**
 * How long a policy decision takes: from an approval's request to its plan, with the parties composed, at the front door. Beside an
 * exchange with the agreements of two stewards alone stand one with 1,000 agreements, and one in which the two stewards' own
 * agreements have 1,000 users each.
 */
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Agreement } from "../lib/model/agreement.ts";
import { ANALYST, writeConfiguration } from "../test/support/exchange.ts";
import { ask } from "./ask.ts";
import { addUsers, CODES, codesFile, startBenchExchange, type BenchExchange } from "./bench-exchange.ts";
import { inTurns, quantile, ratios, summarize } from "./measured.ts";
import { roundsOf, type Table, type TableBench } from "./table.ts";

const USUAL_ROUNDS = 200;
const LIMIT_MS = 50;
const STEWARDS = ["VU", "UVA"] as const;

type Size = "2 agreements" | "1,000 agreements" | "2 agreements of 1,000 users";

/** See the file comment. */
export const DECISIONS: TableBench = {
  name: "decisions",
  about: "from an approval's request to its plan, with 2 and with 1,000 agreements: p50 and p95",
  run: async (options) => {
    const many = options.quick ? 20 : 1_000;
    const rounds = roundsOf(options, USUAL_ROUNDS);
    const sizes: readonly (readonly [Size, string])[] = [
      ["2 agreements", await configurationOf(0, 0)],
      ["1,000 agreements", await configurationOf(many - STEWARDS.length, 0)],
      ["2 agreements of 1,000 users", await configurationOf(0, many - 1)],
    ];
    const exchanges: BenchExchange[] = [];
    try {
      const asks: [Size, () => Promise<number>][] = [];
      for (const [size, configuration] of sizes) {
        options.progress(`decisions: starting the exchange with ${size}`);
        const exchange = await startBenchExchange(configuration);
        exchanges.push(exchange);
        asks.push([size, () => approvalMs(exchange)]);
      }
      const things = Object.fromEntries(asks) as Record<Size, () => Promise<number>>;
      // Compiles what a decision needs.
      await inTurns(options.quick ? 1 : 10, things);
      options.progress(`decisions: ${String(rounds)} of each in turns`);
      return [table(await inTurns(rounds, things))];
    } finally {
      for (const exchange of exchanges) await exchange.close();
    }
  },
};

async function approvalMs({ exchange }: BenchExchange): Promise<number> {
  const url = new URL("/api/v1/requestApproval", exchange.url).href;
  return (await ask(url, { type: "sqlDataRequest", user: ANALYST, dataProviders: STEWARDS })).totalMs;
}

/** Two stewards that run, so many agreements of others, and so many further users in the two stewards' own. */
async function configurationOf(others: number, users: number): Promise<string> {
  const providers = Object.fromEntries(STEWARDS.map((steward, at) => [steward, { Codes: codesFile(10, at) }]));
  const configuration = await writeConfiguration({ dataSet: CODES, providers });
  const people = Array.from({ length: users }, (_, at) => ({
    id: `user-${String(at)}`,
    userName: `user${String(at)}@example.org`,
  }));
  if (users > 0) await addUsers(configuration, people);
  const folder = join(configuration, "agreements");
  const own = JSON.parse(await readFile(join(folder, `${STEWARDS[0]}.json`), "utf8")) as Agreement;
  for (let at = 0; at < others; at += 1) {
    const name = `Other${String(at)}`;
    await writeFile(join(folder, `${name}.json`), JSON.stringify({ ...own, name }));
  }
  return configuration;
}

function table(ms: Readonly<Record<Size, readonly number[]>>): Table {
  const few = ms["2 agreements"];
  return {
    name: "decisions",
    title: "From an approval's request to its plan",
    columns: [
      { name: "store has" },
      { name: "p50", unit: "ms" },
      { name: "p95", unit: "ms" },
      { name: "median, spread", unit: "ms" },
      { name: "of 2 agreements" },
    ],
    rows: Object.entries(ms).map(([size, values]) => [
      size,
      quantile(values, 0.5),
      quantile(values, 0.95),
      summarize(values),
      ratios(values, few),
    ]),
    targets: [
      {
        what: "policy decision with 1,000 agreements, p95",
        unit: "ms",
        measured: quantile(ms["1,000 agreements"], 0.95),
        atMost: LIMIT_MS,
      },
    ],
    notes: [
      "One approval after the other of two stewards, in turns between the exchanges; with policy enforcer, composition of both agents, and the plan in the store.",
    ],
  };
}
