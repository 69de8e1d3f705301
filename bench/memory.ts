/**
 * Memory by size: `npm run bench -- memory`. Joins of 300,000 and of 1,500,000 rows at each of two stewards, by both archetypes; the
 * most that each program ever had resident, side by side. Fails when one goes above 300 MB, or above 1.3 times of what it had for
 * the smaller join, or when a row is missing.
 */
import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { call } from "../cli/client.ts";
import { ANALYST, writeConfiguration } from "../test/support/exchange.ts";
import { CODES, codesFile, processFigures, startBenchExchange, type BenchExchange } from "./bench-exchange.ts";

const PROVIDERS = ["VU", "UVA"];
const CODE_COUNT = 1_500;
const SIZES = { small: 200, large: 1_000 } as const;
const LIMIT_MB = 300;
const MOST_RATIO = 1.3;
const LOOK_EVERY_MS = 50;

/** Runs it; see the file comment. */
export async function measureMemory(): Promise<void> {
  const file = codesFile(CODE_COUNT, 0);
  const providers = Object.fromEntries(PROVIDERS.map((name) => [name, { Codes: file }]));
  const configuration = await writeConfiguration({ dataSet: CODES, providers });
  const peaks: Record<keyof typeof SIZES, ReadonlyMap<string, number>> = { small: new Map(), large: new Map() };
  for (const size of ["small", "large"] as const) {
    // Anew for each: a process remembers its peak.
    const bench = await startBenchExchange(configuration);
    try {
      peaks[size] = await peaksOf(bench, SIZES[size]);
    } finally {
      await bench.close();
    }
  }
  show(peaks.small, peaks.large);
}

async function peaksOf(bench: BenchExchange, factor: number): Promise<ReadonlyMap<string, number>> {
  const most = new Map<string, number>();
  const ending = new AbortController();
  const watching = (async () => {
    while (!ending.signal.aborted) {
      for (const { program, peakMiB } of await processFigures(bench))
        most.set(program, Math.max(most.get(program) ?? 0, peakMiB));
      await sleep(LOOK_EVERY_MS);
    }
  })();
  for (const throughThirdParty of [false, true]) {
    const start = performance.now();
    const rows = await readRows(bench, factor, throughThirdParty);
    assert.equal(rows, (throughThirdParty ? PROVIDERS.length : 1) * factor * CODE_COUNT);
    const seconds = (performance.now() - start) / 1000;
    console.error(`${String(rows)} rows in ${seconds.toFixed(1)} s`);
  }
  ending.abort();
  await watching;
  return most;
}

/** How many rows come as CSV. */
async function readRows({ client }: BenchExchange, factor: number, throughThirdParty: boolean): Promise<number> {
  const options = throughThirdParty ? { options: { aggregate: true } } : {};
  const approval = await client.requestApproval({
    type: "sqlDataRequest",
    user: ANALYST,
    dataProviders: PROVIDERS,
    ...options,
  });
  const query = `SELECT a.code, a.amount + b.code AS amount FROM Codes a JOIN Codes b ON b.code <= ${String(factor)}`;
  const endpoint = approval.authorizedProviders[throughThirdParty ? "SURF" : "VU"] ?? "";
  const response = await call(
    "POST",
    endpoint,
    { type: "sqlDataRequest", query },
    { token: approval.auth.accessToken, headers: { accept: "text/csv" } },
  );
  assert.equal(response.status, 200);
  let lines = 0;
  for await (const chunk of response.body as unknown as AsyncIterable<Uint8Array>)
    for (const byte of chunk) if (byte === 0x0a) lines += 1;
  return lines - 1;
}

function show(small: ReadonlyMap<string, number>, large: ReadonlyMap<string, number>): void {
  const table: Record<string, Record<string, string>> = {};
  const faults: string[] = [];
  for (const [program, after] of large) {
    const before = small.get(program) ?? after;
    const ratio = after / before;
    table[program] = { "MiB, small": String(before), "MiB, large": String(after), ratio: ratio.toFixed(2) };
    if (after * 1.048576 > LIMIT_MB || ratio > MOST_RATIO) faults.push(program);
  }
  console.table(table);
  assert.deepEqual(faults, [], "programs above the limits");
}
