/**
 * Port 3: the job runner. Starts a chain as one short-lived job (one sidecar and the chain's microservices, together),
 * watches it, stops it, and leaves nothing behind.
 *
 * Its model is a Kubernetes Job with one pod, `backoffLimit: 0`: the runner never retries (decision 2); the agent does.
 * `test/contract/job-runner.contract.ts` checks each sentence below for every adapter.
 */
import type { Failure } from "../errors.ts";

/** One container (process) of a job. */
export interface ContainerSpec {
  /** Name within the job: the microservice's, or `sidecar`. DNS label. */
  readonly name: string;
  /** Program and arguments. On Kubernetes the image's entry point when absent. */
  readonly command?: readonly string[];
  readonly image?: string;
  /** Beyond what the runner itself adds. Never secrets. */
  readonly environment: Readonly<Record<string, string>>;
  /** Resident memory limit in bytes; beyond it the container is killed and the job fails with `memory_limit_exceeded`. */
  readonly memoryLimitBytes: number;
  /** What it may see beyond the stream, where containers see only what is mounted. Default nothing. */
  readonly needs?: readonly ContainerNeed[];
  /** Processors that are set aside for it, and its most, as Kubernetes writes them (`500m`, `2`). Runners without such limits ignore them. */
  readonly cpuRequest?: string;
  readonly cpuLimit?: string;
}

/** Something of the steward's: its data (with the worlds made of them), or the key of its pseudonyms. */
export type ContainerNeed = "data" | "anonymizationKey";

/** A job to start. */
export interface JobSpec {
  /** Unique: DNS label of at most 63 characters; the run's name. */
  readonly name: string;
  readonly steward: string;
  /** The chain in order. The runner gives them consecutive ports, and the chain environment of `lib/jobs/chain-environment.ts`. */
  readonly microservices: readonly ContainerSpec[];
  readonly sidecar: ContainerSpec;
  /** Absolute time (ms since the epoch) at which it is killed and fails with `deadline_exceeded`. */
  readonly deadlineMs: number;
  readonly labels: Readonly<Record<string, string>>;
  /** It serves others, too, and ends by itself: {@link JobRunner.close} leaves it, where jobs can outlive who started them. */
  readonly outlivesRunner?: boolean;
  /** Values of the contract's environment that the agent knows and the runner does not. */
  readonly chain: { readonly jobName: string; readonly role: string; readonly dataProviderCount: number };
}

/** Where a job is in its life; it only moves downwards in this list. */
export type JobPhase = "starting" | "running" | "succeeded" | "failed";

/** A job's state. */
export interface JobStatus {
  readonly name: string;
  readonly phase: JobPhase;
  /** Why it failed: code, the container in `details.container`, exit code or signal, last log lines. */
  readonly failure?: Failure;
}

/** A job in a list: its state (its failure may be without log lines), and the labels that it was started with. */
export interface ListedJob extends JobStatus {
  readonly labels: Readonly<Record<string, string>>;
}

/** One line that a container wrote. */
export interface LogLine {
  readonly container: string;
  readonly line: string;
}

/**
 * See the file comment. A job runs from the start of all its containers to the end of its sidecar, which ends last: when
 * that exits with 0 the job has succeeded, and microservices that still run are ended. A microservice may exit with 0
 * before; one that ends otherwise fails the job at once.
 */
export interface JobRunner {
  /**
   * Starts; resolves once it is accepted (not yet running). A name of a job that lives, or ended and is not removed:
   * `already_exists`. A specification that no runner could start: `invalid_argument`. A program or image that does not
   * exist: the job fails with `job_start_failed`, here or in `watch`. After `close`: `unavailable`.
   */
  start(spec: JobSpec): Promise<void>;
  /** State now, or undefined for a job that is unknown or removed. */
  status(name: string): Promise<JobStatus | undefined>;
  /**
   * States from now to the end (`succeeded` or `failed`), each once; ends after it. A job that is stopped meanwhile ends
   * as `failed` with `cancelled`. Unknown job: `not_found`. When `signal` is aborted it throws the signal's reason.
   */
  watch(name: string, signal?: AbortSignal): AsyncIterable<JobStatus>;
  /**
   * Kills whatever of it lives, also while it is starting; resolves when nothing of it runs. Its state and logs are kept for a
   * while, as of a job that ended by itself. Unknown: harmless.
   */
  end(name: string): Promise<void>;
  /** Kills whatever of it lives and removes it, also while it is starting; resolves when nothing of it runs. Unknown: harmless. */
  stop(name: string): Promise<void>;
  /**
   * All jobs of this runner's steward that are not removed, also those of an earlier life of this agent, in the order in which
   * they became known. A job that ended
   * is kept for a while, so that its state and logs can be read, and removed then.
   */
  list(): Promise<readonly ListedJob[]>;
  /** What its containers wrote last, up to `lines` each, in order per container. Unknown or removed: nothing. */
  logs(name: string, lines: number): Promise<readonly LogLine[]>;
  /** Stops every job that this runner started, and removes it; see {@link JobSpec.outlivesRunner}. */
  close(): Promise<void>;
}
