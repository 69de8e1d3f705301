/**
 * The thesis' experiments 1 and 2 (Stutterheim, UvA 2023): 10,000, 20,000 and 30,000 rows of a cartesian product by both archetypes,
 * with chains of every lifetime, as JSON: in one go through the front door, as the prototype answers, and the data request alone
 * under an approval that was had before. And the sizes of the answer.
 */
import assert from "node:assert/strict";
import { openTraceCollector, type TraceCollector } from "../test/support/trace-collector.ts";
import { ask, askParty, type Asked } from "./ask.ts";
import type { Approval } from "../cli/client.ts";
import type { BenchExchange } from "./bench-exchange.ts";
import {
  answeringParty,
  approvalRequest,
  ARCHETYPES,
  LIFETIMES,
  startLifetimes,
  untilChainsRest,
  type Lifetime,
  type Way as AnyWay,
} from "./lifetimes.ts";
import { wiresByComputeToData, wiresByDataThroughTtp } from "../test/support/wire-bytes.ts";
import { summarize } from "./measured.ts";
import { roundsOf, type Cell, type RunOptions, type Table, type TableBench, type Target } from "./table.ts";
import { splitByTrace, type Split } from "./trace-split.ts";

const USUAL_ROUNDS = 5;
/** Of what no target is about. */
const OTHER_ROUNDS = 2;
const TRACED_ROUNDS = 1;
const SIZES = [10_000, 20_000, 30_000] as const;
const QUICK_SIZES = [100] as const;
/** The others are tried by the table of starts. */
const QUICK_LIFETIMES = ["persistent"] as const;
const LARGEST = 30_000;
const QUICK_WIRE_ROWS = 2_000;
/** Seconds that the thesis' prototype took for 30,000 rows on a machine like ours, as published. */
const PROTOTYPE_SECONDS = { computeToData: 5.45, dataThroughTtp: 7.84 } as const;
/** Bytes of its JSON answer of 30,000 rows, and of the message in the thesis. */
const PROTOTYPE_ANSWER_BYTES = 1_220_000;
const THESIS_MESSAGE_BYTES = 4_040_000;
const TARGET_MS = { computeToData: 250, dataThroughTtp: 400 } as const;
const TIMES_AS_FAST = 20;
const TARGET_BYTES = 300_000;

interface Way extends AnyWay {
  readonly rows: number;
}

interface Seen {
  readonly way: Way;
  /** Approval, question and answer in one request, until its last byte. */
  readonly inOneGoMs: number[];
  /** The data request alone, until its last byte. */
  readonly dataAloneMs: number[];
  readonly splits: Split[];
}

/** See the file comment. */
export const ARCHETYPES_BENCH: TableBench = {
  name: "archetypes",
  about:
    "the thesis' experiments 1 and 2: 10,000 to 30,000 rows of the cartesian query by both archetypes, and bytes on the wire",
  run: async (options) => {
    const sizes = options.quick ? QUICK_SIZES : options.lifetime === undefined ? SIZES : [LARGEST];
    const ways = sizes.flatMap((rows) =>
      ARCHETYPES.flatMap((archetype) => lifetimesOf(options).map((lifetime) => ({ lifetime, archetype, rows }))),
    );
    const seen = ways.map((way): Seen => ({ way, inOneGoMs: [], dataAloneMs: [], splits: [] }));
    const time = async (bench: BenchExchange): Promise<readonly Sized[]> => {
      await timeAll(bench, seen, options);
      if (options.lifetime !== undefined) return [];
      return measureSizes(bench, sizes.at(-1) ?? LARGEST, options);
    };
    // Spans cost time, most of all where processes start: an exchange of its own, unless times are not asked for.
    const sized = options.quick ? undefined : await withExchange(options, {}, time);
    const sizedToo = await withTraces(options, async (bench, collector) => {
      const quickly = options.quick ? await time(bench) : [];
      await traceAll(bench, collector, seen, options);
      return quickly;
    });
    if (options.lifetime !== undefined) return [aloneTable(timeTable(seen), options.lifetime)];
    options.progress("archetypes: bytes on every wire");
    return [timeTable(seen), sizeTable(sized ?? sizedToo), await wireTable(options.quick ? QUICK_WIRE_ROWS : LARGEST)];
  },
};

/** The query; `LIMIT` makes it finite. */
export function cartesianQuery(rows: number): string {
  return (
    "SELECT p.Unieknr, p.Geslacht, p.Gebdat, s.Aanst_22, s.Functcat, s.Salschal " +
    `FROM Personen p JOIN Aanstellingen s LIMIT ${String(rows)}`
  );
}

function lifetimesOf({ quick, lifetime }: RunOptions): readonly Lifetime[] {
  if (lifetime === undefined) return quick ? QUICK_LIFETIMES : LIFETIMES;
  const chosen = LIFETIMES.filter((known) => known === lifetime);
  if (chosen.length === 0) throw new Error(`There is no lifetime "${lifetime}"; there are: ${LIFETIMES.join(", ")}.`);
  return chosen;
}

/** Of one lifetime's parties alone: with the others', each write to an embedded bus is a sign to twice as many processes. */
function aloneTable(table: Table, lifetime: string): Table {
  return { ...table, name: `${table.name}-${lifetime}`, title: `${table.title}; ${lifetime} chains alone` };
}

async function withExchange<Result>(
  options: RunOptions,
  environment: Readonly<Record<string, string>>,
  work: (bench: BenchExchange) => Promise<Result>,
): Promise<Result> {
  const lifetimes = lifetimesOf(options);
  const bench = await startLifetimes({ pairs: options.quick ? 5 : 2_000, lifetimes, environment });
  try {
    // Loads the data, and lets agents see what is asked of them.
    for (let round = 0; round < (options.quick ? 1 : 2); round += 1)
      for (const lifetime of lifetimes)
        for (const archetype of ARCHETYPES) await askInOneGo(bench, { lifetime, archetype, rows: 10 });
    return await work(bench);
  } finally {
    await bench.close();
  }
}

async function timeAll(bench: BenchExchange, seen: readonly Seen[], options: RunOptions): Promise<void> {
  const rounds = roundsOf(options, USUAL_ROUNDS);
  for (let round = 0; round < rounds; round += 1) {
    options.progress(`archetypes: round ${String(round + 1)} of ${String(rounds)}`);
    for (const { way, inOneGoMs, dataAloneMs } of seen) {
      if (round >= OTHER_ROUNDS && way.rows !== LARGEST) continue;
      if (!options.quick) await untilChainsRest(bench);
      inOneGoMs.push((await askInOneGo(bench, way)).totalMs);
      const approval = await bench.client.requestApproval(approvalRequest(way.lifetime, way.archetype));
      if (!options.quick) await untilChainsRest(bench);
      dataAloneMs.push((await askUnder(approval, way)).totalMs);
    }
  }
}

async function withTraces<Result>(
  options: RunOptions,
  work: (bench: BenchExchange, collector: TraceCollector) => Promise<Result>,
): Promise<Result> {
  const collector = await openTraceCollector();
  const environment = { OTEL_EXPORTER_OTLP_ENDPOINT: collector.url, OTEL_BSP_SCHEDULE_DELAY: "100" };
  try {
    return await withExchange(options, environment, (bench) => work(bench, collector));
  } finally {
    collector.close();
  }
}

async function traceAll(
  bench: BenchExchange,
  collector: TraceCollector,
  seen: readonly Seen[],
  options: RunOptions,
): Promise<void> {
  const rounds = Math.min(roundsOf(options, TRACED_ROUNDS), TRACED_ROUNDS);
  for (let round = 0; round < rounds; round += 1) {
    options.progress(`archetypes: traced round ${String(round + 1)} of ${String(rounds)}`);
    for (const { way, splits } of seen) {
      if (!options.quick) await untilChainsRest(bench);
      splits.push(await splitByTrace(collector, (headers) => askInOneGo(bench, way, headers)));
    }
  }
}

/** Approval and question in one, as a caller of the prototype does; the answer is checked. */
async function askInOneGo(
  bench: BenchExchange,
  way: Way,
  headers: Readonly<Record<string, string>> = {},
): Promise<Asked> {
  const request = approvalRequest(way.lifetime, way.archetype);
  const { options } = request;
  const question = { type: "sqlDataRequest", query: cartesianQuery(way.rows), options };
  const url = `${bench.exchange.url}/api/v1/requestApproval`;
  const asked = await ask(url, { ...request, data_request: question }, { keep: true, headers });
  const answer = JSON.parse(asked.body.toString()) as { archetype: string; responses: { rows?: unknown[] }[] };
  assert.equal(answer.archetype, way.archetype);
  assert.deepEqual(
    answer.responses.map(({ rows }) => rows?.length),
    [way.rows],
  );
  return asked;
}

/** The data request alone, as callers make it who keep an approval; the answer is checked. */
async function askUnder(approval: Approval, { lifetime, archetype, rows }: Way): Promise<Asked> {
  const { options } = approvalRequest(lifetime, archetype);
  const question = { type: "sqlDataRequest", query: cartesianQuery(rows), options };
  const asked = await askParty(approval, answeringParty(lifetime, archetype), question, { keep: true });
  const answer = JSON.parse(asked.body.toString()) as { rows: unknown[] };
  assert.equal(answer.rows.length, rows);
  return asked;
}

interface Sized {
  readonly rows: number;
  readonly format: string;
  readonly encoding: string;
  readonly asked: Asked;
}

/** The answer's formats, as they are and compressed, over the caller's connection. */
async function measureSizes(bench: BenchExchange, rows: number, options: RunOptions): Promise<readonly Sized[]> {
  options.progress("archetypes: sizes of the answer");
  const sized: Sized[] = [];
  const approval = await bench.client.requestApproval(approvalRequest("persistent", "computeToData"));
  const question = { type: "sqlDataRequest", query: cartesianQuery(rows) };
  for (const format of ["application/json", "text/csv", "application/vnd.apache.arrow.stream"]) {
    for (const encoding of ["identity", "gzip", "br", "zstd"]) {
      const asked = await askParty(approval, answeringParty("persistent", "computeToData"), question, {
        accept: format,
        encoding,
      });
      if (asked.encoding === encoding) sized.push({ rows, format, encoding, asked });
    }
  }
  return sized;
}

function timeTable(seen: readonly Seen[]): Table {
  return {
    name: "archetypes",
    title: "The thesis' experiments: rows of the cartesian query, as JSON, until the last byte",
    columns: [
      { name: "rows" },
      { name: "by" },
      { name: "chain" },
      { name: "in one go", unit: "ms" },
      { name: "data request alone", unit: "ms" },
      { name: "prototype", unit: "ms" },
      { name: "in one go: times as fast" },
      { name: "traced: in one go", unit: "ms" },
      { name: "of it start-up", unit: "%" },
      { name: "processing", unit: "%" },
      { name: "transfer", unit: "%" },
    ],
    rows: seen.map(({ way, inOneGoMs, dataAloneMs, splits }) => {
      const all = summarize(inOneGoMs);
      const prototype = way.rows === LARGEST ? PROTOTYPE_SECONDS[way.archetype] * 1000 : null;
      const share = (of: keyof Split): Cell => summarize(splits.map((each) => (100 * each[of]) / each.totalMs)).median;
      return [
        way.rows.toLocaleString("en-US"),
        way.archetype,
        way.lifetime,
        all,
        summarize(dataAloneMs),
        prototype,
        prototype === null ? null : prototype / all.median,
        summarize(splits.map(({ totalMs }) => totalMs)).median,
        share("startUpMs"),
        share("processingMs"),
        share("transferMs"),
      ];
    }),
    targets: seen
      .filter(({ way }) => way.lifetime === "warm" && way.rows === LARGEST)
      .flatMap(({ way, inOneGoMs, dataAloneMs }): Target[] => {
        const targets = (how: string, ms: readonly number[]): Target[] => {
          const what = `30,000 rows by ${way.archetype}, warm, ${how}`;
          const { median } = summarize(ms);
          const prototypeMs = PROTOTYPE_SECONDS[way.archetype] * 1000;
          return [
            { what, unit: "ms", measured: median, atMost: TARGET_MS[way.archetype] },
            { what: `${what}: times as fast as the prototype`, measured: prototypeMs / median, atLeast: TIMES_AS_FAST },
          ];
        };
        return [...targets("approval and data in one go", inOneGoMs), ...targets("data request alone", dataAloneMs)];
      }),
    notes: [
      "One steward's rows; every lifetime in turns, before each request all chains at rest. In one go: approval, question and answer in one request through the front door. Data request alone: at the party that answers, with the token of an approval that was had before, as callers do who keep one. The prototype's times are those published for 30,000 rows on two cores.",
      "Start-up, processing and transfer are shares of a traced request in one go, in a second exchange, whose own time stands before them: they say nothing of the times on the left, since making spans costs time, above all in cold chains, whose processes have to load what makes them. Start-up: until sql-query begins; processing: until the last row has left it; transfer: until the caller has the last byte.",
    ],
  };
}

function sizeTable(sized: readonly Sized[]): Table {
  return {
    name: "archetypes-sizes",
    title: "The same answer's size on the caller's wire",
    columns: [
      { name: "format" },
      { name: "encoding" },
      { name: "size", unit: "kB" },
      { name: "of the prototype's JSON" },
    ],
    rows: sized.map(({ format, encoding, asked }) => [
      format,
      encoding,
      asked.bytes / 1000,
      asked.bytes / PROTOTYPE_ANSWER_BYTES,
    ]),
    notes: [
      `${(sized[0]?.rows ?? 0).toLocaleString("en-US")} rows. The prototype's answer had ${String(PROTOTYPE_ANSWER_BYTES / 1000)} kB, its message ${String(THESIS_MESSAGE_BYTES / 1000)} kB in the thesis.`,
    ],
  };
}

/** Every wire, not the caller's alone; the rows of one provider, anonymized where they go to a third party. */
async function wireTable(rows: number): Promise<Table> {
  const [atHome = {}] = await wiresByComputeToData(rows);
  const [through = {}] = await wiresByDataThroughTtp(rows);
  const ways = Object.entries({ computeToData: atHome, dataThroughTtp: through });
  const most = Math.max(...ways.flatMap(([, wires]) => Object.values(wires)));
  return {
    name: "archetypes-wires",
    title: `${rows.toLocaleString("en-US")} rows of the cartesian query on every wire that they cross`,
    columns: [{ name: "wire" }, { name: "by" }, { name: "size", unit: "kB" }, { name: "of the thesis' message" }],
    rows: ways.flatMap(([way, wires]) =>
      Object.entries(wires).map(([wire, bytes]): Cell[] => [wire, way, bytes / 1000, bytes / THESIS_MESSAGE_BYTES]),
    ),
    targets: [{ what: "the most on any wire", unit: "kB", measured: most / 1000, atMost: TARGET_BYTES / 1000 }],
    notes: [
      "Each through the parts that encode it, in a pod over a real connection: what frames carry, without the envelopes of HTTP/2 and of the bus. HTTP answers as a caller gets them who accepts compressed ones.",
    ],
  };
}
