/**
 * A whole exchange for a measurement. What it runs on is chosen as for the system tests: `STORE=etcd`, `BUS=rabbitmq`,
 * `SIDECAR=separate` in the environment; otherwise everything is embedded.
 */
import { readdirSync, readFileSync } from "node:fs";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ExchangeClient } from "../cli/client.ts";
import { startExchange, type Exchange, type ExchangeOptions } from "../cli/exchange/exchange.ts";
import type { Agreement } from "../lib/model/agreement.ts";
import type { DataSet } from "../lib/model/dataset.ts";
import type { User } from "../lib/model/names.ts";
import { processesWith } from "../test/support/leaks.ts";
import { openTestBackends, type TestBackends } from "../test/support/backends.ts";

/** A running exchange with its client. */
export interface BenchExchange {
  readonly exchange: Exchange;
  readonly backends: TestBackends;
  readonly client: ExchangeClient;
  /** Stops it, and removes all that it left. */
  close(): Promise<void>;
}

/** Starts it; in a state folder that is there already, which then stays, it finds the data that another one loaded. */
export async function startBenchExchange(
  configuration: string,
  options: Pick<ExchangeOptions, "environment" | "environmentOf" | "replicas" | "sidecar"> & {
    readonly stateFolder?: string;
  } = {},
): Promise<BenchExchange> {
  const stateFolder = options.stateFolder ?? (await mkdtemp(join(tmpdir(), "dynamos-bench-")));
  const backends = await openTestBackends(stateFolder);
  const { storeUrl, busUrl } = backends;
  const { sidecar } = backends.choice;
  const exchange = await startExchange({
    sidecar,
    ...options,
    configuration,
    stateFolder,
    storeUrl,
    busUrl,
    port: 0,
  });
  return {
    exchange,
    backends,
    client: new ExchangeClient(exchange.url),
    close: async () => {
      await exchange.stop();
      await backends.close();
      if (options.stateFolder === undefined) await rm(stateFolder, { recursive: true, force: true });
    },
  };
}

/** A data set of one table with two whole numbers, `code` and `amount`. */
export const CODES: DataSet = {
  name: "codes",
  type: "csv",
  sensitive_columns: {},
  tables: [
    {
      name: "Codes",
      columns: [
        { name: "code", type: { type: "integer" } },
        { name: "amount", type: { type: "integer" } },
      ],
    },
  ],
};

/** Its file: `rows` codes from 1, each with an amount that much above `base`. */
export function codesFile(rows: number, base: number): string {
  const lines = Array.from({ length: rows }, (_, index) => `${String(index + 1)};${String(base + index + 1)}`);
  return ["code;amount", ...lines].join("\n");
}

/** Lets each of these users do in every agreement what the one that is in it may do. */
export async function addUsers(configuration: string, users: readonly User[]): Promise<void> {
  const folder = join(configuration, "agreements");
  for (const file of await readdir(folder)) {
    const path = join(folder, file);
    const agreement = JSON.parse(await readFile(path, "utf8")) as Agreement;
    const [relation] = Object.values(agreement.relations);
    if (relation === undefined) continue;
    for (const { id, userName } of users) agreement.relations[userName] = { ...relation, ID: id };
    await writeFile(path, JSON.stringify(agreement));
  }
}

/** What one process of the exchange holds. */
export interface ProcessFigures {
  /** Such as `agent/main` or `microservices/sql-query/main`. */
  readonly program: string;
  readonly pid: number;
  readonly residentMiB: number;
  /** The most that it ever had resident. */
  readonly peakMiB: number;
  /** Open file descriptors. */
  readonly handles: number;
}

/** The figures of all processes of an exchange; of those that end meanwhile none. */
export async function processFigures({ exchange }: BenchExchange): Promise<readonly ProcessFigures[]> {
  const figures: ProcessFigures[] = [];
  for (const { pid, commandLine } of await processesWith(exchange.stateFolder)) {
    // The last: whatever is loaded before the program stands before it.
    const program = [...commandLine.matchAll(/([\w-]+\/[\w-]+)\.m?js/g)].at(-1)?.[1] ?? "other";
    try {
      const status = readFileSync(`/proc/${String(pid)}/status`, "utf8");
      const mebibytes = (name: string): number =>
        Math.round(Number(new RegExp(`^${name}:\\s+(\\d+) kB$`, "m").exec(status)?.[1] ?? 0) / 1024);
      const handles = readdirSync(`/proc/${String(pid)}/fd`).length;
      figures.push({ program, pid, residentMiB: mebibytes("VmRSS"), peakMiB: mebibytes("VmHWM"), handles });
    } catch (error) {
      if (!["ENOENT", "ESRCH"].includes((error as NodeJS.ErrnoException).code ?? "")) throw error;
    }
  }
  return figures;
}
