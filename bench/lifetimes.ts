/**
 * One exchange in which chains of every lifetime can be compared in turns: for each lifetime a steward and a third party of their
 * own, all with the same data, whose agents differ in nothing but their chains' lifetime.
 */
import { existsSync } from "node:fs";
import { cp, mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { writeSampleData } from "../cli/generate-sample-data.ts";
import { packageRoot } from "../lib/package-root.ts";
import type { Agreement } from "../lib/model/agreement.ts";
import { ANALYST } from "../test/support/exchange.ts";
import { processesWith } from "../test/support/leaks.ts";
import { temporaryFolder } from "../test/support/temporary-folder.ts";
import { startBenchExchange, type BenchExchange } from "./bench-exchange.ts";

/** How a chain gets its processes (docs/glossary.md). */
export const LIFETIMES = ["cold", "warm", "persistent"] as const;
export type Lifetime = (typeof LIFETIMES)[number];

/** The archetypes of the thesis' experiments. */
export const ARCHETYPES = ["computeToData", "dataThroughTtp"] as const;
export type ArchetypeName = (typeof ARCHETYPES)[number];

/** Its steward with the data, and the third party that its steward trusts. */
export const STEWARD_OF = { cold: "Cold", warm: "Warm", persistent: "Persistent" } as const;
export const THIRD_PARTY_OF = { cold: "ColdThird", warm: "WarmThird", persistent: "PersistentThird" } as const;

const SETTINGS_OF: Readonly<Record<Lifetime, Readonly<Record<string, string>>>> = {
  cold: {},
  warm: { DYNAMOS_WARM_CHAINS: "4" },
  persistent: { DYNAMOS_CHAIN_LIFETIME: "persistent" },
};

/** How to start it. */
export interface LifetimesOptions {
  /** Of the sample (`cli/generate-sample-data.ts`); about 9 rows a table each. */
  readonly pairs: number;
  /** Absent: all. */
  readonly lifetimes?: readonly Lifetime[];
  /** Those that are asked for; absent: all. Without dataThroughTtp no third party is started. */
  readonly archetypes?: readonly ArchetypeName[];
  readonly environment?: Readonly<Record<string, string>>;
  /** For the agents of one lifetime beside what makes the lifetime. */
  readonly settings?: Readonly<Partial<Record<Lifetime, Readonly<Record<string, string>>>>>;
}

/** One way to be asked. */
export interface Way {
  readonly lifetime: Lifetime;
  readonly archetype: ArchetypeName;
}

/** Starts it; data are loaded, and chains that are to be there before a request are there. */
export async function startLifetimes(options: LifetimesOptions): Promise<BenchExchange> {
  const lifetimes = options.lifetimes ?? LIFETIMES;
  const hasThirdParties = (options.archetypes ?? ARCHETYPES).includes("dataThroughTtp");
  const configuration = await writeLifetimesConfiguration(lifetimes, options.pairs, hasThirdParties);
  const environmentOf = lifetimes.flatMap((lifetime) =>
    [STEWARD_OF[lifetime], ...(hasThirdParties ? [THIRD_PARTY_OF[lifetime]] : [])].map((party) => [
      `agent-${party}`,
      { ...SETTINGS_OF[lifetime], ...options.settings?.[lifetime] },
    ]),
  );
  return startBenchExchange(configuration, {
    environmentOf: Object.fromEntries(environmentOf) as Record<string, Record<string, string>>,
    ...(options.environment === undefined ? {} : { environment: options.environment }),
  });
}

/** An approval's request, by an archetype, of the steward of a lifetime. */
export function approvalRequest(lifetime: Lifetime, archetype: ArchetypeName) {
  return {
    type: "sqlDataRequest",
    user: ANALYST,
    dataProviders: [STEWARD_OF[lifetime]],
    options: { aggregate: archetype === "dataThroughTtp" },
  };
}

/** Who answers. */
export function answeringParty(lifetime: Lifetime, archetype: ArchetypeName): string {
  return archetype === "dataThroughTtp" ? THIRD_PARTY_OF[lifetime] : STEWARD_OF[lifetime];
}

/** How many attempts of a lifetime's parties ran on a chain of each lifetime so far, as their agents' logs say. */
export async function claimsOf({ exchange }: BenchExchange, lifetime: Lifetime): Promise<ReadonlyMap<string, number>> {
  const claims = new Map<string, number>();
  for (const party of [STEWARD_OF[lifetime], THIRD_PARTY_OF[lifetime]]) {
    const path = join(exchange.stateFolder, "logs", `agent-${party}.log`);
    if (!existsSync(path)) continue;
    const log = await readFile(path, "utf8");
    for (const line of log.split("\n").filter((each) => each.includes('"a chain starts"'))) {
      const { lifetime: used = "unknown" } = JSON.parse(line) as { lifetime?: string };
      claims.set(used, (claims.get(used) ?? 0) + 1);
    }
  }
  return claims;
}

/** Of what was claimed since, in words: `12 of 14` ran on a chain of their own lifetime. */
export function servedAsMeant(
  lifetime: Lifetime,
  before: ReadonlyMap<string, number>,
  after: ReadonlyMap<string, number>,
): string {
  const since = (used: string): number => (after.get(used) ?? 0) - (before.get(used) ?? 0);
  const all = [...after.keys()].reduce((sum, used) => sum + since(used), 0);
  return `${String(since(lifetime))} of ${String(all)}`;
}

/** Of one hundredth of a second, as the kernel counts. */
const REST_TICKS = 2;
/** Longer than a pool waits before it starts a chain anew. */
const REST_MS = 500;
const REST_LIMIT_MS = 20_000;

/**
 * Waits until no chain's process does anything: those of the last request have ended, those that are to be there for the next one
 * are. Gives up waiting after a time: on a busy machine something always moves.
 */
export async function untilChainsRest({ exchange }: BenchExchange): Promise<void> {
  const giveUpAt = performance.now() + REST_LIMIT_MS;
  let before = await chainTicks(exchange.stateFolder);
  while (performance.now() < giveUpAt) {
    await sleep(REST_MS);
    const now = await chainTicks(exchange.stateFolder);
    const isSame = now.size === before.size && [...now.keys()].every((pid) => before.has(pid));
    const moved = [...now].reduce((sum, [pid, ticks]) => sum + ticks - (before.get(pid) ?? 0), 0);
    if (isSame && moved <= REST_TICKS * Math.max(1, now.size / 4)) return;
    before = now;
  }
}

/** Processor time of each process of a chain, in hundredths of a second. */
async function chainTicks(stateFolder: string): Promise<ReadonlyMap<number, number>> {
  const ticks = new Map<number, number>();
  for (const { pid, commandLine } of await processesWith(stateFolder)) {
    if (!/(?:microservices|sidecar\/main|query-child|\/bin\/sh)/.test(commandLine)) continue;
    try {
      const fields = (await readFile(`/proc/${String(pid)}/stat`, "utf8")).replace(/^.*\) /s, "").split(" ");
      ticks.set(pid, Number(fields[11]) + Number(fields[12]));
    } catch (error) {
      if (!["ENOENT", "ESRCH"].includes((error as NodeJS.ErrnoException).code ?? "")) throw error;
    }
  }
  return ticks;
}

async function writeLifetimesConfiguration(
  lifetimes: readonly Lifetime[],
  pairs: number,
  hasThirdParties: boolean,
): Promise<string> {
  const folder = await temporaryFolder();
  for (const kind of ["archetypes", "datasets", "microservices", "requestTypes"])
    await cp(join(packageRoot, "configuration", kind), join(folder, kind), { recursive: true });
  for (const kind of ["agreements", "parties"]) await mkdir(join(folder, kind));
  const [dataSet = ""] = (await readdir(join(folder, "datasets"))).map((file) => file.replace(/\.json$/, ""));
  const files = await writeSampleData(join(folder, "data"), "VU", { pairs });
  for (const lifetime of lifetimes) {
    const [steward, thirdParty] = [STEWARD_OF[lifetime], THIRD_PARTY_OF[lifetime]];
    const write = (kind: string, name: string, document: unknown): Promise<void> =>
      writeFile(join(folder, kind, `${name}.json`), JSON.stringify(document));
    await write("agreements", steward, agreement(steward, thirdParty, dataSet));
    await write("parties", steward, { dataSets: { [dataSet]: { engine: "csv", files } } });
    if (hasThirdParties) await write("parties", thirdParty, { dataSets: {} });
  }
  return folder;
}

function agreement(steward: string, thirdParty: string, dataSet: string): Agreement {
  return {
    name: steward,
    relations: {
      [ANALYST.userName]: {
        ID: ANALYST.id,
        requestTypes: ["sqlDataRequest"],
        dataSets: [dataSet],
        allowedArchetypes: [...ARCHETYPES],
        allowedComputeProviders: [thirdParty],
        rawRows: true,
      },
    },
    computeProviders: [thirdParty],
    archetypes: [...ARCHETYPES],
  };
}
