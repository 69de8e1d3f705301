/** From a request to the first batch of its answer: with a chain that is started for it, that was started ahead, and that serves many. */
import { askParty } from "./ask.ts";
import type { BenchExchange } from "./bench-exchange.ts";
import {
  answeringParty,
  approvalRequest,
  ARCHETYPES,
  claimsOf,
  LIFETIMES,
  servedAsMeant,
  startLifetimes,
  untilChainsRest,
  type Lifetime,
  type Way,
} from "./lifetimes.ts";
import { quantile, summarize } from "./measured.ts";
import { roundsOf, type Table, type TableBench } from "./table.ts";

const USUAL_ROUNDS = 20;
/** Of all rounds: no target is about cold chains, which take longest. */
const COLD_EVERY = 2;
const WARM_LIMIT_MS = 300;
/** Third parties are left to the table of archetypes then. */
const QUICK_ARCHETYPES = ["computeToData"] as const;
const QUESTION = {
  type: "sqlDataRequest",
  query: "SELECT Geslacht, Aanst_22 FROM Personen JOIN Aanstellingen USING (Unieknr, Peildat) LIMIT 10",
};

/** See the file comment. */
export const START: TableBench = {
  name: "start",
  about: "request to first batch with cold, warm and persistent chains: median, p50 and p95",
  run: async (options) => {
    const rounds = roundsOf(options, USUAL_ROUNDS);
    const archetypes = options.quick ? QUICK_ARCHETYPES : ARCHETYPES;
    const bench = await startLifetimes({ pairs: options.quick ? 5 : 200, archetypes });
    try {
      const ways = LIFETIMES.flatMap((lifetime) => archetypes.map((archetype) => ({ lifetime, archetype })));
      const ms = new Map(ways.map((way) => [keyOf(way), [] as number[]]));
      const asks = await Promise.all(ways.map(async (way) => [way, await asking(bench, way)] as const));
      // Loads the data, and lets agents see what is asked of them.
      for (const [, askOnce] of asks) for (let round = 0; round < (options.quick ? 1 : 3); round += 1) await askOnce();
      const before = await allClaims(bench);
      for (let round = 0; round < rounds; round += 1) {
        options.progress(`start: round ${String(round + 1)} of ${String(rounds)}`);
        for (const [way, askOnce] of asks) {
          if (way.lifetime === "cold" && round % COLD_EVERY !== 0) continue;
          if (!options.quick) await untilChainsRest(bench);
          ms.get(keyOf(way))?.push(await askOnce());
        }
      }
      const after = await allClaims(bench);
      const served = LIFETIMES.map((lifetime) => servedAsMeant(lifetime, before[lifetime], after[lifetime]));
      return [
        table(
          ways.map((way) => [way, ms.get(keyOf(way)) ?? []]),
          `Chains that were of the lifetime that they were to be: ${LIFETIMES.map((lifetime, place) => `${lifetime} ${served[place] ?? ""}`).join(", ")}.`,
        ),
      ];
    } finally {
      await bench.close();
    }
  },
};

type Claims = Record<Lifetime, ReadonlyMap<string, number>>;

async function allClaims(bench: BenchExchange): Promise<Claims> {
  const claims = await Promise.all(
    LIFETIMES.map(async (lifetime) => [lifetime, await claimsOf(bench, lifetime)] as const),
  );
  return Object.fromEntries(claims) as Claims;
}

async function asking(bench: BenchExchange, { lifetime, archetype }: Way): Promise<() => Promise<number>> {
  const approval = await bench.client.requestApproval(approvalRequest(lifetime, archetype));
  const question = { ...QUESTION, options: { aggregate: archetype === "dataThroughTtp" } };
  return async () => (await askParty(approval, answeringParty(lifetime, archetype), question)).firstMs;
}

function keyOf({ lifetime, archetype }: Way): string {
  return `${lifetime} ${archetype}`;
}

function table(ways: readonly (readonly [Way, readonly number[]])[], served: string): Table {
  return {
    name: "start",
    title: "From request to first batch",
    columns: [
      { name: "chain" },
      { name: "by" },
      { name: "p50", unit: "ms" },
      { name: "p95", unit: "ms" },
      { name: "median, spread", unit: "ms" },
      { name: "of cold" },
    ],
    rows: ways.map(([{ lifetime, archetype }, ms]) => {
      const cold = ways.find(([way]) => way.lifetime === "cold" && way.archetype === archetype)?.[1] ?? ms;
      return [
        lifetime,
        archetype,
        quantile(ms, 0.5),
        quantile(ms, 0.95),
        summarize(ms),
        quantile(ms, 0.5) / quantile(cold, 0.5),
      ];
    }),
    targets: ways
      .filter(([{ lifetime }]) => lifetime === "warm")
      .map(([{ archetype }, ms]) => ({
        what: `request to first batch by ${archetype}, warm, p95`,
        unit: "ms",
        measured: quantile(ms, 0.95),
        atMost: WARM_LIMIT_MS,
      })),
    notes: [
      "A data request at the agent under an approval, ten rows; until the head of the answer, which goes out with the first batch. In turns; before each, all chains were at rest.",
      served,
    ],
  };
}
