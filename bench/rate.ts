/** Small requests a second, with so many at once. */
import assert from "node:assert/strict";
import { askParty } from "./ask.ts";
import type { BenchExchange } from "./bench-exchange.ts";
import { approvalRequest, LIFETIMES, startLifetimes, STEWARD_OF, untilChainsRest, type Lifetime } from "./lifetimes.ts";
import { inTurns, quantile, summarize } from "./measured.ts";
import { roundsOf, type Cell, type RunOptions, type Table, type TableBench } from "./table.ts";

/** A chain that serves one request alone costs most of a second of processor time: a few sizes say what there is to say. */
const AT_ONCE: Readonly<Record<Lifetime, readonly number[]>> = {
  cold: [1, 8, 64],
  warm: [1, 8, 64],
  persistent: [1, 2, 4, 8, 16, 32, 64],
};
const QUICK_AT_ONCE = [1, 2];
const QUICK_LIFETIMES = ["persistent"] as const;
/** Requests of one measurement: enough for a second or so of work; but each of those at once has at least one. */
const LEAST_REQUESTS: Readonly<Record<Lifetime, number>> = { cold: 8, warm: 8, persistent: 100 };
/** Those at once have several each, so that what a run begins and ends with counts little. */
const REQUESTS_EACH: Readonly<Record<Lifetime, number>> = { cold: 1, warm: 1, persistent: 3 };
/** Of what the target is about, in turns; the others are measured once, after it. */
const USUAL_ROUNDS = 3;
/** For V8: a chain that serves many requests becomes faster during its first thousand. */
const WARM_UP_MS = 10_000;
const WARM_UP_AT_ONCE = 16;
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
  /** Of each round. */
  readonly perSecond: readonly number[];
  /** Of all rounds' requests. */
  readonly ms: readonly number[];
}

/** One round. */
type Round = { readonly perSecond: number; readonly ms: readonly number[] };

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
      if (!options.quick) await warmUp(bench, options);
      const rates: Rate[] = [];
      // Persistent chains first: what the others leave behind is none of theirs.
      for (const lifetime of [...lifetimes].reverse()) rates.push(...(await measureRates(bench, lifetime, options)));
      return [table(rates, options.quick ? 0 : WARM_UP_MS)];
    } finally {
      await bench.close();
    }
  },
};

async function warmUp(bench: BenchExchange, { progress }: RunOptions): Promise<void> {
  progress(`rate: ${String(WARM_UP_MS / 1000)} s of requests that are not counted`);
  const askOnce = await asker(bench, "persistent");
  const endAt = performance.now() + WARM_UP_MS;
  const work = async (): Promise<void> => {
    while (performance.now() < endAt) await askOnce(0);
  };
  await Promise.all(Array.from({ length: WARM_UP_AT_ONCE }, work));
}

/** Every number at once of a lifetime, in turns where there are several rounds. */
async function measureRates(bench: BenchExchange, lifetime: Lifetime, options: RunOptions): Promise<Rate[]> {
  const sizes = options.quick ? QUICK_AT_ONCE : AT_ONCE[lifetime];
  const rounds = lifetime === "persistent" ? roundsOf(options, USUAL_ROUNDS) : 1;
  const seen = await inTurns(
    rounds,
    Object.fromEntries(
      sizes.map((atOnce) => [`${String(atOnce)} at once`, () => measureRound(bench, lifetime, atOnce, options)]),
    ),
  );
  return sizes.map((atOnce) => {
    const all = seen[`${String(atOnce)} at once`] ?? [];
    const perSecond = all.map((round) => round.perSecond);
    return { lifetime, atOnce, perSecond, ms: all.flatMap(({ ms }) => ms) };
  });
}

/** A function that asks once, with a number that its answer has to bring back, and resolves with the milliseconds. */
async function asker(bench: BenchExchange, lifetime: Lifetime): Promise<(code: number) => Promise<number>> {
  const approval = await bench.client.requestApproval(approvalRequest(lifetime, "computeToData"));
  return async (code) => {
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
}

async function measureRound(
  bench: BenchExchange,
  lifetime: Lifetime,
  atOnce: number,
  options: RunOptions,
): Promise<Round> {
  const askOnce = await asker(bench, lifetime);
  await askOnce(0);
  if (!options.quick) await untilChainsRest(bench);
  const requests = options.quick ? atOnce * 2 : Math.max(LEAST_REQUESTS[lifetime], atOnce * REQUESTS_EACH[lifetime]);
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
  return { perSecond, ms };
}

function table(rates: readonly Rate[], warmUpMs: number): Table {
  const atOnce = [...new Set(rates.map((rate) => rate.atOnce))];
  const cells = (lifetime: Lifetime, at: number): Cell[] => {
    const rate = rates.find((each) => each.lifetime === lifetime && each.atOnce === at);
    if (rate === undefined) return [null, null, null];
    return [summarize(rate.perSecond), quantile(rate.ms, 0.5), quantile(rate.ms, 0.95)];
  };
  const medians = rates
    .filter(({ lifetime }) => lifetime === "persistent")
    .map(({ perSecond }) => summarize(perSecond).median);
  const best = Math.max(...medians);
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
    targets: [
      { what: "small requests a second with persistent chains, the best median", measured: best, atLeast: LEAST_RATE },
    ],
    notes: [
      "One row of one steward, by computeToData, at the agent; every answer is checked to be its own request's. At most 4 chains at once where a chain serves one request, 64 requests where it serves many (`DYNAMOS_MAX_RUNS`), of which one chain has 16 in hand (`DYNAMOS_CHAIN_CONCURRENCY`).",
      `Persistent: medians of rounds in turns, after ${String(warmUpMs / 1000)} s of requests, ${String(WARM_UP_AT_ONCE)} at once, that are not counted; p50 and p95 of all rounds' requests. Cold and warm: one round each, after those.`,
    ],
  };
}
