/**
 * The job runner for one machine: every container is a process.
 *
 * - `local-job.ts`: one job's life. `local-container.ts`: one process, at its gate. `local-ending.ts`: why it ended.
 * - `local-folder.ts`: what of a job is on disk. `local-log.ts`: containers' output, bounded.
 * - `local-ports.ts`: consecutive free ports. `local-memory.ts`: the memory limit. `local-processes.ts`: who lives; killing.
 * - `local-guard.ts`: kills the containers of an agent that was killed.
 *
 * State, below the state folder, which all agents of an exchange on this machine share: `ports/` has what is reserved,
 * `jobs/<STEWARD>/<job>/` what is known of a job. Several agents of one steward see each other's jobs there.
 */
import { setMaxListeners } from "node:events";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import type { Clock } from "../clock.ts";
import type { Environment } from "../config/env.ts";
import { AppError, toAppError, toFailure } from "../errors.ts";
import { hasEnded } from "./job-ending.ts";
import { checkJobSpec, isDnsLabel } from "./job-spec-check.ts";
import type { JobRunner, JobSpec, JobStatus, ListedJob, LogLine } from "./job-runner.ts";
import { JobFolder, listJobNames, removeUnfinished, type JobRecord } from "./local-folder.ts";
import { ProcessGuard } from "./local-guard.ts";
import { LocalJob, type LocalMachinery } from "./local-job.ts";
import { MemoryWatch } from "./local-memory.ts";
import { DEFAULT_PORT_RANGE, PortReservations, type PortRange } from "./local-ports.ts";
import { identityOf, isAlive, killProcesses } from "./local-processes.ts";

/** What a local job runner needs, and may be told. */
export interface LocalJobRunnerOptions {
  /** Shared by all agents of the exchange on this machine. Made when absent. */
  readonly stateFolder: string;
  readonly steward: string;
  readonly clock: Clock;
  /** The agent's own. Containers get {@link PASSED_ON} of it and nothing else: the rest may hold the agent's secrets. */
  readonly environment: Environment;
  /** Hears of what goes wrong where nobody waits, such as a log that cannot be kept. */
  readonly report: (error: AppError) => void;
  readonly portRange?: PortRange;
  /** How long an ended job that nobody stops stays to be looked at. Default 10 minutes. */
  readonly retentionMs?: number;
  /** How many of them stay at most; the oldest goes first. Default 200. */
  readonly maxEndedJobs?: number;
  /** Time between SIGTERM and SIGKILL for microservices when the sidecar is done. Default 2 s. */
  readonly stopGraceMs?: number;
  /** Default 1 MiB per container; half of it may be lost when it is reached. */
  readonly maxLogBytes?: number;
  /** Default 200 ms. */
  readonly memoryIntervalMs?: number;
}

/** What a container gets of its agent's environment: where programs are, and how time and text are written. */
export const PASSED_ON = ["PATH", "TZ", "LANG"] as const;

const DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin";
/** Between two looks at a job that another agent of this steward runs. */
const FOREIGN_POLL_MS = 100;

/**
 * Opens the runner. Jobs of an agent that died are ended: their processes are killed, and they are listed as failed.
 * Fails with `configuration_invalid` on Windows, which has no process groups.
 */
export async function openLocalJobRunner(options: LocalJobRunnerOptions): Promise<JobRunner> {
  if (process.platform === "win32") {
    throw new AppError(
      "configuration_invalid",
      "The local job runner needs Linux or macOS: Windows has no process groups.",
    );
  }
  const owner = await identityOf(process.pid);
  if (!owner) throw new AppError("internal", "This process does not find itself in the list of processes.");
  const stewardFolder = join(options.stateFolder, "jobs", options.steward);
  await mkdir(stewardFolder, { recursive: true, mode: 0o700 });
  await removeUnfinished(stewardFolder);
  const { clock, report } = options;
  const runner = new LocalJobRunner(options, stewardFolder, {
    clock,
    owner,
    report,
    ports: await PortReservations.open(
      join(options.stateFolder, "ports"),
      options.portRange ?? DEFAULT_PORT_RANGE,
      owner,
    ),
    guard: new ProcessGuard(report),
    memory: new MemoryWatch(clock, options.memoryIntervalMs ?? 200, report),
    baseEnvironment: passOn(options.environment),
    stopGraceMs: options.stopGraceMs ?? 2_000,
    maxLogBytes: options.maxLogBytes ?? 1024 * 1024,
  });
  // Ends what earlier agents left.
  await runner.list();
  return runner;
}

function passOn(environment: Environment): Record<string, string> {
  const passed: Record<string, string> = { PATH: DEFAULT_PATH };
  for (const name of PASSED_ON) {
    const value = environment[name];
    if (value !== undefined) passed[name] = value;
  }
  return passed;
}

/** A job that this runner started, and its life as a promise. */
interface OwnJob {
  readonly job: LocalJob;
  readonly finished: Promise<void>;
}

class LocalJobRunner implements JobRunner {
  readonly #steward: string;
  readonly #stewardFolder: string;
  readonly #machinery: LocalMachinery;
  readonly #retentionMs: number;
  readonly #maxEndedJobs: number;
  readonly #own = new Map<string, OwnJob>();
  /** Ended jobs that wait for their removal, oldest first. */
  readonly #ended = new Set<string>();
  readonly #closed = new AbortController();

  constructor(options: LocalJobRunnerOptions, stewardFolder: string, machinery: LocalMachinery) {
    this.#steward = options.steward;
    this.#stewardFolder = stewardFolder;
    this.#machinery = machinery;
    this.#retentionMs = options.retentionMs ?? 600_000;
    this.#maxEndedJobs = options.maxEndedJobs ?? 200;
    // Every ended job waits on it for its removal.
    setMaxListeners(0, this.#closed.signal);
  }

  async start(spec: JobSpec): Promise<void> {
    checkJobSpec(spec, this.#steward);
    for (const container of [...spec.microservices, spec.sidecar]) requireCommand(container.name, container.command);
    if (this.#closed.signal.aborted) throw new AppError("unavailable", "The job runner is closed.");
    if (this.#own.has(spec.name)) throw new AppError("already_exists", `There is a job ${spec.name} already.`);
    const job = new LocalJob(spec, this.#folder(spec.name), this.#machinery);
    const accepted = job.accept();
    const finished = accepted.then(
      () => this.#live(job),
      () => undefined, // Told below.
    );
    this.#own.set(spec.name, { job, finished });
    try {
      await accepted;
    } catch (error) {
      this.#own.delete(spec.name);
      throw error;
    }
  }

  async status(name: string): Promise<JobStatus | undefined> {
    const own = this.#own.get(name);
    return own ? own.job.status : (await this.#readForeign(name))?.status;
  }

  async *watch(name: string, signal?: AbortSignal): AsyncIterable<JobStatus> {
    const own = this.#own.get(name);
    if (own) yield* own.job.watch(signal);
    else yield* this.#watchForeign(name, signal);
  }

  async end(name: string): Promise<void> {
    const own = this.#own.get(name);
    if (own) {
      own.job.stop();
      await own.finished;
    } else if (isDnsLabel(name)) await this.#killForeign(name);
  }

  async stop(name: string): Promise<void> {
    const own = this.#own.get(name);
    if (own) {
      own.job.stop();
      await own.finished;
      // Otherwise somebody else stopped it too, and the name may be another job's by now.
      if (this.#own.get(name) === own) await this.#remove(name);
    } else if (isDnsLabel(name)) {
      await this.#killForeign(name);
      await this.#remove(name);
    }
  }

  async list(): Promise<readonly ListedJob[]> {
    const names = await listJobNames(this.#stewardFolder);
    const listed = await Promise.all(names.map((name) => this.#listed(name)));
    return listed.filter((job) => job !== undefined);
  }

  async logs(name: string, lines: number): Promise<readonly LogLine[]> {
    if (!isDnsLabel(name)) return [];
    const folder = this.#folder(name);
    return folder.logs((await folder.read())?.containers ?? [], lines);
  }

  async close(): Promise<void> {
    this.#closed.abort();
    await Promise.all([...this.#own.keys()].map((name) => this.stop(name)));
    await this.#machinery.guard.close();
    await this.#machinery.ports.close();
  }

  async #listed(name: string): Promise<ListedJob | undefined> {
    const own = this.#own.get(name);
    if (own) return { ...own.job.status, labels: own.job.spec.labels };
    const record = await this.#readForeign(name);
    return record && { ...record.status, labels: record.labels ?? {} };
  }

  async #live(job: LocalJob): Promise<void> {
    await job.run();
    this.#retire(job.spec.name, this.#retentionMs);
  }

  /** Removes an ended job when its time is over, or when there are too many. */
  #retire(name: string, afterMs: number): void {
    if (this.#ended.has(name) || this.#closed.signal.aborted) return;
    this.#ended.add(name);
    this.#machinery.clock.sleep(Math.max(0, afterMs), this.#closed.signal).then(
      () => this.#removeEnded(name),
      () => undefined, // Closed before.
    );
    const [oldest] = this.#ended;
    if (this.#ended.size > this.#maxEndedJobs && oldest !== undefined) this.#removeEnded(oldest);
  }

  #removeEnded(name: string): void {
    // Absent: stopped and removed, and the name may be somebody else's by now.
    if (!this.#ended.delete(name)) return;
    this.#remove(name).catch((error: unknown) => this.#machinery.report(toAppError(error)));
  }

  async #remove(name: string): Promise<void> {
    await this.#folder(name).remove();
    this.#ended.delete(name);
    this.#own.delete(name);
  }

  /** The record of a job of another agent of this steward. If that agent is dead, the job is ended first. */
  async #readForeign(name: string): Promise<JobRecord | undefined> {
    if (!isDnsLabel(name)) return undefined;
    const folder = this.#folder(name);
    const record = await folder.read();
    if (!record) return undefined;
    if (hasEnded(record.status.phase)) {
      const endedAtMs = record.endedAtMs ?? 0;
      if (!(await isAlive(record.owner)))
        this.#retire(name, endedAtMs + this.#retentionMs - this.#machinery.clock.now());
      return record;
    }
    if (await isAlive(record.owner)) return record;
    await killProcesses(folder.killTarget(record.processes), this.#machinery.clock);
    await folder.removeTemporary();
    const failed: JobRecord = {
      ...record,
      status: orphaned(name, this.#steward),
      endedAtMs: this.#machinery.clock.now(),
    };
    await folder.write(failed);
    this.#retire(name, this.#retentionMs);
    return failed;
  }

  async *#watchForeign(name: string, signal: AbortSignal | undefined): AsyncIterable<JobStatus> {
    let last: JobStatus | undefined;
    for (;;) {
      signal?.throwIfAborted();
      const status = (await this.#readForeign(name))?.status;
      if (status === undefined) {
        if (last === undefined) throw new AppError("not_found", `There is no job ${name}.`);
        yield { name, phase: "failed", failure: toFailure(new AppError("cancelled", "The job was removed.")) };
        return;
      }
      if (status.phase !== last?.phase) yield status;
      if (hasEnded(status.phase)) return;
      last = status;
      await this.#machinery.clock.sleep(FOREIGN_POLL_MS, signal);
    }
  }

  async #killForeign(name: string): Promise<void> {
    const folder = this.#folder(name);
    const record = await folder.read();
    if (record && !hasEnded(record.status.phase)) {
      await killProcesses(folder.killTarget(record.processes), this.#machinery.clock);
    }
  }

  #folder(name: string): JobFolder {
    return new JobFolder(this.#stewardFolder, name);
  }
}

function requireCommand(container: string, command: readonly string[] | undefined): void {
  if (command?.[0] !== undefined && command[0] !== "") return;
  throw new AppError("invalid_argument", `Container ${container} has no command, and local processes have no image.`);
}

function orphaned(name: string, steward: string): JobStatus {
  const error = new AppError("job_failed", "The agent that ran this job ended before it.", { party: steward });
  return { name, phase: "failed", failure: toFailure(error) };
}
