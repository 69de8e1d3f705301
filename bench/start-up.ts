/**
 * What a cold chain waits for: of each of its processes, when after the request it was started, when Node.js was ready to load the
 * program, when that was loaded, when it served, and the processor time that it had used by the first batch. Programs tell the first
 * four in their logs (level debug: `lib/lifecycle.ts`); processor time is the kernel's.
 */
import { readdir, readFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { processesWith } from "../test/support/leaks.ts";
import { askParty } from "./ask.ts";
import type { BenchExchange } from "./bench-exchange.ts";
import { answeringParty, approvalRequest, startLifetimes, untilChainsRest, type Way } from "./lifetimes.ts";
import { summarize } from "./measured.ts";
import { roundsOf, type Table, type TableBench } from "./table.ts";

const USUAL_ROUNDS = 10;
const WAY: Way = { lifetime: "cold", archetype: "computeToData" };
const LOOK_EVERY_MS = 20;
const MS_PER_TICK = 10;
const QUESTION = { type: "sqlDataRequest", query: "SELECT Geslacht FROM Personen LIMIT 10" };
const PROGRAM = /(microservices\/[\w-]+|sidecar)\/(main|query-child)\.js/;

/** Milliseconds after the request; undefined where a program does not tell. */
interface Stages {
  readonly program: string;
  readonly startedMs: number;
  readonly nodeReadyMs: number;
  readonly loadedMs: number;
  readonly servingMs: number | undefined;
}

interface Round {
  readonly firstMs: number;
  readonly stages: readonly Stages[];
  /** Processor milliseconds by the first batch. */
  readonly processor: ReadonlyMap<string, number>;
}

/** See the file comment. */
export const START_UP: TableBench = {
  name: "start-up",
  about: "what a cold chain waits for: each process's stages until the first batch, and its processor time",
  run: async (options) => {
    const bench = await startLifetimes({
      pairs: options.quick ? 5 : 200,
      lifetimes: [WAY.lifetime],
      archetypes: [WAY.archetype],
      environment: { DYNAMOS_LOG_LEVEL: "debug" },
    });
    try {
      const approval = await bench.client.requestApproval(approvalRequest(WAY.lifetime, WAY.archetype));
      const ask = async (): Promise<number> =>
        (await askParty(approval, answeringParty(WAY.lifetime, WAY.archetype), QUESTION)).firstMs;
      // Loads the data.
      await ask();
      const rounds: Round[] = [];
      for (let round = 0; round < roundsOf(options, USUAL_ROUNDS); round += 1) {
        options.progress(`start-up: round ${String(round + 1)}`);
        if (!options.quick) await untilChainsRest(bench);
        rounds.push(await oneRound(bench, ask));
      }
      return [table(rounds)];
    } finally {
      await bench.close();
    }
  },
};

async function oneRound(bench: BenchExchange, ask: () => Promise<number>): Promise<Round> {
  const { stateFolder } = bench.exchange;
  const before = new Set(await logsIn(stateFolder));
  const sentMs = performance.timeOrigin + performance.now();
  const answered = new AbortController();
  const watching = watchProcessor(stateFolder, answered.signal);
  try {
    const firstMs = await ask();
    answered.abort();
    const logs = (await logsIn(stateFolder)).filter((log) => !before.has(log));
    const stages = (await Promise.all(logs.map((log) => stagesOf(log, sentMs)))).flat();
    return { firstMs, stages, processor: await watching };
  } finally {
    answered.abort();
  }
}

/** Logs of chains' containers. */
async function logsIn(stateFolder: string): Promise<readonly string[]> {
  const files = await readdir(stateFolder, { recursive: true });
  return files.filter((file) => /jobs\/.*\.log$/.test(file)).map((file) => join(stateFolder, file));
}

async function stagesOf(log: string, sentMs: number): Promise<readonly Stages[]> {
  const lines = (await readFile(log, "utf8")).split("\n").filter((line) => line.startsWith("{"));
  const told = lines.map((line) => JSON.parse(line) as Record<string, unknown>);
  const loaded = told.find(({ msg }) => msg === "program loaded");
  if (loaded === undefined) return [];
  const serving = told.find(({ msg }) => msg === "serving");
  const startedMs = Number(loaded["startedAtMs"]) - sentMs;
  return [
    {
      program: basename(log, ".log"),
      startedMs,
      nodeReadyMs: startedMs + Number(loaded["nodeReadyMs"]),
      loadedMs: startedMs + Number(loaded["loadedMs"]),
      servingMs: serving === undefined ? undefined : new Date(serving["time"] as string | number).getTime() - sentMs,
    },
  ];
}

/** Looks until the answer is there; the kernel counts in hundredths of a second. */
async function watchProcessor(stateFolder: string, until: AbortSignal): Promise<ReadonlyMap<string, number>> {
  const byPid = new Map<number, readonly [string, number]>();
  while (!until.aborted) {
    for (const { pid, commandLine } of await processesWith(stateFolder)) {
      const [, folder = "", file] = PROGRAM.exec(commandLine) ?? [];
      if (folder === "") continue;
      const program = basename(folder) + (file === "main" ? "" : `: ${String(file)}`);
      const ms = await processorMs(pid);
      if (ms !== undefined) byPid.set(pid, [program, ms]);
    }
    await sleep(LOOK_EVERY_MS, undefined, { signal: until }).catch(() => undefined);
  }
  const sums = new Map<string, number>();
  for (const [program, ms] of byPid.values()) sums.set(program, (sums.get(program) ?? 0) + ms);
  return sums;
}

/** User and system time so far (proc(5), fields 14 and 15 of stat); undefined when it has ended. */
async function processorMs(pid: number): Promise<number | undefined> {
  try {
    const fields = (await readFile(`/proc/${String(pid)}/stat`, "latin1")).replace(/^.*\) /s, "").split(" ");
    return (Number(fields[11]) + Number(fields[12])) * MS_PER_TICK;
  } catch (error) {
    if (["ENOENT", "ESRCH"].includes((error as NodeJS.ErrnoException).code ?? "")) return undefined;
    throw error;
  }
}

function table(rounds: readonly Round[]): Table {
  const stages = rounds.flatMap((round) => round.stages);
  const programs = [
    ...new Set([...stages.map(({ program }) => program), ...rounds.flatMap(({ processor }) => [...processor.keys()])]),
  ].sort();
  const median = (values: readonly (number | undefined)[]): number | null => {
    const known = values.filter((value) => value !== undefined);
    return known.length === 0 ? null : summarize(known).median;
  };
  const firstMs = summarize(rounds.map((round) => round.firstMs));
  return {
    name: "start-up",
    title: "What a cold chain waits for",
    columns: [
      { name: "process" },
      ...["started", "Node.js ready", "loaded", "serving", "processor time by the first batch"].map((name) => ({
        name,
        unit: "ms",
      })),
    ],
    rows: [
      ...programs.map((program) => {
        const own = stages.filter((each) => each.program === program);
        return [
          program,
          median(own.map(({ startedMs }) => startedMs)),
          median(own.map(({ nodeReadyMs }) => nodeReadyMs)),
          median(own.map(({ loadedMs }) => loadedMs)),
          median(own.map(({ servingMs }) => servingMs)),
          median(rounds.map(({ processor }) => processor.get(program))),
        ];
      }),
      ["first batch at the caller", null, null, null, firstMs, null],
    ],
    notes: [
      "Medians, in milliseconds after a data request at the agent by computeToData, ten rows, until the head of the answer. All processes start side by side; between the last one that serves and the first batch the hops find each other, and the query runs.",
      "A sidecar does not tell when it serves, the query's own process nothing but its processor time. The processes share the cores: with fewer cores than processes each stage takes longer for all.",
    ],
  };
}
