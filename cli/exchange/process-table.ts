/** The processes of one exchange by name: how each is started, and which runs. */
import { mkdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import { AppError, toAppError } from "../../lib/errors.ts";
import { freePort } from "./free-port.ts";
import { sidecarName, type PartProcess, type SidecarPlacement } from "./parts.ts";
import { startService, type RunningService } from "./service-process.ts";

/** What all processes of an exchange have in common. */
export interface ProcessTableOptions {
  readonly stateFolder: string;
  readonly logFolder: string;
  /** The bus itself. */
  readonly busUrl: string;
  readonly sidecar: SidecarPlacement;
  readonly readyMs: number;
  /** Settings of every process. */
  readonly environment: Readonly<Record<string, string>>;
  /** Settings by name of a part, a process or a sidecar. */
  readonly environmentOf: Readonly<Record<string, Readonly<Record<string, string>>>>;
  readonly onReady: (name: string, url: string) => void;
}

/** How a process is started, each time alike. */
interface Entry {
  readonly name: string;
  readonly program: string;
  readonly environment: Readonly<Record<string, string>>;
  /** Name of the process beside it by which it reaches the bus. */
  readonly sidecar?: string;
  /** Path of the Unix socket where it listens; absent: it listens on a port. */
  readonly socket?: string;
  /** Undefined until it has been chosen. */
  readonly port?: number;
}

/** The program of a separate sidecar. */
const SIDECAR_PROGRAM = "sidecar/messaging-main";
const LISTEN_SETTING = "DYNAMOS_SIDECAR_LISTEN";
/** Linux' limit for the path of a Unix socket (unix(7)). */
const MAX_SOCKET_PATH_BYTES = 107;
/** A part that does not stop by itself is killed after this. */
const STOP_LIMIT_MS = 20_000;
/** A killed process is gone after less than this. */
const DYING_MS = 5_000;
/** Others may take a port between our choice and its use: so often another one is chosen. */
const PORT_TRIES = 5;

/** See the file comment. */
export class ProcessTable {
  readonly #options: ProcessTableOptions;
  readonly #entries = new Map<string, Entry>();
  readonly #running = new Map<string, RunningService>();
  readonly #starting = new Map<string, Promise<RunningService>>();
  #isStopping = false;

  constructor(options: ProcessTableOptions) {
    this.#options = options;
  }

  /** The latest process of each name; it may have ended. */
  get running(): ReadonlyMap<string, RunningService> {
    return this.#running;
  }

  /** Makes a process known, and its sidecar where it has one; nothing is started yet. @param port 0: any, but the same each time. */
  add({ name, part, program }: PartProcess, environment: Readonly<Record<string, string>>, port = 0): void {
    const { busUrl, sidecar, stateFolder, environmentOf } = this.#options;
    const own = { ...environmentOf[part], ...environmentOf[name] };
    const bus = { DYNAMOS_BUS: busUrl };
    this.#entries.set(name, {
      name,
      program,
      environment: {
        ...(sidecar === "separate" ? {} : bus),
        DYNAMOS_STATE_FOLDER: join(stateFolder, part),
        ...this.#options.environment,
        ...environment,
        ...own,
      },
      ...(port === 0 ? {} : { port }),
      ...(sidecar === "separate" ? { sidecar: sidecarName(name) } : {}),
    });
    if (sidecar === "inProcess") return;
    const socket = join(stateFolder, "sidecars", `${name}.sock`);
    this.#entries.set(sidecarName(name), {
      name: sidecarName(name),
      program: SIDECAR_PROGRAM,
      // Only this user reaches a socket; a port is for where its path would be too long.
      ...(Buffer.byteLength(socket) > MAX_SOCKET_PATH_BYTES ? {} : { socket }),
      environment: {
        // The bus's metrics are taken where the bus is; its ready line tells the port.
        DYNAMOS_METRICS_PORT: "0",
        ...bus,
        ...this.#options.environment,
        ...environmentOf[sidecarName(part)],
        ...environmentOf[sidecarName(name)],
      },
    });
  }

  /** Starts these side by side. Fails with the first one's fault, after all have become ready or failed. */
  async startAll(names: readonly string[]): Promise<void> {
    const outcomes = await Promise.allSettled(names.map((name) => this.start(name)));
    for (const outcome of outcomes) if (outcome.status === "rejected") throw outcome.reason;
  }

  /** Starts one that does not run; its sidecar first, where that does not run either. Two who ask at once get the same process. */
  start(name: string): Promise<RunningService> {
    const starting = this.#starting.get(name) ?? this.#start(name).finally(() => this.#starting.delete(name));
    this.#starting.set(name, starting);
    return starting;
  }

  /** Stops all: agents, then orchestrators and policy enforcers, and sidecars when nobody needs them any more. Nothing starts after. */
  async stopAll(): Promise<void> {
    this.#isStopping = true;
    const programs = [...new Set([...this.#entries.values()].map(({ program }) => program))].reverse();
    for (const program of [...programs.filter((each) => each !== SIDECAR_PROGRAM), SIDECAR_PROGRAM]) {
      const ending = [...this.#entries.values()].flatMap((entry) => {
        const service = entry.program === program ? this.#running.get(entry.name) : undefined;
        return service === undefined ? [] : [service.stop(STOP_LIMIT_MS)];
      });
      await Promise.all(ending);
    }
    // What was being started meanwhile ends itself.
    await Promise.allSettled(this.#starting.values());
  }

  async #start(name: string): Promise<RunningService> {
    const entry = this.#entries.get(name);
    if (entry === undefined) {
      const known = [...this.#entries.keys()].join(", ");
      throw new AppError("not_found", `The exchange has no process ${name}; it has ${known}.`);
    }
    if (entry.sidecar === undefined) return this.#startAtItsPlace(entry, {});
    const beside = this.#running.get(entry.sidecar);
    const sidecar = beside === undefined || beside.hasEnded() ? await this.start(entry.sidecar) : beside;
    return this.#startAtItsPlace(entry, { DYNAMOS_BUS: sidecar.url });
  }

  async #startAtItsPlace(entry: Entry, environment: Readonly<Record<string, string>>): Promise<RunningService> {
    await this.#requireEnded(entry.name);
    if (entry.socket !== undefined) {
      await mkdir(dirname(entry.socket), { recursive: true });
      return this.#startOnce(entry, { [LISTEN_SETTING]: `unix:${entry.socket}` });
    }
    for (let tries = 1; ; tries++) {
      const port = entry.port ?? (await freePort());
      try {
        const place =
          entry.program === SIDECAR_PROGRAM
            ? { [LISTEN_SETTING]: `127.0.0.1:${String(port)}` }
            : { DYNAMOS_PORT: String(port) };
        const service = await this.#startOnce(entry, { ...place, ...environment });
        this.#entries.set(entry.name, { ...entry, port });
        return service;
      } catch (thrown) {
        const isPortTaken = toAppError(thrown).message.includes("EADDRINUSE");
        if (!isPortTaken || entry.port !== undefined || tries === PORT_TRIES) throw thrown;
      }
    }
  }

  async #startOnce(entry: Entry, environment: Readonly<Record<string, string>>): Promise<RunningService> {
    const service = await startService({
      name: entry.name,
      program: entry.program,
      environment: { ...environment, ...entry.environment },
      logFile: join(this.#options.logFolder, `${entry.name}.log`),
      readyMs: this.#options.readyMs,
    });
    if (this.#isStopping) {
      await service.stop(STOP_LIMIT_MS);
      throw new AppError("cancelled", `${entry.name} was started while the exchange was being stopped.`);
    }
    this.#running.set(entry.name, service);
    this.#options.onReady(entry.name, service.url);
    return service;
  }

  async #requireEnded(name: string): Promise<void> {
    const earlier = this.#running.get(name);
    if (earlier === undefined || earlier.hasEnded()) return;
    let timer: NodeJS.Timeout | undefined;
    const limit = new Promise<"runs">((resolve) => (timer = setTimeout(() => resolve("runs"), DYING_MS)));
    const outcome = await Promise.race([earlier.exited, limit]);
    clearTimeout(timer);
    if (outcome !== "runs") return;
    throw new AppError("already_exists", `${name} runs already, as process ${String(earlier.pid)}.`);
  }
}
