/**
 * One job on this machine, from its acceptance to its end.
 *
 * ```text
 * accept: the name is claimed on disk         starting
 * launch: ports; every container at its gate; on record and under guard; gates open
 *                                              running
 * the first cause ends it: sidecar done, a container failed, memory, deadline, stop
 * clean up: processes, ports, temporary files  succeeded | failed
 * ```
 *
 * The last phase is told only when nothing of the job runs any more.
 */
import { EventEmitter, once } from "node:events";
import type { Clock } from "../clock.ts";
import { AppError, toAppError, toFailure } from "../errors.ts";
import { chainEnvironment, sidecarEnvironment, type ChainPorts } from "./chain-environment.ts";
import { FAILURE_LOG_LINES, hasEnded } from "./job-ending.ts";
import type { ContainerSpec, JobPhase, JobSpec, JobStatus } from "./job-runner.ts";
import { LocalContainer } from "./local-container.ts";
import { endingOfExit, failureOf, type Ending } from "./local-ending.ts";
import type { JobFolder, JobRecord } from "./local-folder.ts";
import type { ProcessGuard } from "./local-guard.ts";
import type { MemoryWatch, WatchedContainer } from "./local-memory.ts";
import type { PortBlock, PortReservations } from "./local-ports.ts";
import { killProcesses, type ProcessIdentity } from "./local-processes.ts";

/** What all jobs of a runner share. */
export interface LocalMachinery {
  readonly clock: Clock;
  readonly owner: ProcessIdentity;
  readonly ports: PortReservations;
  readonly guard: ProcessGuard;
  readonly memory: MemoryWatch;
  /** What containers get of the agent's environment. */
  readonly baseEnvironment: Readonly<Record<string, string>>;
  readonly stopGraceMs: number;
  readonly maxLogBytes: number;
  readonly report: (error: AppError) => void;
}

/** Longest wait of a timer in Node: 24.8 days, far above any deadline (decision 7: 24 hours). */
const MAX_TIMER_MS = 2 ** 31 - 1;

/** See the file comment. */
export class LocalJob {
  readonly spec: JobSpec;
  readonly folder: JobFolder;
  readonly #machinery: LocalMachinery;
  readonly #history: JobStatus[];
  readonly #changes = new EventEmitter();
  readonly #containers: LocalContainer[] = [];
  readonly #watched: WatchedContainer[] = [];
  #ports: PortBlock | undefined;
  #ending: Ending | undefined;
  /** Aborted with the first cause that ends the job. */
  readonly #ended = new AbortController();
  /** Aborted when nobody waits for a gentle end. */
  readonly #stopped = new AbortController();

  constructor(spec: JobSpec, folder: JobFolder, machinery: LocalMachinery) {
    this.spec = spec;
    this.folder = folder;
    this.#machinery = machinery;
    this.#history = [{ name: spec.name, phase: "starting" }];
    this.#changes.setMaxListeners(0);
  }

  /** The state now. */
  get status(): JobStatus {
    return this.#history.at(-1) ?? { name: this.spec.name, phase: "starting" };
  }

  /** Claims the name. In use: `already_exists`. */
  async accept(): Promise<void> {
    await this.folder.create(this.#record(this.status));
  }

  /** The whole life after acceptance. Never rejects. */
  async run(): Promise<void> {
    this.#endAtDeadline();
    try {
      await this.#launch();
      if (!this.#ended.signal.aborted) await this.#advance("running");
      if (!this.#ended.signal.aborted) await once(this.#ended.signal, "abort");
    } catch (error) {
      this.#end({ kind: "startFailed", error: asStartFailure(error) });
    }
    await this.#cleanUp(this.#ending ?? { kind: "stopped" });
  }

  /** Ends it now; `run` resolves soon. */
  stop(): void {
    this.#end({ kind: "stopped" });
    this.#stopped.abort();
  }

  /** The states from now to the end, each once. Throws the signal's reason when it is aborted. */
  async *watch(signal?: AbortSignal): AsyncIterable<JobStatus> {
    for (let next = this.#history.length - 1; ; next++) {
      signal?.throwIfAborted();
      if (next === this.#history.length) await this.#nextChange(signal);
      const status = this.#history[next];
      if (status === undefined) return;
      yield status;
      if (hasEnded(status.phase)) return;
    }
  }

  async #launch(): Promise<void> {
    const { ports, guard, memory } = this.#machinery;
    const isEnded = (): boolean => this.#ended.signal.aborted;
    if (isEnded()) return;
    this.#ports = await ports.reserve(1 + this.spec.microservices.length);
    for (const [container, environment] of containersOf(this.spec, portsOf(this.#ports))) {
      if (isEnded()) return;
      this.#containers.push(await this.#launchContainer(container, environment));
    }
    await guard.add(this.#containers.map((container) => container.identity.pid));
    await this.folder.write(this.#record(this.status));
    if (isEnded()) return;
    for (const container of this.#containers) container.release();
    for (const watched of this.#watched) memory.add(watched);
  }

  async #launchContainer(spec: ContainerSpec, chain: Readonly<Record<string, string>>): Promise<LocalContainer> {
    const { temporary } = this.folder;
    const container = await LocalContainer.launch({
      name: spec.name,
      command: spec.command ?? [],
      // What the runner adds wins: a container that could rename its ports would break the chain.
      environment: {
        ...this.#machinery.baseEnvironment,
        HOME: temporary,
        ...spec.environment,
        ...chain,
        TMPDIR: temporary,
      },
      folder: temporary,
      logPath: this.folder.logPath(spec.name),
      maxLogBytes: this.#machinery.maxLogBytes,
    });
    void container.exited.then((exit) => {
      const ending = endingOfExit(this.spec, spec.name, exit);
      if (ending) this.#end(ending);
    });
    const limitBytes = spec.memoryLimitBytes;
    this.#watched.push({
      leader: container.identity,
      limitBytes,
      onExceeded: (residentBytes) => this.#end({ kind: "memory", container: spec.name, limitBytes, residentBytes }),
    });
    return container;
  }

  #endAtDeadline(): void {
    const { clock } = this.#machinery;
    const leftMs = this.spec.deadlineMs - clock.now();
    if (leftMs <= 0) return this.#end({ kind: "deadline" });
    clock.sleep(Math.min(leftMs, MAX_TIMER_MS), this.#ended.signal).then(
      () => this.#end({ kind: "deadline" }),
      () => undefined, // Ended before.
    );
  }

  /** The first cause counts; what it brings about in the others does not. */
  #end(ending: Ending): void {
    if (this.#ending) return;
    this.#ending = ending;
    this.#ended.abort();
  }

  async #cleanUp(ending: Ending): Promise<void> {
    const { clock, guard, memory } = this.#machinery;
    const identities = this.#containers.map((container) => container.identity);
    for (const watched of this.#watched) memory.remove(watched);
    if (ending.kind === "succeeded") await this.#attempt(() => this.#endGently());
    // Also when none was launched: a container may have been on its way.
    await this.#attempt(() => killProcesses(this.folder.killTarget(identities), clock));
    for (const container of this.#containers) await this.#attempt(() => this.#drain(container));
    await this.#attempt(() => guard.remove(identities.map((identity) => identity.pid)));
    await this.#attempt(async () => this.#ports?.release());
    await this.#attempt(() => this.folder.removeTemporary());
    const failure = failureOf(ending, this.spec, await this.#lastLines(ending));
    await this.#advance(failure ? "failed" : "succeeded", failure);
  }

  /** SIGTERM to what still runs, and some time to heed it, unless somebody wants the job gone at once. */
  async #endGently(): Promise<void> {
    for (const container of this.#containers) container.signal("SIGTERM");
    const done = new AbortController();
    const limit = AbortSignal.any([this.#stopped.signal, done.signal]);
    const tooLate = this.#machinery.clock.sleep(this.#machinery.stopGraceMs, limit).catch(() => undefined);
    await Promise.race([Promise.all(this.#containers.map((container) => container.exited)), tooLate]);
    done.abort();
  }

  async #drain(container: LocalContainer): Promise<void> {
    const problem = await container.drain(this.#machinery.clock);
    if (problem) throw problem;
  }

  async #lastLines(ending: Ending): Promise<readonly string[]> {
    if (ending.kind !== "exited") return [];
    let lines: readonly string[] = [];
    await this.#attempt(async () => {
      lines = (await this.folder.logs([ending.container], FAILURE_LOG_LINES)).map((log) => log.line);
    });
    return lines;
  }

  /** Runs a step of cleaning up; its failure is reported, and keeps no other step from being done. */
  async #attempt(step: () => Promise<void>): Promise<void> {
    try {
      await step();
    } catch (error) {
      this.#machinery.report(toAppError(error));
    }
  }

  async #advance(phase: JobPhase, failure?: AppError): Promise<void> {
    const failed = failure && toFailure(failure.withParty(this.spec.steward));
    const status: JobStatus = { name: this.spec.name, phase, ...(failed ? { failure: failed } : {}) };
    // On disk first: whoever heard of an end finds it there.
    await this.#attempt(() => this.folder.write(this.#record(status)));
    this.#history.push(status);
    this.#changes.emit("change");
  }

  #record(status: JobStatus): JobRecord {
    return {
      owner: this.#machinery.owner,
      labels: this.spec.labels,
      containers: [...this.spec.microservices, this.spec.sidecar].map((container) => container.name),
      processes: this.#containers.map((container) => container.identity),
      status,
      ...(hasEnded(status.phase) ? { endedAtMs: this.#machinery.clock.now() } : {}),
    };
  }

  async #nextChange(signal: AbortSignal | undefined): Promise<void> {
    try {
      await once(this.#changes, "change", signal ? { signal } : {});
    } catch (error) {
      signal?.throwIfAborted();
      throw error;
    }
  }
}

/** Microservices first, in chain order, each with its part of the chain environment. */
function* containersOf(spec: JobSpec, ports: ChainPorts): Iterable<[ContainerSpec, Record<string, string>]> {
  for (const [index, microservice] of spec.microservices.entries()) {
    yield [microservice, chainEnvironment(spec, index, ports)];
  }
  yield [spec.sidecar, sidecarEnvironment(spec, ports)];
}

function portsOf(block: PortBlock): ChainPorts {
  return { sidecarPort: block.first, firstMicroservicePort: block.first + 1 };
}

function asStartFailure(thrown: unknown): AppError {
  if (thrown instanceof AppError) return thrown;
  const reason = thrown instanceof Error ? thrown.message : String(thrown);
  return new AppError("job_start_failed", `The chain could not be started: ${reason}.`, { cause: thrown });
}
