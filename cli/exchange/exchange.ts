/** A whole exchange on this machine: every part its own process, over embedded store and bus. Used by `dynamos up`, the demo and the system tests. */
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { ReleaseStack } from "../../lib/lifecycle.ts";
import { readConfigurationFolder } from "./configuration-folder.ts";
import { startService, type RunningService } from "./service-process.ts";

/** How an exchange is started. */
export interface ExchangeOptions {
  /** Configuration folder. */
  readonly configuration: string;
  /** Folder for store, bus, keys, loaded data and logs; made when absent. */
  readonly stateFolder: string;
  /** Port of the orchestrator; 0: any free one. Agents take free ones. */
  readonly port: number;
  /** Settings for every process, and for one by its name (`orchestrator`, `policy-enforcer`, `agent-VU`). */
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
  /** Base URL of the orchestrator. */
  readonly url: string;
  /** File with the admin key. */
  readonly adminKeyFile: string;
  readonly storeUrl: string;
  readonly busUrl: string;
  readonly stateFolder: string;
  /** By name: `orchestrator`, `policy-enforcer`, `agent-VU`. */
  readonly services: ReadonlyMap<string, RunningService>;
  /** Starts a party's agent, anew where it runs no more. */
  startAgent(party: string): Promise<RunningService>;
  /** Stops everything, agents first. */
  stop(): Promise<void>;
}

const READY_MS = 30_000;
/** A part that does not stop by itself is killed before this. */
const STOP_LIMIT_MS = 20_000;

/**
 * Starts an exchange and resolves when every part is ready.
 *
 * @throws AppError when the configuration is at fault, or a part does not start; what had started is stopped.
 */
export async function startExchange(options: ExchangeOptions): Promise<Exchange> {
  const configuration = await readConfigurationFolder(options.configuration);
  const state = options.stateFolder;
  const logs = join(state, "logs");
  await mkdir(logs, { recursive: true });
  const storeUrl = `sqlite:${join(state, "store.db")}`;
  const busUrl = `embedded:${join(state, "bus.db")}`;
  const progress = options.onProgress ?? (() => {});
  const releases = new ReleaseStack();
  const services = new Map<string, RunningService>();

  const start = async (
    name: string,
    program: string,
    environment: Readonly<Record<string, string>>,
  ): Promise<RunningService> => {
    const service = await startService({
      name,
      program,
      environment: {
        DYNAMOS_STORE: storeUrl,
        DYNAMOS_BUS: busUrl,
        DYNAMOS_STATE_FOLDER: join(state, name),
        ...environment,
        ...options.environment,
        ...options.environmentOf?.[name],
      },
      logFile: join(logs, `${name}.log`),
      readyMs: options.readyMs ?? READY_MS,
    });
    services.set(name, service);
    releases.push(name, () => service.stop(), STOP_LIMIT_MS);
    progress(`${name} is ready at ${service.url}`);
    return service;
  };

  try {
    if (options.withoutPolicyEnforcer !== true) await start("policy-enforcer", "orchestrator/policy-enforcer/main", {});
    const orchestrator = await start("orchestrator", "orchestrator/main", {
      DYNAMOS_PORT: String(options.port),
      DYNAMOS_SEED_FOLDER: configuration.path,
    });
    const startAgent = (party: string): Promise<RunningService> => {
      const found = configuration.parties.find(({ name }) => name === party);
      if (found === undefined) throw new Error(`The configuration has no party ${party}.`);
      return start(`agent-${party}`, "agent/main", {
        DYNAMOS_STEWARD: party,
        DYNAMOS_DATA_FILE: found.dataFile,
        DYNAMOS_ORCHESTRATOR_URL: orchestrator.url,
        DYNAMOS_JOBS: `local:${join(state, "jobs")}`,
      });
    };
    const online = configuration.parties.filter(({ name }) => options.offline?.includes(name) !== true);
    await Promise.all(online.map(({ name }) => startAgent(name)));
    return {
      url: orchestrator.url,
      adminKeyFile: join(state, "orchestrator", "admin-key"),
      storeUrl,
      busUrl,
      stateFolder: state,
      services,
      startAgent,
      stop: () => releases.releaseAll(),
    };
  } catch (error) {
    await releases.releaseAll();
    throw error;
  }
}
