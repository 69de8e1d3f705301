/**
 * From ten thousand to ten million rows of six typed columns: query → anonymize → algorithm at one steward, and query → anonymize at
 * three stewards → bus → aggregate → algorithm at a third party. Time, and the most memory that each program ever had. Every answer
 * is compared with an oracle's; a wrong one fails the measurement.
 */
import assert from "node:assert/strict";
import { rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { ANALYST, writeConfiguration } from "../test/support/exchange.ts";
import { askParty, type Asked } from "./ask.ts";
import { startBenchExchange, type BenchExchange } from "./bench-exchange.ts";
import { withPeaks } from "./process-peaks.ts";
import { profiled } from "./profiles.ts";
import { READINGS, writeReadings, type ReadingRange } from "./readings-data.ts";
import { answerTexts, expectedAnswer, READINGS_QUESTION } from "./readings-oracle.ts";
import type { RunOptions, Table, TableBench, Target } from "./table.ts";

const SIZES = [10_000, 100_000, 1_000_000, 10_000_000] as const;
const QUICK_SIZES = [600, 6_000] as const;
/** Has all rows; the others have a third of them each. */
const ONE = "One";
const THREE = ["First", "Second", "Third"] as const;
const THIRD_PARTY = "SURF";
const SEED = 20_230_701;
const LIMIT_MIB = 256;
const MOST_GROWTH = 1.1;
/** For ten million rows on a slow machine. */
const LIMITS = { DYNAMOS_REQUEST_DEADLINE_MS: "1440000", DYNAMOS_QUERY_TIME_LIMIT_MS: "1400000" };
/** A profiler needs memory of its own. */
const PROFILING_LIMITS = { DYNAMOS_MEMORY_LIMIT_MIB: "1500", DYNAMOS_QUERY_MEMORY_BYTES: "1500000000" };

/** What was seen of one size. */
export interface Sized {
  readonly rows: number;
  readonly times: Readonly<Record<Way, Times>>;
  /** MiB, by program. */
  readonly peaks: ReadonlyMap<string, number>;
  /** What the bus holds at the end; embedded: how large its files have become. */
  readonly busBytes: number;
}

type Way = "computeToData" | "dataThroughTtp";

interface Times {
  /** Until the data were loaded and a first row was out. */
  readonly loadMs: number;
  readonly asked: Asked;
}

/** See the file comment. The sizes can be chosen: `npm run bench -- rows 1000000`. */
export const ROWS: TableBench = {
  name: "rows",
  about:
    "10,000 to 10 million rows of six typed columns by both archetypes: time, memory of every program, answers against an oracle",
  run: async (options) => {
    const sizes = options.numbers.length > 0 ? options.numbers : options.quick ? QUICK_SIZES : SIZES;
    const measured: Sized[] = [];
    for (const rows of sizes) measured.push(await profiled(options.profiles, () => measureSize(rows, options)));
    return [timeTable(measured), memoryTable(measured)];
  },
};

/** Makes data of this size, and asks by both archetypes. Fails where an answer is not the oracle's. */
export async function measureSize(
  rows: number,
  options: Pick<RunOptions, "progress" | "profiles"> = { profiles: undefined, progress: () => undefined },
): Promise<Sized> {
  const third = Math.floor(rows / THREE.length);
  const parts = THREE.map((_, index): ReadingRange => {
    return { first: index * third, count: index === 2 ? rows - 2 * third : third, seed: SEED };
  });
  options.progress(`rows: making ${String(rows)} rows`);
  const configuration = await readingsConfiguration([{ first: 0, count: rows, seed: SEED }, ...parts]);
  const expected = expectedAnswer(parts);
  // Anew for each size: a process remembers its peak.
  const bench = await startBenchExchange(configuration, {
    environment: { ...LIMITS, ...(options.profiles === undefined ? {} : PROFILING_LIMITS) },
  });
  try {
    const { result: times, peaks } = await withPeaks(bench, async () => ({
      computeToData: await measureWay(bench, "computeToData", expected),
      dataThroughTtp: await measureWay(bench, "dataThroughTtp", expected),
    }));
    for (const [way, { loadMs, asked }] of Object.entries(times))
      options.progress(
        `rows: ${String(rows)} by ${way} in ${seconds(asked.totalMs)} s, after ${seconds(loadMs)} s of loading`,
      );
    return { rows, times, peaks, busBytes: await bench.backends.bus.heldBytes() };
  } finally {
    await bench.close();
    await rm(configuration, { recursive: true, force: true });
  }
}

async function measureWay(bench: BenchExchange, way: Way, expected: ReturnType<typeof expectedAnswer>): Promise<Times> {
  const isThrough = way === "dataThroughTtp";
  const options = { anonymize: true, ...(isThrough ? { aggregate: true } : {}) };
  const approval = await bench.client.requestApproval({
    type: "sqlDataRequest",
    user: ANALYST,
    dataProviders: isThrough ? [...THREE] : [ONE],
    options,
  });
  const party = isThrough ? THIRD_PARTY : ONE;
  const first = { ...READINGS_QUESTION, options, query: `${READINGS_QUESTION.query} LIMIT 1` };
  const load = await askParty(approval, party, first);
  const asked = await askParty(approval, party, { ...READINGS_QUESTION, options }, { keep: true });
  const { rows } = JSON.parse(asked.body.toString()) as { rows: Record<string, unknown>[] };
  assert.deepEqual(answerTexts(rows), expected, `The answer by ${way} is not the oracle's.`);
  return { loadMs: load.totalMs, asked };
}

/** The exchange's configuration with its files; the first range is the one steward's. */
async function readingsConfiguration(ranges: readonly ReadingRange[]): Promise<string> {
  const providers = Object.fromEntries([ONE, ...THREE].map((name) => [name, {}]));
  const configuration = await writeConfiguration({ dataSet: READINGS, providers });
  for (const [index, name] of [ONE, ...THREE].entries()) {
    const file = join(configuration, "data", name, "Readings.csv");
    await writeReadings(file, ranges[index] ?? { first: 0, count: 0, seed: SEED });
    const party = { dataSets: { [READINGS.name]: { engine: "csv", files: { Readings: file } } } };
    await writeFile(join(configuration, "parties", `${name}.json`), JSON.stringify(party));
  }
  return configuration;
}

function timeTable(measured: readonly Sized[]): Table {
  return {
    name: "rows",
    title: "Rows by time",
    columns: [
      { name: "rows" },
      { name: "by" },
      { name: "first request: loading the CSV", unit: "s" },
      { name: "answer", unit: "s" },
      { name: "rows a second" },
    ],
    rows: measured.flatMap(({ rows, times }) =>
      Object.entries(times).map(([way, { loadMs, asked }]) => [
        rows.toLocaleString("en-US"),
        way,
        loadMs / 1000,
        asked.totalMs / 1000,
        Math.round((rows * 1000) / asked.totalMs),
      ]),
    ),
    notes: [
      "computeToData: one steward with all rows. dataThroughTtp: three stewards with a third each. Both: query, anonymize, algorithm; each answer is the oracle's, value by value.",
      `The bus's files, or the bytes in its queues, afterwards: ${measured.map(({ busBytes }) => `${(busBytes / 1e6).toFixed(1)} MB`).join(", ")}.`,
    ],
  };
}

function memoryTable(measured: readonly Sized[]): Table {
  const programs = [...new Set(measured.flatMap(({ peaks }) => [...peaks.keys()]))].sort();
  return {
    name: "rows-memory",
    title: "Rows by memory: the most that any process of a program ever had resident",
    columns: [
      { name: "program" },
      ...measured.map(({ rows }) => ({ name: `${rows.toLocaleString("en-US")} rows`, unit: "MiB" })),
    ],
    rows: programs.map((program) => [program, ...measured.map(({ peaks }) => peaks.get(program) ?? null)]),
    targets: memoryTargets(measured),
  };
}

function memoryTargets(measured: readonly Sized[]): Target[] {
  const largest = measured.at(-1);
  const before = measured.at(-2);
  if (largest === undefined || before === undefined) return [];
  const most = Math.max(...largest.peaks.values());
  const growth = Math.max(...[...largest.peaks].map(([program, peak]) => peak / (before.peaks.get(program) ?? peak)));
  const [from, to] = [before.rows, largest.rows].map((rows) => rows.toLocaleString("en-US"));
  return [
    { what: `the largest process with ${String(to)} rows`, unit: "MiB", measured: most, atMost: LIMIT_MIB },
    { what: `growth of any program from ${String(from)} to ${String(to)} rows`, measured: growth, atMost: MOST_GROWTH },
  ];
}

function seconds(ms: number): string {
  return (ms / 1000).toFixed(1);
}
