/**
 * From ten thousand to ten million rows of six typed columns: query → anonymize → algorithm at one steward, and query → anonymize at
 * three stewards → bus → aggregate → algorithm at a third party. Time, and the most memory that each program ever had: while the data
 * were loaded, once, and while they were answered from, which is what every request costs. Every answer is compared with an
 * oracle's; a wrong one fails the measurement.
 */
import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ANALYST, writeConfiguration } from "../test/support/exchange.ts";
import { askParty, type Asked } from "./ask.ts";
import { startBenchExchange, type BenchExchange } from "./bench-exchange.ts";
import { withPeaks } from "./process-peaks.ts";
import { profiled } from "./profiles.ts";
import { READINGS, writeReadings, type ReadingRange } from "./readings-data.ts";
import { answerTexts, expectedAnswer, READINGS_QUESTION } from "./readings-oracle.ts";
import type { RunOptions, Table, TableBench, Target } from "./table.ts";

/** Ten million take five minutes and more: `npm run bench -- rows 1000000 10000000`. */
const SIZES = [10_000, 100_000, 1_000_000] as const;
/** Beyond it tables have a name of their own, so that they stay beside those of the usual sizes. */
const USUAL_MOST = 1_000_000;
const QUICK_SIZES = [600] as const;
/** Has all rows; the others have a third of them each. */
const ONE = "One";
const THREE = ["First", "Second", "Third"] as const;
const THIRD_PARTY = "SURF";
const SEED = 20_230_701;
const LIMIT_MIB = 256;
const MOST_GROWTH = 1.1;
const MOST_ATTEMPTS = 5;
/** Below it heaps are not yet what they come to be. */
const GROWTH_FROM = 1_000_000;
/** For ten million rows on a slow machine. */
const LIMITS = { DYNAMOS_REQUEST_DEADLINE_MS: "1440000", DYNAMOS_QUERY_TIME_LIMIT_MS: "1400000" };
/** A profiler needs memory of its own. */
const PROFILING_LIMITS = { DYNAMOS_MEMORY_LIMIT_MIB: "1500", DYNAMOS_QUERY_MEMORY_BYTES: "1500000000" };

/** What was seen of one size. */
export interface Sized {
  readonly rows: number;
  readonly times: Readonly<Record<Way, Times>>;
  /** The most MiB by program while it answered, in processes that loaded nothing. */
  readonly peaks: ReadonlyMap<string, number>;
  /** The same while data were loaded. */
  readonly loadingPeaks: ReadonlyMap<string, number>;
  /** What the bus holds at the end; embedded: how large its files have become. */
  readonly busBytes: number;
}

const WAYS = ["computeToData", "dataThroughTtp"] as const;
type Way = (typeof WAYS)[number];

interface Times extends Loaded {
  readonly asked: Asked;
}

/** A first row, with what it took to get it. */
interface Loaded {
  /** Until the data were loaded and the row was out, from before the first attempt. */
  readonly loadMs: number;
  /** 1 unless it was refused as something to be tried again. */
  readonly attempts: number;
}

/** See the file comment. The sizes can be chosen: `npm run bench -- rows 1000000`. */
export const ROWS: TableBench = {
  name: "rows",
  about:
    "10,000 to a million rows (or as many as it is told) of six typed columns by both archetypes: time, memory of every program, answers against an oracle",
  run: async (options) => {
    const sizes = options.numbers.length > 0 ? options.numbers : options.quick ? QUICK_SIZES : SIZES;
    const measured: Sized[] = [];
    for (const rows of sizes) measured.push(await profiled(options.profiles, () => measureSize(rows, options)));
    const name = Math.max(...sizes) > USUAL_MOST ? "rows-large" : "rows";
    return [timeTable(name, measured), memoryTable(name, measured)];
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
  const stateFolder = await mkdtemp(join(tmpdir(), "dynamos-bench-"));
  // Anew for each size, and after loading: a process remembers its peak, and keeps the heap that it once needed.
  const start = (): Promise<BenchExchange> =>
    startBenchExchange(configuration, {
      stateFolder,
      environment: { ...LIMITS, ...(options.profiles === undefined ? {} : PROFILING_LIMITS) },
    });
  try {
    const loaded = await within(start, async (bench) => ({
      computeToData: await load(bench, "computeToData", options),
      dataThroughTtp: await load(bench, "dataThroughTtp", options),
    }));
    options.progress(`rows: ${String(rows)} rows loaded`);
    const answered = await within(start, async (bench) => ({
      computeToData: await answer(bench, "computeToData", expected),
      dataThroughTtp: await answer(bench, "dataThroughTtp", expected),
      busBytes: await bench.backends.bus.heldBytes(),
    }));
    const { busBytes, ...asked } = answered.result;
    for (const [way, { totalMs }] of Object.entries(asked))
      options.progress(`rows: ${String(rows)} by ${way} in ${seconds(totalMs)} s`);
    const times = Object.fromEntries(WAYS.map((way) => [way, { ...loaded.result[way], asked: asked[way] }])) as Record<
      Way,
      Times
    >;
    return { rows, times, peaks: answered.peaks, loadingPeaks: loaded.peaks, busBytes };
  } finally {
    await rm(configuration, { recursive: true, force: true });
    await rm(stateFolder, { recursive: true, force: true });
  }
}

/** Does work in an exchange of its own; resolves with the most memory of each program meanwhile, too. */
async function within<Result>(
  start: () => Promise<BenchExchange>,
  work: (bench: BenchExchange) => Promise<Result>,
): Promise<{ readonly result: Result; readonly peaks: ReadonlyMap<string, number> }> {
  const bench = await start();
  try {
    return await withPeaks(bench, () => work(bench));
  } finally {
    await bench.close();
  }
}

/**
 * The whole question, after a first one of one row, for which the agents check whether their data are as they were. Whoever finds
 * the data loaded is answered: a request that had to be tried again ends the measurement.
 */
async function answer(bench: BenchExchange, way: Way, expected: ReturnType<typeof expectedAnswer>): Promise<Asked> {
  await askFor(bench, way, 1);
  const asked = await askFor(bench, way);
  const { rows } = JSON.parse(asked.body.toString()) as { rows: Record<string, unknown>[] };
  assert.deepEqual(answerTexts(rows), expected, `The answer by ${way} is not the oracle's.`);
  return asked;
}

/**
 * One row. While data are loaded a first request may fail as unavailable; minutes of work does not end with it, but the
 * table says how often it was asked, and its time counts from the first.
 */
async function load(bench: BenchExchange, way: Way, { progress }: Pick<RunOptions, "progress">): Promise<Loaded> {
  const startedAt = performance.now();
  for (let attempts = 1; ; attempts += 1) {
    try {
      await askFor(bench, way, 1);
      return { loadMs: performance.now() - startedAt, attempts };
    } catch (error) {
      if (attempts === MOST_ATTEMPTS || !String(error).includes('"retryable":true')) throw error;
      progress(`rows: asked again by ${way}: ${String(error)}`);
    }
  }
}

async function askFor(bench: BenchExchange, way: Way, limit?: number): Promise<Asked> {
  const isThrough = way === "dataThroughTtp";
  const options = { anonymize: true, ...(isThrough ? { aggregate: true } : {}) };
  const approval = await bench.client.requestApproval({
    type: "sqlDataRequest",
    user: ANALYST,
    dataProviders: isThrough ? [...THREE] : [ONE],
    options,
  });
  const query = `${READINGS_QUESTION.query}${limit === undefined ? "" : ` LIMIT ${String(limit)}`}`;
  const question = { ...READINGS_QUESTION, options, query };
  return askParty(approval, isThrough ? THIRD_PARTY : ONE, question, { keep: true });
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

function timeTable(name: string, measured: readonly Sized[]): Table {
  return {
    name,
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
      attemptsNote(measured),
    ],
  };
}

function attemptsNote(measured: readonly Sized[]): string {
  const repeated = measured.flatMap(({ rows, times }) =>
    Object.entries(times)
      .filter(([, { attempts }]) => attempts > 1)
      .map(([way, { attempts }]) => `${rows.toLocaleString("en-US")} rows by ${way} took ${String(attempts)} attempts`),
  );
  const which = repeated.length === 0 ? "every first request was answered at its first attempt" : repeated.join(", ");
  return `Loading counts from before the first attempt: ${which}. While answering nothing may be tried again: that ends the measurement.`;
}

function memoryTable(name: string, measured: readonly Sized[]): Table {
  const programs = [
    ...new Set(measured.flatMap(({ peaks, loadingPeaks }) => [...peaks.keys(), ...loadingPeaks.keys()])),
  ].sort();
  const phases = ["loading", "answering"] as const;
  return {
    name: `${name}-memory`,
    title: "Rows by memory: the most that any process of a program ever had resident",
    columns: [
      { name: "program" },
      ...phases.flatMap((phase) =>
        measured.map(({ rows }) => ({ name: `${phase} ${rows.toLocaleString("en-US")} rows`, unit: "MiB" })),
      ),
    ],
    rows: programs.map((program) => [
      program,
      ...measured.map(({ loadingPeaks }) => loadingPeaks.get(program) ?? null),
      ...measured.map(({ peaks }) => peaks.get(program) ?? null),
    ]),
    targets: memoryTargets(measured),
    notes: [
      "Loading: the first request on the files, which reads them into SQLite, and asks for one row. Answering: a new exchange that finds them loaded.",
    ],
  };
}

function memoryTargets(measured: readonly Sized[]): Target[] {
  const largest = measured.at(-1);
  const before = measured.at(-2);
  if (largest === undefined) return [];
  const to = largest.rows.toLocaleString("en-US");
  const most = (peaks: ReadonlyMap<string, number>): number => Math.max(...peaks.values());
  const limits = [
    { what: `the largest process loading ${to} rows`, measured: most(largest.loadingPeaks) },
    { what: `the largest process answering from ${to} rows`, measured: most(largest.peaks) },
  ].map((target): Target => ({ ...target, unit: "MiB", atMost: LIMIT_MIB }));
  if (before === undefined || before.rows < GROWTH_FROM) return limits;
  const from = before.rows.toLocaleString("en-US");
  return [
    ...limits,
    {
      what: `growth of any program's memory while loading, from ${from} to ${to} rows`,
      measured: mostGrowth(before.loadingPeaks, largest.loadingPeaks),
      atMost: MOST_GROWTH,
    },
    {
      what: `growth of any program's memory while answering, from ${from} to ${to} rows`,
      measured: mostGrowth(before.peaks, largest.peaks),
      atMost: MOST_GROWTH,
    },
  ];
}

function mostGrowth(before: ReadonlyMap<string, number>, after: ReadonlyMap<string, number>): number {
  return Math.max(...[...after].map(([program, peak]) => peak / (before.get(program) ?? peak)));
}

function seconds(ms: number): string {
  return (ms / 1000).toFixed(1);
}
