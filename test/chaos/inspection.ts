/** What is left when everything should be gone: processes, queues, keys, files, dead letters; and what the logs say. */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { Exchange } from "../../cli/exchange/exchange.ts";
import type { KnowledgeStore } from "../../lib/knowledge/knowledge-store.ts";
import type { Backends, SeenQueue } from "./backends.ts";
import type { History } from "./history.ts";
import { isOfChain, processesOf } from "./processes.ts";

/** One thing that should be gone. */
export interface LeftOver {
  readonly what: string;
  readonly name: string;
}

/** Keys under these belong to documents, and stay. */
const DOCUMENTS = [
  "/archetypes/",
  "/requestTypes/",
  "/microservices/",
  "/policyEnforcer/agreements/",
  "/datasets/",
  "/forcedServices/",
  "/orchestrator/seed/",
];
const ONLINE = /^\/(agents|orchestrator)\/(online|instances)\//;
const LOOK_MS = 500;

/** Looks until nothing is left, or the limit has passed; resolves with what is left then. */
export async function untilNothingIsLeft(
  look: () => Promise<readonly LeftOver[]>,
  limitMs: number,
): Promise<readonly LeftOver[]> {
  for (const giveUpAt = Date.now() + limitMs; ; await sleep(LOOK_MS)) {
    const left = await look();
    if (left.length === 0 || Date.now() >= giveUpAt) return left;
  }
}

/** What is left while the services still run: chains, runs' queues, messages, jobs, requests, files of answers. */
export async function leftOvers(
  exchange: Exchange,
  backends: Backends,
  store: KnowledgeStore,
  recentDeaths: number,
): Promise<readonly LeftOver[]> {
  const { documents } = await store.list("/");
  const online = documents.map(({ key }) => key).filter((key) => ONLINE.test(key));
  const instances = new Set(online.map((key) => key.slice(key.lastIndexOf("/") + 1)));
  const services = [...exchange.services.values()].filter((service) => !service.hasEnded());
  const registered = services.filter(({ name }) => name.startsWith("agent-") && !name.endsWith("-sidecar")).length;
  // Longer than anybody wants to wait here: the time of a request, and that for which its answer is kept.
  const owned = documents.filter(({ key }) => key.startsWith("/orchestrator/answers/"));
  const leased = owned.length === 0 ? new Set<string>() : await backends.leasedKeys();
  const agentsOnline = online.filter((key) => key.startsWith("/agents/online/")).length;
  return [
    ...(agentsOnline === registered
      ? []
      : [{ what: "online records", name: `${String(agentsOnline)} of ${String(registered)} agents` }]),
    ...documents.flatMap(({ key }) =>
      DOCUMENTS.some((prefix) => key.startsWith(prefix)) || ONLINE.test(key) || leased.has(key)
        ? []
        : [{ what: "key", name: key }],
    ),
    ...leftOfQueues(await backends.queues(), instances, recentDeaths),
    ...(await backends.idleLeases()).map((name) => ({ what: "lease without a key", name })),
    ...chainLeftOvers(exchange.stateFolder),
    ...filesUnder(exchange.stateFolder).flatMap((path) => {
      const instance = /\/agent-\w+\/answers\/([^/]+)\//.exec(path)?.[1];
      return instance !== undefined && instances.has(instance) ? [{ what: "kept answer", name: path }] : [];
    }),
  ];
}

/** What is left after everything was stopped. */
export async function leftOversOfStopped(
  stateFolder: string,
  backends: Backends,
  store: KnowledgeStore,
  recentDeaths: number,
): Promise<readonly LeftOver[]> {
  const { documents } = await store.list("/");
  return [
    ...processesOf(stateFolder).map(({ program, pid }) => ({ what: "process", name: `${program} ${String(pid)}` })),
    ...documents.flatMap(({ key }) => (ONLINE.test(key) ? [{ what: "online record", name: key }] : [])),
    ...leftOfQueues(await backends.queues(), new Set(), recentDeaths),
    ...chainLeftOvers(stateFolder),
  ];
}

/** How long a queue lives that nobody uses: those of processes that died not longer ago may still be there. */
export const QUEUE_EXPIRY_MS = 11 * 60_000;

/** Service queues stay, and are empty; of the others those in which living processes get answers, and some of the lately dead. */
function leftOfQueues(
  queues: readonly SeenQueue[],
  instances: ReadonlySet<string>,
  recentDeaths: number,
): readonly LeftOver[] {
  const left: LeftOver[] = [];
  const ofDead: LeftOver[] = [];
  for (const { name, kind, messages } of queues) {
    const instance = /-in-([^-]+)/.exec(name)?.[1];
    if (kind === "service") {
      if (messages > 0) left.push({ what: "messages", name: `${name}: ${String(messages)}` });
    } else if (instance === undefined) left.push({ what: "queue", name });
    else if (!instances.has(instance)) ofDead.push({ what: "queue of a dead process", name });
  }
  return ofDead.length > recentDeaths ? [...left, ...ofDead] : left;
}

function chainLeftOvers(stateFolder: string): LeftOver[] {
  const processes = processesOf(stateFolder).filter(isOfChain);
  return [
    ...processes.map(({ program, party = "?", pid }) => ({
      what: "process of a chain",
      name: `${program} of ${party} (${String(pid)})`,
    })),
    ...filesUnder(join(stateFolder, "jobs")).flatMap((path) =>
      path.endsWith("/job.json") && /"phase":"(starting|running)"/.test(readOrNothing(path))
        ? [{ what: "job that lives on record", name: path }]
        : /\/tmp\//.test(path.slice(stateFolder.length))
          ? [{ what: "temporary file", name: path }]
          : [],
    ),
    ...filesUnder(stateFolder)
      .filter((path) => /\/worlds\/(query-|\.new)/.test(path))
      .map((path) => ({ what: "file of a query", name: path })),
  ];
}

/** Every fault is far shorter than the limits behind these: who comes to one of them waited for what was lost. */
const OUT_OF_TIME = new Set(["deadline_exceeded", "time_limit_exceeded"]);

/** Error and fatal lines of all services' logs go into the history, at their own times; and those that tell of waits in vain. */
export function readLogs(stateFolder: string, history: History): void {
  const folder = join(stateFolder, "logs");
  for (const file of readdirSync(folder)) {
    for (const line of readFileSync(join(folder, file), "utf8").split("\n")) {
      if (line === "") continue;
      const { level, time, error, code = error?.code } = parseLine(line);
      const atMs = time === undefined ? history.now() : history.at(Date.parse(time));
      const service = file.replace(/\.log$/, "");
      if (code !== undefined && OUT_OF_TIME.has(code)) history.add({ kind: "stalled", service, code, line }, atMs);
      else if (level === undefined || level === "error" || level === "fatal") {
        history.add({ kind: "logged", service, code: error?.code, line }, atMs);
      }
    }
  }
}

interface LogLine {
  readonly level?: string;
  readonly time?: string;
  readonly code?: string;
  readonly error?: { readonly code?: string };
}

/** What is no log line of ours (a crash, a warning of Node) has no level. */
function parseLine(line: string): LogLine {
  try {
    const parsed: unknown = JSON.parse(line);
    return typeof parsed === "object" && parsed !== null ? parsed : {};
  } catch (error) {
    if (error instanceof SyntaxError) return {};
    throw error;
  }
}

function filesUnder(folder: string): string[] {
  try {
    return readdirSync(folder, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => join(entry.parentPath, entry.name));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw error;
  }
}

function readOrNothing(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return "";
    throw error;
  }
}
