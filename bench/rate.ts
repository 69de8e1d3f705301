/** Small requests a second, with so many at once. */
import assert from "node:assert/strict";
import { askParty } from "./ask.ts";
import type { BenchExchange } from "./bench-exchange.ts";
import { approvalRequest, LIFETIMES, startLifetimes, STEWARD_OF, untilChainsRest, type Lifetime } from "./lifetimes.ts";
import { quantile } from "./measured.ts";
import type { RunOptions, Table, TableBench } from "./table.ts";

/** A chain that serves one request alone costs most of a second of processor time: a few sizes say what there is to say. */
const AT_ONCE: Readonly<Record<Lifetime, readonly number[]>> = {
  cold: [1, 8, 64],
  warm: [1, 8, 64],
  persistent: [1, 2, 4, 8, 16, 32, 64],
};
const QUICK_AT_ONCE = [1, 2];
const QUICK_LIFETIMES = ["persistent"] as const;
/** Requests of one measurement: enough for a second or so of work; but each of those at once has at least one. */
const LEAST_REQUESTS: Readonly<Record<Lifetime, number>> = { cold: 8, warm: 12, persistent: 200 };
const LEAST_RATE = 100;
/** Beyond what comes at once, so that nothing is refused; a chain of one request needs a core for itself, one of many does not. */
const QUEUED = { DYNAMOS_MAX_QUEUED_RUNS: "400", DYNAMOS_MAX_QUEUED_RUNS_PER_USER: "400" };
const RUNS = { DYNAMOS_MAX_RUNS: "4", DYNAMOS_MAX_RUNS_PER_USER: "4" };
/**
 * One chain of many places instead of two of four: on two cores a second one makes nothing faster, and each program that serves twice
 * the requests is compiled twice as far.
 */
const MANY_RUNS = {
  DYNAMOS_MAX_RUNS: "64",
  DYNAMOS_MAX_RUNS_PER_USER: "64",
  DYNAMOS_PERSISTENT_CHAINS_MAX: "1",
  DYNAMOS_CHAIN_CONCURRENCY: "16",
};

interface Rate {
  readonly lifetime: Lifetime;
  readonly atOnce: number;
  readonly perSecond: number;
  readonly ms: readonly number[];
}

/** See the file comment. */
export const RATE: TableBench = {
  name: "rate",
  about: "small requests a second at 1 to 64 at once, with cold, warm and persistent chains",
  run: async (options) => {
    const lifetimes = options.quick ? QUICK_LIFETIMES : LIFETIMES;
    const bench = await startLifetimes({
      pairs: options.quick ? 5 : 200,
      lifetimes,
      archetypes: ["computeToData"],
      environment: QUEUED,
      settings: { cold: RUNS, warm: RUNS, persistent: MANY_RUNS },
    });
    try {
      const rates: Rate[] = [];
      for (const atOnce of options.quick ? QUICK_AT_ONCE : AT_ONCE.persistent)
        for (const lifetime of lifetimes.filter((each) => options.quick || AT_ONCE[each].includes(atOnce)))
          rates.push(await measureRate(bench, lifetime, atOnce, options));
      return [table(rates)];
    } finally {
      await bench.close();
    }
  },
};

async function measureRate(
  bench: BenchExchange,
  lifetime: Lifetime,
  atOnce: number,
  options: RunOptions,
): Promise<Rate> {
  const approval = await bench.client.requestApproval(approvalRequest(lifetime, "computeToData"));
  const askOnce = async (code: number): Promise<number> => {
    const query = `SELECT ${String(code)} AS code, count(*) AS rows FROM Personen`;
    const { body, totalMs } = await askParty(
      approval,
      STEWARD_OF[lifetime],
      { type: "sqlDataRequest", query },
      { keep: true },
    );
    const { rows } = JSON.parse(body.toString()) as { rows: { code: number }[] };
    assert.equal(rows[0]?.code, code, "an answer of somebody else's");
    return totalMs;
  };
  await askOnce(0);
  if (!options.quick) await untilChainsRest(bench);
  const requests = options.quick ? atOnce * 2 : Math.max(LEAST_REQUESTS[lifetime], atOnce);
  const ms: number[] = [];
  let begun = 0;
  const work = async (): Promise<void> => {
    while (begun < requests) {
      begun += 1;
      ms.push(await askOnce(begun));
    }
  };
  const start = performance.now();
  await Promise.all(Array.from({ length: atOnce }, work));
  const perSecond = (requests * 1000) / (performance.now() - start);
  options.progress(`rate: ${lifetime}, ${String(atOnce)} at once: ${perSecond.toFixed(1)} a second`);
  return { lifetime, atOnce, perSecond, ms };
}

function table(rates: readonly Rate[]): Table {
  const atOnce = [...new Set(rates.map((rate) => rate.atOnce))];
  const cells = (lifetime: Lifetime, at: number): (number | null)[] => {
    const rate = rates.find((each) => each.lifetime === lifetime && each.atOnce === at);
    return rate === undefined ? [null, null, null] : [rate.perSecond, quantile(rate.ms, 0.5), quantile(rate.ms, 0.95)];
  };
  const best = Math.max(...rates.filter(({ lifetime }) => lifetime === "persistent").map(({ perSecond }) => perSecond));
  return {
    name: "rate",
    title: "Small requests a second, by how many come at once",
    columns: [
      { name: "at once" },
      ...LIFETIMES.flatMap((lifetime) => [
        { name: `${lifetime}: requests a second` },
        { name: `${lifetime}: p50`, unit: "ms" },
        { name: `${lifetime}: p95`, unit: "ms" },
      ]),
    ],
    rows: atOnce.map((at) => [String(at), ...LIFETIMES.flatMap((lifetime) => cells(lifetime, at))]),
    targets: [{ what: "small requests a second with persistent chains, at best", measured: best, atLeast: LEAST_RATE }],
    notes: [
      "One row of one steward, by computeToData, at the agent; every answer is checked to be its own request's. At most 4 chains at once where a chain serves one request, 64 requests where it serves many (`DYNAMOS_MAX_RUNS`), of which one chain has 16 in hand (`DYNAMOS_CHAIN_CONCURRENCY`).",
    ],
  };
}
