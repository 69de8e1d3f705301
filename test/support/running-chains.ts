/** A look at the chains of a test exchange from outside, and the hand that kills them. */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { ExchangeClient, type Approval } from "../../cli/client.ts";
import { runQueuesAmong } from "./bus-inspection.ts";
import { eventually } from "./eventually.ts";
import { ANALYST, type TestExchange } from "./exchange.ts";
import { processesWith } from "./leaks.ts";
import { pauseProcess, resumeProcess } from "./pause-process.ts";

/** A query that gives one row, after as many steps as asked for. */
export function slowQuery(steps: number): string {
  return `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ${String(steps)}) SELECT max(i) AS steps FROM n`;
}

/** A query that gives as many rows as asked for, a number and a text each, as fast as they are read. */
export function manyRows(rows: number): string {
  return (
    `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ${String(rows)}) ` +
    "SELECT i, 'a text that makes the row wider ' || i AS t FROM n"
  );
}

/** An element of a party's chain: `sidecar`, a microservice's name, or `query-child`, the process of a query. */
export async function chainProcesses(exchange: TestExchange, party: string, element: string): Promise<number[]> {
  const isQuery = element === "query-child";
  const marker = isQuery
    ? join(exchange.stateFolder, `agent-${party}`, "worlds", "query-")
    : join(exchange.stateFolder, "jobs", "jobs", party, "/");
  const program = isQuery ? "query-child." : element === "sidecar" ? "sidecar/main." : `microservices/${element}/main.`;
  return (await processesWith(marker)).filter((found) => found.commandLine.includes(program)).map(({ pid }) => pid);
}

/** The process of a chain's element, as soon as it is there. */
export function chainProcess(exchange: TestExchange, party: string, element: string): Promise<number> {
  return eventually(async () => (await chainProcesses(exchange, party, element))[0], {
    timeoutMs: 30_000,
    describe: `${element} of ${party} to run`,
  });
}

/**
 * Pauses so many queries of a party, each as soon as its process is there: in the middle of their runs, which then last however
 * slow the test is. Resolves with what lets those go on that live still; where their chains are killed they end all the same.
 */
export async function pauseQueries(exchange: TestExchange, party: string, count = 1): Promise<() => void> {
  const paused = new Set<number>();
  await eventually(
    async () => {
      for (const pid of await chainProcesses(exchange, party, "query-child")) {
        if (paused.has(pid) || paused.size === count) continue;
        await pauseProcess(pid);
        paused.add(pid);
      }
      return paused.size === count;
    },
    { timeoutMs: 30_000, describe: `${String(count)} queries of ${party} to be paused` },
  );
  return () => paused.forEach(resumeIfThere);
}

function resumeIfThere(pid: number): void {
  try {
    resumeProcess(pid);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}

/** Resolves when a query of a party runs: its process then has a folder for it (`microservices/sql-query/query-program.ts`). */
export async function queryRuns(exchange: TestExchange, party: string): Promise<void> {
  const worlds = join(exchange.stateFolder, `agent-${party}`, "worlds");
  const isRunning = async (): Promise<boolean> => {
    const folders = (await readdir(worlds)).filter((name) => name.startsWith("query-"));
    // One that is removed meanwhile belongs to a process that has ended.
    const within = folders.map((name) => readdir(join(worlds, name)).catch(() => []));
    return (await Promise.all(within)).some((names) => names.length > 0);
  };
  await eventually(isRunning, { timeoutMs: 30_000, describe: `a query of ${party} to run` });
}

/** How many chains a party's agents have started for a request, or for all; retries count, too. */
export function startedChains(exchange: TestExchange, party: string, requestId?: string): number {
  const instances = [...exchange.services.keys()].filter(
    (name) => name === `agent-${party}` || new RegExp(`^agent-${party}-\\d+$`).test(name),
  );
  return instances.reduce((sum, name) => sum + startedChainsBy(exchange, name, requestId), 0);
}

/** How many of them one process has started, such as `agent-VU-2`. */
export function startedChainsBy(exchange: TestExchange, name: string, requestId?: string): number {
  const lines = readIfThere(join(exchange.stateFolder, "logs", `${name}.log`)).split("\n");
  return lines.filter(
    (line) =>
      line.includes('"msg":"a chain starts"') &&
      (requestId === undefined || line.includes(`"dataRequest":"${requestId}"`)),
  ).length;
}

/** Waits until no chain, no query and no run queue is left; fails naming them. */
export async function assertNothingLeft(exchange: TestExchange): Promise<void> {
  await eventually(
    async () => {
      const left = [
        ...(await processesWith(join(exchange.stateFolder, "jobs", "jobs"))).map(({ commandLine }) => commandLine),
        ...(await processesWith(exchange.stateFolder))
          .filter(({ commandLine }) => commandLine.includes("query-child."))
          .map(({ commandLine }) => commandLine),
        ...runQueuesAmong(await exchange.backends.bus.queues()),
        ...livingJobs(exchange),
      ];
      assert.deepEqual(left, []);
      return true;
    },
    { timeoutMs: 15_000, intervalMs: 100, describe: "chains, run queues and jobs to be gone" },
  );
}

/** Jobs whose record says that they live. */
function livingJobs(exchange: TestExchange): string[] {
  const folder = join(exchange.stateFolder, "jobs", "jobs");
  return readdirSync(folder, { recursive: true, encoding: "utf8" })
    .filter((file) => file.endsWith("job.json"))
    .filter((file) => /"phase":"(starting|running)"/.test(readIfThere(join(folder, file))));
}

function readIfThere(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT" || (error as NodeJS.ErrnoException).code === "ESRCH")
      return "";
    throw error;
  }
}

/** An approval for the sample's analyst, or another user; by way of the third party where asked for. */
export async function approve(
  exchange: TestExchange,
  dataProviders: readonly string[],
  options: { readonly throughThirdParty?: boolean; readonly user?: typeof ANALYST } = {},
): Promise<Approval> {
  return new ExchangeClient(exchange.url).requestApproval({
    type: "sqlDataRequest",
    user: options.user ?? ANALYST,
    dataProviders: [...dataProviders],
    ...(options.throughThirdParty === true ? { options: { aggregate: true } } : {}),
  });
}

/** What each process of the exchange has at most held in memory so far, in MiB: by command line. */
export async function residentMiB(exchange: TestExchange): Promise<Map<string, number>> {
  const most = new Map<string, number>();
  for (const { pid, commandLine } of await processesWith(exchange.stateFolder)) {
    const kibibytes = Number(/^VmHWM:\s+(\d+) kB$/m.exec(readIfThere(`/proc/${String(pid)}/status`))?.[1] ?? 0);
    const program =
      /(\S*\/)?(\S+)\/(main|query-child|world-child)\.\S+/.exec(commandLine)?.slice(2).join(" ") ?? commandLine;
    const name = `${program} (${String(pid)})`;
    most.set(name, Math.max(most.get(name) ?? 0, Math.round(kibibytes / 1024)));
  }
  return most;
}
