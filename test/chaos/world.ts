/** Everything that a run breaks: the exchange, its store and broker, the links between them, small disks and clocks. */
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { startExchange, type Exchange } from "../../cli/exchange/exchange.ts";
import { freePort } from "../../cli/exchange/free-port.ts";
import { processName, sidecarName, type SidecarPlacement } from "../../cli/exchange/parts.ts";
import { toAppError } from "../../lib/errors.ts";
import { embeddedBackends, realBackends, type Backends } from "./backends.ts";
import { writeExchange } from "./exchange-data.ts";
import { Link } from "./link.ts";
import { Oracle } from "./oracle.ts";
import { STEWARDS, THIRD_PARTY } from "./questions.ts";
import { noSmallDisk, SmallDisk } from "./small-disk.ts";

/** How it is made. */
export interface WorldOptions {
  /** An empty folder. */
  readonly folder: string;
  readonly seed: number;
  readonly replicas: number;
  readonly backends: "embedded" | "real";
  readonly sidecar: SidecarPlacement;
  /** Settings of every program. */
  readonly settings: Readonly<Record<string, string>>;
  readonly hasSmallDisks: boolean;
  readonly readyMs: number;
}

/** What one process's links lead to. */
export type LinkTarget = "store" | "bus" | "chainBus" | "http";

/** See the file comment. */
export interface World {
  readonly exchange: Exchange;
  readonly backends: Backends;
  readonly oracle: Oracle;
  readonly stateFolder: string;
  /** By process, then by what it leads to; `http` leads to the process itself. */
  readonly links: ReadonlyMap<string, ReadonlyMap<LinkTarget, Link>>;
  /** By part. */
  readonly disks: ReadonlyMap<string, SmallDisk>;
  /** Sets the wall clock of a process off by so much. */
  setClock(process: string, byMs: number): Promise<void>;
  /** Closes all but the exchange. */
  close(): Promise<void>;
}

/** Makes it; the exchange is up when this resolves. */
export async function openWorld(options: WorldOptions): Promise<World> {
  const { folder, seed, replicas } = options;
  const configuration = join(folder, "configuration");
  const stateFolder = join(folder, "state");
  const clocks = join(folder, "clocks");
  await mkdir(stateFolder, { recursive: true });
  await mkdir(clocks);
  const oracle = new Oracle(await writeExchange(configuration, seed));
  const closing: (() => Promise<void> | void)[] = [];
  const close = async (): Promise<void> => {
    for (const step of closing.splice(0).reverse()) await step();
  };
  try {
    const backends = options.backends === "real" ? await realBackends() : embeddedBackends(stateFolder);
    closing.push(() => backends.close());
    const disks = options.hasSmallDisks ? await mountDisks(stateFolder, closing) : new Map<string, SmallDisk>();
    const links = new Map<string, ReadonlyMap<LinkTarget, Link>>();
    const environmentOf: Record<string, Record<string, string>> = {};
    for (const part of PARTS) {
      for (let replica = 1; replica <= replicas; replica += 1) {
        const name = processName(part, replica);
        const linked = await openLinks(part, backends, closing);
        links.set(name, linked.links);
        const { DYNAMOS_BUS: bus = "", ...environment } = linked.environment;
        const toBus = bus === "" ? {} : { DYNAMOS_BUS: bus };
        if (options.sidecar === "separate") environmentOf[sidecarName(name)] = toBus;
        environmentOf[name] = {
          ...environment,
          ...(options.sidecar === "separate" ? {} : toBus),
          NODE_OPTIONS: `--import=${fileURLToPath(new URL("./clock-shift.js", import.meta.url))}`,
          CHAOS_CLOCK_FILE: join(clocks, name),
        };
      }
    }
    const exchange = await startExchange({
      configuration,
      stateFolder,
      port: 0,
      storeUrl: backends.storeUrl,
      busUrl: backends.busUrl,
      environment: options.settings,
      environmentOf,
      offline: [...STEWARDS, THIRD_PARTY],
      sidecar: options.sidecar,
      replicas: { orchestrator: replicas, policyEnforcer: replicas, agent: replicas },
      readyMs: options.readyMs,
    });
    const agents = Object.keys(environmentOf).filter((name) => /^agent-\w+(-\d+)?$/.test(name));
    await Promise.all(Array.from({ length: STARTS_AT_ONCE }, () => startPatiently(exchange, agents)));
    const setClock = (process: string, byMs: number): Promise<void> => writeFile(join(clocks, process), String(byMs));
    return { exchange, backends, oracle, stateFolder, links, disks, setClock, close };
  } catch (error) {
    await close();
    throw error;
  }
}

/** Starts the rest of these, as a cluster would: a part that does not come up at first is tried again. */
async function startPatiently(exchange: Exchange, rest: string[]): Promise<void> {
  for (let name = rest.shift(); name !== undefined; name = rest.shift()) {
    for (let tries = 1; ; tries += 1) {
      const error = await exchange.start(name).then(() => undefined, toAppError);
      if (error === undefined) break;
      if (tries === START_TRIES) throw error;
    }
  }
}

const STARTS_AT_ONCE = 3;
const START_TRIES = 3;

const PARTS = ["orchestrator", "policy-enforcer", ...[...STEWARDS, THIRD_PARTY].map((party) => `agent-${party}`)];

type Closing = (() => Promise<void> | void)[];

async function mountDisks(stateFolder: string, closing: Closing): Promise<ReadonlyMap<string, SmallDisk>> {
  const missing = noSmallDisk();
  if (missing !== undefined) throw new Error(`Disks cannot be filled up here: ${missing}. Leave "disk" out of --only.`);
  const disks = new Map<string, SmallDisk>();
  for (const part of PARTS.filter((name) => name.startsWith("agent-"))) {
    const disk = await SmallDisk.mount(join(stateFolder, part));
    closing.push(() => disk.unmount());
    disks.set(part, disk);
  }
  return disks;
}

/** A process's own links to store and bus, of an agent also its chains' to the bus, and everybody's to its HTTP. */
async function openLinks(
  part: string,
  { storeUrl, busUrl, store }: Backends,
  closing: Closing,
): Promise<{ readonly links: ReadonlyMap<LinkTarget, Link>; readonly environment: Record<string, string> }> {
  const links = new Map<LinkTarget, Link>();
  const environment: Record<string, string> = {};
  const open = async (to: LinkTarget, port: number): Promise<string> => {
    const link = await Link.open({ host: "127.0.0.1", port });
    closing.push(() => link.close());
    links.set(to, link);
    return `127.0.0.1:${String(link.port)}`;
  };
  if (store !== undefined) {
    environment["DYNAMOS_STORE"] = withHost(storeUrl, await open("store", portOf(storeUrl)));
    environment["DYNAMOS_BUS"] = withHost(busUrl, await open("bus", portOf(busUrl)));
  }
  if (!part.startsWith("agent-")) return { links, environment };
  if (store !== undefined) environment["DYNAMOS_CHAIN_BUS"] = withHost(busUrl, await open("chainBus", portOf(busUrl)));
  const port = await freePort();
  const url = `http://${await open("http", port)}`;
  Object.assign(environment, { DYNAMOS_PORT: String(port), DYNAMOS_ADVERTISED_URL: url, DYNAMOS_INSTANCE_URL: url });
  return { links, environment };
}

function portOf(url: string): number {
  return Number(/:(\d+)(?:\/|$)/.exec(url)?.[1]);
}

function withHost(url: string, host: string): string {
  return url.replace(/127\.0\.0\.1:\d+/, host);
}
