/**
 * A long run: `npm run bench -- soak [minutes]` (default 60). Small requests of both archetypes without a pause, some cancelled,
 * two orchestrators and two agents each; every minute a line with memory and handles of each long-lived program. Fails when an
 * answer is wrong, or memory or handles of the last quarter are clearly above those of the second.
 */
import assert from "node:assert/strict";
import { call, type GatheredAnswer } from "../cli/client.ts";
import { ANALYST, writeConfiguration } from "../test/support/exchange.ts";
import { CODES, codesFile, processFigures, startBenchExchange, type BenchExchange } from "./bench-exchange.ts";

const BASES = { VU: 1000, UVA: 2000 } as const;
const CODE_COUNT = 500;
const AT_ONCE = 2;
const SAMPLES = 60;
/** What may come on top of the second quarter without being a leak: a heap's own ups and downs. */
const SLACK = { residentMiB: 20, handles: 10 } as const;

/** What one program held at one time: its largest process counts. */
interface Sample {
  readonly residentMiB: number;
  readonly handles: number;
}

/** Runs it; see the file comment. */
export async function soak(minutes = 60): Promise<void> {
  const providers = Object.fromEntries(
    Object.entries(BASES).map(([name, base]) => [name, { Codes: codesFile(CODE_COUNT, base) }]),
  );
  const bench = await startBenchExchange(await writeConfiguration({ dataSet: CODES, providers }), {
    replicas: { orchestrator: 2, agent: 2 },
  });
  try {
    const samples = await runFor(minutes, bench);
    judge(samples);
  } finally {
    await bench.close();
  }
}

async function runFor(minutes: number, bench: BenchExchange): Promise<ReadonlyMap<string, readonly Sample[]>> {
  const endAt = performance.now() + minutes * 60_000;
  const counts = { answered: 0, cancelled: 0 };
  const isOver = (): boolean => performance.now() >= endAt;
  const working = Promise.all(Array.from({ length: AT_ONCE }, (_, index) => work(index, bench, counts, isOver)));
  const samples = new Map<string, Sample[]>();
  const pauseMs = (minutes * 60_000) / SAMPLES;
  for (let taken = 0; taken < SAMPLES && !isOver(); taken += 1) {
    await Promise.race([working, new Promise((resolve) => setTimeout(resolve, pauseMs))]);
    for (const [program, sample] of await sampleNow(bench))
      samples.set(program, [...(samples.get(program) ?? []), sample]);
    const line = [...samples].map(([program, all]) => {
      const last = all.at(-1);
      return `${program} ${String(last?.residentMiB)} MiB ${String(last?.handles)} handles`;
    });
    console.error(`${String(counts.answered)} answered, ${String(counts.cancelled)} cancelled; ${line.join(", ")}`);
  }
  await working;
  console.log(`${String(counts.answered)} requests answered rightly, ${String(counts.cancelled)} cancelled`);
  return samples;
}

/** One request after the other, at the two orchestrators in turn; every tenth is given up at once. */
async function work(
  worker: number,
  { exchange }: BenchExchange,
  counts: { answered: number; cancelled: number },
  isOver: () => boolean,
): Promise<void> {
  for (let number = 1; !isOver(); number += 1) {
    const code = ((number * AT_ONCE + worker) % CODE_COUNT) + 1;
    const throughThirdParty = number % 3 === 0;
    const options = throughThirdParty ? { options: { aggregate: true } } : {};
    const question = {
      type: "sqlDataRequest",
      query: `SELECT code, amount FROM Codes WHERE code = ${String(code)}`,
      algorithm: "sum",
      algorithmColumns: { code: "amount" },
      ...options,
    };
    const isCancelled = number % 10 === 0;
    const url = exchange.urls[number % exchange.urls.length] ?? exchange.url;
    const asking = call(
      "POST",
      `${url}/api/v1/requestApproval`,
      { type: "sqlDataRequest", user: ANALYST, dataProviders: Object.keys(BASES), ...options, data_request: question },
      isCancelled ? { signal: AbortSignal.timeout(300) } : {},
    ).then((response) => response.json() as Promise<GatheredAnswer>);
    if (isCancelled) {
      // Whether it was cancelled or done just before does not matter: nothing of it may stay.
      await asking.catch(() => undefined);
      counts.cancelled += 1;
      continue;
    }
    const answer = await asking;
    const sum = Object.values(BASES).reduce((total, base) => total + base + code, 0);
    assert.deepEqual(answer.pooled?.rows, [{ code, sum_amount: sum }], JSON.stringify(answer));
    counts.answered += 1;
  }
}

async function sampleNow(bench: BenchExchange): Promise<ReadonlyMap<string, Sample>> {
  const samples = new Map<string, Sample>();
  for (const { program, residentMiB, handles } of await processFigures(bench)) {
    if (!/^(agent|orchestrator|policy-enforcer|sidecar\/messaging)/.test(program)) continue;
    const most = samples.get(program) ?? { residentMiB: 0, handles: 0 };
    samples.set(program, {
      residentMiB: Math.max(most.residentMiB, residentMiB),
      handles: Math.max(most.handles, handles),
    });
  }
  return samples;
}

function judge(samples: ReadonlyMap<string, readonly Sample[]>): void {
  const table: Record<string, Record<string, number>> = {};
  const grown: string[] = [];
  for (const [program, all] of samples) {
    const quarter = (index: number): readonly Sample[] =>
      all.slice(Math.floor((all.length * index) / 4), Math.floor((all.length * (index + 1)) / 4));
    table[program] = {};
    for (const figure of ["residentMiB", "handles"] as const) {
      const [second, last] = [quarter(1), quarter(3)].map((some) => mean(some.map((sample) => sample[figure])));
      table[program][`${figure}, second quarter`] = second ?? 0;
      table[program][`${figure}, last quarter`] = last ?? 0;
      if ((last ?? 0) > (second ?? 0) + SLACK[figure]) grown.push(`${figure} of ${program}`);
    }
  }
  console.table(table);
  assert.deepEqual(grown, [], "what grew");
}

function mean(values: readonly number[]): number {
  return Math.round(values.reduce((sum, value) => sum + value, 0) / Math.max(1, values.length));
}
