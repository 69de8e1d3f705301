/**
 * A whole exchange on this machine: every part its own process, or several (`parts.ts`), over embedded or real store and bus.
 * Used by `dynamos up`, the demo and the system tests.
 */
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { requireBackends } from "./backends.ts";
import { readConfigurationFolder } from "./configuration-folder.ts";
import { partProcesses, processName, type PartProcess, type Replicas, type SidecarPlacement } from "./parts.ts";
import { ProcessTable } from "./process-table.ts";
import type { RunningService } from "./service-process.ts";

/** How an exchange is started. */
export interface ExchangeOptions {
  /** Configuration folder. */
  readonly configuration: string;
  /** Folder for embedded store and bus, keys, loaded data and logs; made when absent. */
  readonly stateFolder: string;
  /** Port of the first orchestrator; 0: any free one. All others take free ones. */
  readonly port: number;
  /** Knowledge store (`lib/knowledge/open.ts`); absent: an embedded one in the state folder. */
  readonly storeUrl?: string;
  /** Message bus (`lib/bus/open.ts`); absent: an embedded one in the state folder. */
  readonly busUrl?: string;
  /** Default `inProcess`. Chains have a sidecar of their own always. */
  readonly sidecar?: SidecarPlacement;
  readonly replicas?: Replicas;
  /**
   * Settings for every process, and for some by name: of a part (`orchestrator`, `policy-enforcer`, `agent-VU`) for all of its
   * replicas, or of one process (`agent-VU-2`, `agent-VU-sidecar`).
   */
  readonly environment?: Readonly<Record<string, string>>;
  readonly environmentOf?: Readonly<Record<string, Readonly<Record<string, string>>>>;
  /** Parties to leave offline at first. */
  readonly offline?: readonly string[];
  /** Leaves the policy enforcer out: somebody else will be in its place. */
  readonly withoutPolicyEnforcer?: boolean;
  readonly onProgress?: (message: string) => void;
  readonly readyMs?: number;
}

/** A running exchange. */
export interface Exchange {
  /** Base URL of the first orchestrator. */
  readonly url: string;
  /** Base URLs of all orchestrators. They keep them when they are started anew. */
  readonly urls: readonly string[];
  /** File with the admin key. */
  readonly adminKeyFile: string;
  readonly storeUrl: string;
  readonly busUrl: string;
  readonly sidecar: SidecarPlacement;
  readonly stateFolder: string;
  /** By name, as in `parts.ts`; the latest process of each name, which may have ended. */
  readonly services: ReadonlyMap<string, RunningService>;
  /**
   * Starts a process that does not run, such as one that was killed, with the settings that it had, at the port that it had;
   * its sidecar too, where that does not run either.
   */
  start(name: string): Promise<RunningService>;
  /** Starts a replica of a party's agent (default: the first), anew where it runs no more. */
  startAgent(party: string, replica?: number): Promise<RunningService>;
  /** Stops everything, agents first. */
  stop(): Promise<void>;
}

/** On a quiet machine it takes a second. */
const READY_MS = 60_000;

/**
 * Starts an exchange and resolves when every part is ready.
 *
 * @throws AppError when the configuration is at fault, store or bus do not answer, or a part does not start; what had started
 * is stopped.
 */
export async function startExchange(options: ExchangeOptions): Promise<Exchange> {
  const configuration = await readConfigurationFolder(options.configuration);
  const state = options.stateFolder;
  const logs = join(state, "logs");
  await mkdir(logs, { recursive: true });
  const storeUrl = options.storeUrl ?? `sqlite:${join(state, "store.db")}`;
  const busUrl = options.busUrl ?? `embedded:${join(state, "bus.db")}`;
  const sidecar = options.sidecar ?? "inProcess";
  await requireBackends(storeUrl, busUrl);

  const parts = partProcesses(configuration.parties, options.replicas ?? {});
  const processes = new ProcessTable({
    stateFolder: state,
    logFolder: logs,
    busUrl,
    sidecar,
    readyMs: options.readyMs ?? READY_MS,
    environment: { DYNAMOS_STORE: storeUrl, ...options.environment },
    environmentOf: options.environmentOf ?? {},
    onReady: (name, url) => options.onProgress?.(`${name} is ready at ${url}`),
  });
  const online = parts.agents.filter(({ party }) => options.offline?.includes(party?.name ?? "") !== true);
  const enforcers = options.withoutPolicyEnforcer === true ? [] : parts.enforcers;
  try {
    for (const enforcer of enforcers) processes.add(enforcer, {});
    for (const orchestrator of parts.orchestrators) {
      const port = orchestrator.replica === 1 ? options.port : 0;
      processes.add(orchestrator, { DYNAMOS_SEED_FOLDER: configuration.path }, port);
    }
    await processes.startAll([...enforcers, ...parts.orchestrators].map(({ name }) => name));
    const urls = parts.orchestrators.flatMap(({ name }) => processes.running.get(name)?.url ?? []);
    for (const agent of parts.agents) processes.add(agent, agentEnvironment(agent, urls, busUrl, state));
    await processes.startAll(online.map(({ name }) => name));
    return {
      url: urls[0] ?? "",
      urls,
      adminKeyFile: join(state, "orchestrator", "admin-key"),
      storeUrl,
      busUrl,
      sidecar,
      stateFolder: state,
      services: processes.running,
      start: (name) => processes.start(name),
      startAgent: (party, replica = 1) => processes.start(processName(`agent-${party}`, replica)),
      stop: () => processes.stopAll(),
    };
  } catch (error) {
    await processes.stopAll();
    throw error;
  }
}

function agentEnvironment(
  { party }: PartProcess,
  orchestrators: readonly string[],
  busUrl: string,
  state: string,
): Record<string, string> {
  return {
    DYNAMOS_STEWARD: party?.name ?? "",
    DYNAMOS_DATA_FILE: party?.dataFile ?? "",
    DYNAMOS_ORCHESTRATOR_URL: orchestrators.join(","),
    DYNAMOS_JOBS: `local:${join(state, "jobs")}`,
    // A chain's sidecar reaches the bus itself, whatever the agent does.
    DYNAMOS_CHAIN_BUS: busUrl,
  };
}
