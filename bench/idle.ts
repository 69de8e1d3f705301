/**
 * What an idle agent and its messaging sidecar cost: memory and processor time of both together, on whatever store and bus the
 * environment chose. It reads Linux's /proc.
 *
 * Memory is told in three ways. *Resident* (VmRSS) counts the pages of the node program in each of the two processes, though there
 * is one copy of them. *Together* counts pages that both have once: both processes' own pages, and the larger one's shared
 * pages; it is what the pair adds to a node on which nothing else runs Node.js, and what the promise is about. *Own* (private pages)
 * is what each further pair adds where Node.js runs already.
 */
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { writeConfiguration } from "../test/support/exchange.ts";
import { processesWith } from "../test/support/leaks.ts";
import { CODES, codesFile, startBenchExchange, type BenchExchange } from "./bench-exchange.ts";
import { summarize } from "./measured.ts";
import { type RunOptions, type Table, type TableBench } from "./table.ts";

const MEMORY_LIMIT_MB = 120;
const PROCESSOR_LIMIT_PERCENT = 1;
const STEWARDS = ["VU", "UVA"] as const;
/** After the start: leases are granted, heaps have shrunk. */
const SETTLING_S = 15;
const WATCHED_S = 40;
/** Of the kernel's clock ticks, in which it counts processor time. */
const MS_PER_TICK = 10;
/** Of 1024 bytes each, as the kernel counts memory. */
const KIB_PER_MB = 1e6 / 1024;

/** See the file comment. */
export const IDLE: TableBench = {
  name: "idle",
  about: "memory and processor time of an idle agent with its messaging sidecar",
  run: async (options) => {
    const providers = Object.fromEntries(STEWARDS.map((steward) => [steward, { Codes: codesFile(10, 0) }]));
    const configuration = await writeConfiguration({ dataSet: CODES, providers });
    const bench = await startBenchExchange(configuration, { sidecar: "separate" });
    try {
      return [await measure(bench, options)];
    } finally {
      await bench.close();
    }
  },
};

async function measure(bench: BenchExchange, options: RunOptions): Promise<Table> {
  const seconds = options.quick ? 1 : WATCHED_S;
  await sleep(options.quick ? 0 : SETTLING_S * 1000);
  const pairs = await pairsOf(bench);
  options.progress(`idle: ${String(pairs.length)} agents with their sidecars, watched for ${String(seconds)} s`);
  const before = pairs.map((pair) => pair.map(processorMs));
  await sleep(seconds * 1000);
  const figures = pairs.map((pair, at) => {
    const [agent, sidecar] = pair.map(memoryOf) as [Memory, Memory];
    const percent = pair.map((pid, which) => (processorMs(pid) - (before[at]?.[which] ?? 0)) / seconds / 10);
    return { agent, sidecar, percent };
  });
  const rows = [
    {
      name: "agent",
      memory: figures.map(({ agent }) => agent),
      percent: figures.map(({ percent }) => percent[0] ?? 0),
    },
    {
      name: "messaging sidecar",
      memory: figures.map(({ sidecar }) => sidecar),
      percent: figures.map(({ percent }) => percent[1] ?? 0),
    },
    {
      name: "both",
      memory: figures.map(({ agent, sidecar }) => together(agent, sidecar)),
      percent: figures.map(({ percent }) => (percent[0] ?? 0) + (percent[1] ?? 0)),
    },
  ];
  const both = rows[2];
  return {
    name: "idle",
    title: "An idle agent and its messaging sidecar",
    columns: [
      { name: "process" },
      { name: "together", unit: "MB" },
      { name: "own", unit: "MB" },
      { name: "resident", unit: "MB" },
      { name: "of a core", unit: "%" },
    ],
    rows: rows.map(({ name, memory, percent }) => [
      name,
      summarize(memory.map(({ onceMb }) => onceMb)),
      summarize(memory.map(({ ownMb }) => ownMb)),
      summarize(memory.map(({ residentMb }) => residentMb)),
      summarize(percent),
    ]),
    targets: [
      {
        what: "idle agent with sidecar, memory together",
        unit: "MB",
        measured: summarize(both?.memory.map(({ onceMb }) => onceMb) ?? []).median,
        atMost: MEMORY_LIMIT_MB,
      },
      {
        what: "idle agent with sidecar, processor",
        unit: "% of a core",
        measured: summarize(both?.percent ?? []).median,
        atMost: PROCESSOR_LIMIT_PERCENT,
      },
    ],
    notes: [
      "together: pages that both have (the node program above all) counted once; own: private pages; resident: shared pages counted in each.",
      `Of ${String(pairs.length)} idle agents, watched for ${String(seconds)} s.`,
    ],
  };
}

/** Process ids of each agent and its sidecar. */
async function pairsOf({ exchange }: BenchExchange): Promise<readonly (readonly [number, number])[]> {
  const processes = await processesWith(exchange.stateFolder);
  const pids = (program: string): number[] =>
    processes.filter(({ commandLine }) => commandLine.includes(program)).map(({ pid }) => pid);
  const sidecarOf = new Map(pids("sidecar/messaging-main").map((pid) => [socketOf(pid), pid]));
  return pids("agent/main").flatMap((agent) => {
    const sidecar = sidecarOf.get(socketOf(agent));
    return sidecar === undefined ? [] : [[agent, sidecar] as const];
  });
}

/** The socket on which a sidecar listens, or which an agent is told to use. */
function socketOf(pid: number): string {
  const environment = readFileSync(`/proc/${String(pid)}/environ`, "latin1");
  return /sidecars\/([^/\0]+\.sock)/.exec(environment)?.[1] ?? "";
}

interface Memory {
  readonly ownMb: number;
  readonly sharedMb: number;
  readonly residentMb: number;
  /** With shared pages counted once. */
  readonly onceMb: number;
}

/** See /proc/pid/smaps_rollup in proc(5). */
function memoryOf(pid: number): Memory {
  const rollup = readFileSync(`/proc/${String(pid)}/smaps_rollup`, "latin1");
  const mb = (name: string): number =>
    Number(new RegExp(`^${name}:\\s+(\\d+) kB$`, "m").exec(rollup)?.[1]) / KIB_PER_MB;
  const ownMb = mb("Private_Clean") + mb("Private_Dirty");
  const sharedMb = mb("Shared_Clean") + mb("Shared_Dirty");
  return { ownMb, sharedMb, residentMb: mb("Rss"), onceMb: ownMb + sharedMb };
}

function together(one: Memory, other: Memory): Memory {
  const ownMb = one.ownMb + other.ownMb;
  const sharedMb = Math.max(one.sharedMb, other.sharedMb);
  return { ownMb, sharedMb, residentMb: one.residentMb + other.residentMb, onceMb: ownMb + sharedMb };
}

/** User and system time so far (proc(5), fields 14 and 15 of stat). */
function processorMs(pid: number): number {
  const stat = readFileSync(`/proc/${String(pid)}/stat`, "latin1");
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) * MS_PER_TICK;
}
