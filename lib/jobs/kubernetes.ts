/**
 * The job runner for Kubernetes: one Job with one pod per chain. `docs/decisions/0017` has the reasons.
 *
 * - `kubernetes-settings.ts`: the jobs file. `kubernetes-manifest.ts`: from a specification to a Job. `kubernetes-launcher.ts`:
 *   what keeps the native sidecar from running twice. `kubernetes-quantity.ts`: Kubernetes' numbers.
 * - `kubernetes-status.ts`: what a Job's and a pod's states mean; `kubernetes-faults.ts`: what keeps pods from starting, and takes
 *   them away; `kubernetes-ending.ts`: the first cause, as it is written down and told. All pure.
 * - `kubernetes-api.ts`: calls. `kubernetes-creation.ts`: making a Job, once. `kubernetes-reflector.ts`: watches that resume. `kubernetes-store.ts`: what is known.
 *   `kubernetes-objects.ts`: the objects' members that are read.
 * - `kubernetes-ender.ts`: ending jobs. `kubernetes-events.ts`: what operators see. `kubernetes-logs.ts`: containers' output.
 *
 * State is in Kubernetes alone: all runners of a steward see the same, and each ends what another that died has left. Whoever
 * sees a job's end writes its cause on the Job first; only then is it told.
 */
import { randomUUID } from "node:crypto";
import type { Clock } from "../clock.ts";
import { AppError, toAppError, toFailure, type Failure } from "../errors.ts";
import { FAILURE_LOG_LINES, hasEnded } from "./job-ending.ts";
import { checkJobSpec, isDnsLabel } from "./job-spec-check.ts";
import type { JobRunner, JobSpec, JobStatus, ListedJob, LogLine } from "./job-runner.ts";
import { KubernetesApi } from "./kubernetes-api.ts";
import { alreadyExists, controllerOf, postJob, readIfThere } from "./kubernetes-creation.ts";
import { JobEnder } from "./kubernetes-ender.ts";
import { containerOf, failureOfCause, type Cause } from "./kubernetes-ending.ts";
import { containerLog, podLogs } from "./kubernetes-logs.ts";
import {
  CHAIN_LABELS,
  LABELS_ANNOTATION,
  makeManifest,
  STEWARD_LABEL,
  type OwnerReference,
} from "./kubernetes-manifest.ts";
import type { EventObject, JobObject, PodObject } from "./kubernetes-objects.ts";
import { Reflector } from "./kubernetes-reflector.ts";
import type { KubernetesJobSettings } from "./kubernetes-settings.ts";
import { createdAt, deadlineOf, decide, type Decision } from "./kubernetes-status.ts";
import { JobStore, type JobEntry } from "./kubernetes-store.ts";

/** What the runner needs. */
export interface KubernetesJobRunnerOptions {
  readonly settings: KubernetesJobSettings;
  readonly steward: string;
  readonly clock: Clock;
  /** Hears of what goes wrong where nobody waits. */
  readonly report: (error: AppError) => void;
  /** The agent's own pod, whose controller owns the Jobs; absent outside a cluster. */
  readonly podName?: string;
  /** Absent: KUBECONFIG, or the pod's own service account. */
  readonly kubeconfig?: string;
}

/** Another runner's job is left to that runner for this long. */
const FOREIGN_MS = 3_000;
/** Beyond the containers' grace, the longest wait for Kubernetes to end or remove a pod. */
const ENDING_LIMIT_MS = 60_000;
/** Longest wait of a timer in Node: 24.8 days. */
const MAX_TIMER_MS = 2 ** 31 - 1;

/**
 * Opens the runner: lists what the steward's runners have started before, and watches it from then on.
 *
 * @throws AppError `configuration_invalid` without a cluster, `access_refused` where the agent's rights do not suffice,
 * `unavailable` when the API server does not answer.
 */
export async function openKubernetesJobRunner(options: KubernetesJobRunnerOptions): Promise<JobRunner> {
  const { kubeconfig, settings, podName } = options;
  const api = new KubernetesApi(kubeconfig === undefined ? {} : { kubeconfig });
  const namespace = settings.namespace ?? api.namespace;
  try {
    const owner = podName === undefined ? undefined : await controllerOf(api, namespace, podName);
    const runner = new KubernetesJobRunner({ ...options, api, namespace, ...(owner ? { owner } : {}) });
    await runner.open();
    return runner;
  } catch (error) {
    api.close();
    throw error;
  }
}

interface RunnerDependencies extends KubernetesJobRunnerOptions {
  readonly api: KubernetesApi;
  readonly namespace: string;
  readonly owner?: OwnerReference;
}

class KubernetesJobRunner implements JobRunner {
  readonly #dependencies: RunnerDependencies;
  readonly #store: JobStore;
  readonly #ender: JobEnder;
  readonly #reflectors: { close(): Promise<void> }[] = [];
  readonly #closed = new AbortController();
  /** Names whose Jobs are being made. */
  readonly #starting = new Map<string, Promise<void>>();
  /** Jobs that this runner started and that are not removed, and when it did. */
  readonly #own = new Map<JobEntry, number>();
  /** Of these, the names of those that outlive this runner. */
  readonly #outliving = new Set<string>();
  /** Jobs that are being looked after; they are looked at again when something changes. */
  readonly #attended = new Set<JobEntry>();
  readonly #killed = new WeakSet<JobEntry>();
  /** Causes that could not be written down: told nevertheless. */
  readonly #unmarkable = new WeakSet<JobEntry>();
  readonly #failures = new WeakMap<JobEntry, Promise<Failure>>();
  readonly #timers = new Map<JobEntry, { readonly atMs: number; readonly abort: AbortController }>();

  constructor(dependencies: RunnerDependencies) {
    this.#dependencies = dependencies;
    const { api, namespace, clock, report } = dependencies;
    this.#store = new JobStore((entry) => this.#onChange(entry));
    this.#ender = new JobEnder({ api, store: this.#store, namespace, clock, report });
  }

  /** Lists and watches. */
  async open(): Promise<void> {
    const { namespace, steward } = this.#dependencies;
    const store = this.#store;
    const labels = { ...CHAIN_LABELS, [STEWARD_LABEL]: steward };
    const labelSelector = Object.entries(labels)
      .map(([key, value]) => `${key}=${value}`)
      .join(",");
    try {
      await Promise.all([
        this.#watchAll<JobObject>(
          `/apis/batch/v1/namespaces/${namespace}/jobs`,
          { labelSelector },
          store.takeJobs,
          (job, isGone) => void store.takeJob(job, isGone),
        ),
        this.#watchAll<PodObject>(
          `/api/v1/namespaces/${namespace}/pods`,
          { labelSelector },
          store.takePods,
          (pod, isGone) => store.takePod(pod, isGone),
        ),
        this.#watchAll<EventObject>(
          `/api/v1/namespaces/${namespace}/events`,
          { fieldSelector: "type=Warning" },
          (events) => events.forEach((event) => store.takeEvent(event)),
          (event, isGone) => store.takeEvent(event, isGone),
        ),
      ]);
    } catch (error) {
      await Promise.all(this.#reflectors.map((reflector) => reflector.close()));
      throw error;
    }
  }

  async start(spec: JobSpec): Promise<void> {
    checkJobSpec(spec, this.#dependencies.steward);
    if (!spec.sidecar.command?.[0]) {
      throw new AppError("invalid_argument", "The sidecar has no command, and its launcher needs one.");
    }
    if (this.#closed.signal.aborted) throw new AppError("unavailable", "The job runner is closed.");
    if (this.#starting.has(spec.name)) throw alreadyExists(spec.name);
    if (spec.outlivesRunner === true) this.#outliving.add(spec.name);
    const starting = this.#create(spec);
    this.#starting.set(
      spec.name,
      starting.catch(() => undefined), // Told to the caller.
    );
    try {
      await starting;
    } finally {
      this.#starting.delete(spec.name);
    }
  }

  async status(name: string): Promise<JobStatus | undefined> {
    const entry = await this.#find(name);
    return entry && this.#statusOf(entry);
  }

  async *watch(name: string, signal?: AbortSignal): AsyncIterable<JobStatus> {
    const entry = await this.#find(name);
    if (entry === undefined) throw new AppError("not_found", `There is no job ${name}.`);
    let last: JobStatus | undefined;
    for (;;) {
      signal?.throwIfAborted();
      const { version } = entry;
      const status = await this.#statusOf(entry);
      if (status.phase !== last?.phase) yield status;
      if (hasEnded(status.phase)) return;
      last = status;
      await entry.changed(version, signal);
    }
  }

  async end(name: string): Promise<void> {
    const entry = await this.#find(name);
    if (entry === undefined) return;
    if (this.#decide(entry).cause === undefined) await this.#ender.mark(entry, { kind: "stopped" });
    await this.#attend(entry, 0);
    await this.#until(entry, () => this.#decide(entry).phase === "ended");
  }

  async stop(name: string): Promise<void> {
    const entry = await this.#find(name);
    if (entry === undefined) return;
    if (this.#decide(entry).cause === undefined) await this.#ender.mark(entry, { kind: "stopped" });
    await this.#ender.remove(entry);
    await this.#until(entry, ({ isJobGone, isPodGone, pod }) => isJobGone && (isPodGone || pod === undefined));
    this.#own.delete(entry);
  }

  async list(): Promise<readonly ListedJob[]> {
    return this.#store.entries().map((entry) => {
      const { phase, cause } = this.#told(entry);
      const failure = cause && failureOfCause(cause, [])?.withParty(this.#dependencies.steward);
      const labels = labelsOf(entry.seen.job);
      return { name: entry.name, phase, ...(failure ? { failure: toFailure(failure) } : {}), labels };
    });
  }

  async logs(name: string, lines: number): Promise<readonly LogLine[]> {
    const entry = await this.#find(name);
    const { pod, isPodGone = true } = entry?.seen ?? {};
    return pod === undefined || isPodGone ? [] : podLogs(this.#dependencies.api, pod, lines);
  }

  async close(): Promise<void> {
    this.#closed.abort();
    await Promise.all(this.#starting.values());
    try {
      const own = [...this.#own.keys()].filter(({ name }) => !this.#outliving.has(name));
      await Promise.all(own.map(({ name }) => this.stop(name)));
    } finally {
      await Promise.all(this.#reflectors.map((reflector) => reflector.close()));
      for (const { abort } of this.#timers.values()) abort.abort();
      await this.#ender.close();
      this.#dependencies.api.close();
    }
  }

  async #watchAll<Item extends JobObject | PodObject | EventObject>(
    path: string,
    selector: Readonly<Record<string, string>>,
    onList: (items: readonly Item[], askedAt: number) => void,
    onChange: (item: Item, isGone: boolean) => void,
  ): Promise<void> {
    const { api, clock, report } = this.#dependencies;
    const { mark } = this.#store;
    this.#reflectors.push(await Reflector.open({ api, path, selector, clock, report, onList, onChange, mark }));
  }

  async #create(spec: JobSpec): Promise<void> {
    const { api, namespace, settings, clock, owner } = this.#dependencies;
    const nowMs = clock.now();
    const ending: Cause | undefined =
      spec.deadlineMs <= nowMs ? { kind: "deadline", deadlineMs: spec.deadlineMs } : undefined;
    const startId = randomUUID();
    const manifest = makeManifest({
      spec,
      settings,
      nowMs,
      startId,
      ...(owner ? { owner } : {}),
      ...(ending ? { ending } : {}),
    });
    const entry = this.#store.takeJob(await postJob({ api, namespace, clock }, { name: spec.name, startId, manifest }));
    if (entry) this.#own.set(entry, nowMs);
    if (entry) this.#onChange(entry);
  }

  /** The job of this name, also one that another runner has made since the last change was heard of. */
  async #find(name: string): Promise<JobEntry | undefined> {
    if (!isDnsLabel(name)) return undefined;
    await this.#starting.get(name);
    const known = this.#store.get(name);
    if (known) return known;
    const { api, namespace, steward } = this.#dependencies;
    const job = await readIfThere<JobObject>(api, `/apis/batch/v1/namespaces/${namespace}/jobs/${name}`);
    const labels = job?.metadata.labels ?? {};
    const isOurs = Object.entries({ ...CHAIN_LABELS, [STEWARD_LABEL]: steward }).every(([k, v]) => labels[k] === v);
    return job && isOurs ? this.#store.takeJob(job) : undefined;
  }

  #decide(entry: JobEntry): Decision {
    const { clock, settings } = this.#dependencies;
    return decide(entry.seen, {
      nowMs: clock.now(),
      startedMs: this.#own.get(entry) ?? createdAt(entry.seen.job),
      startTimeoutMs: settings.startTimeoutMs,
    });
  }

  /** What may be told of a job: an end only when nothing of it runs, and its cause is written down. */
  #told(entry: JobEntry): { readonly phase: JobStatus["phase"]; readonly cause?: Cause } {
    const decision = this.#decide(entry);
    const { cause } = decision;
    if (decision.phase === "ended" && cause && !this.#needsMark(entry, decision)) {
      return { phase: cause.kind === "succeeded" ? "succeeded" : "failed", cause };
    }
    return { phase: decision.hasRun ? "running" : "starting" };
  }

  async #statusOf(entry: JobEntry): Promise<JobStatus> {
    const { phase, cause } = this.#told(entry);
    const isFailed = cause !== undefined && cause.kind !== "succeeded";
    return { name: entry.name, phase, ...(isFailed ? { failure: await this.#failureOf(entry, cause) } : {}) };
  }

  #failureOf(entry: JobEntry, cause: Cause): Promise<Failure> {
    const known = this.#failures.get(entry);
    if (known) return known;
    const failure = this.#makeFailure(entry, cause);
    this.#failures.set(entry, failure);
    return failure;
  }

  async #makeFailure(entry: JobEntry, cause: Cause): Promise<Failure> {
    const { api, steward, report } = this.#dependencies;
    const container = containerOf(cause);
    const { pod, isPodGone } = entry.seen;
    let lines: readonly string[] = [];
    if (cause.kind === "exited" && container !== undefined && pod && !isPodGone) {
      try {
        lines = await containerLog(api, pod, container, FAILURE_LOG_LINES);
      } catch (error) {
        // The failure is told without them.
        report(toAppError(error));
      }
    }
    const error = failureOfCause(cause, lines) ?? new AppError("internal", "A success is no failure.");
    return toFailure(error.withParty(steward));
  }

  #onChange(entry: JobEntry): void {
    if (entry.seen.isJobGone) {
      this.#own.delete(entry);
      this.#setTimer(entry, undefined);
      return;
    }
    if (!this.#attended.has(entry)) {
      this.#attend(entry, this.#own.has(entry) ? 0 : FOREIGN_MS).catch((error: unknown) =>
        this.#dependencies.report(toAppError(error)),
      );
    }
  }

  /** Does for a job what is to be done, and sets the clock for its next limit. Its own runner has some time ahead of others. */
  async #attend(entry: JobEntry, delayMs: number): Promise<void> {
    const { clock } = this.#dependencies;
    if (!this.#needsHelp(entry)) return this.#setTimer(entry, this.#nextLimit(entry));
    this.#attended.add(entry);
    try {
      if (delayMs > 0) await clock.sleep(delayMs, this.#closed.signal);
      // Marked, then killed: each step shows in what is seen next.
      for (let step = 0; step < 3 && this.#needsHelp(entry); step++) await this.#help(entry);
    } catch (error) {
      if (this.#closed.signal.aborted) return;
      this.#setTimer(entry, clock.now() + FAILED_LOOK_MS);
      throw error;
    } finally {
      this.#attended.delete(entry);
    }
  }

  async #help(entry: JobEntry): Promise<void> {
    const decision = this.#decide(entry);
    const { cause } = decision;
    if (cause === undefined) return;
    if (this.#needsMark(entry, decision)) {
      // Before the pod is killed: then the log of a sidecar that was started again is lost.
      if (cause.kind === "exited") await this.#failureOf(entry, cause);
      try {
        await this.#ender.mark(entry, cause);
      } catch (error) {
        this.#unmarkable.add(entry);
        entry.wake();
        throw error;
      }
    }
    if (this.#needsKill(entry, this.#decide(entry))) {
      this.#killed.add(entry);
      try {
        await this.#ender.kill(entry);
      } catch (error) {
        // The next look tries again.
        this.#killed.delete(entry);
        throw error;
      }
    }
  }

  #needsHelp(entry: JobEntry): boolean {
    const decision = this.#decide(entry);
    return this.#needsMark(entry, decision) || this.#needsKill(entry, decision);
  }

  #needsMark(entry: JobEntry, { cause, isMarked, endsByItself }: Decision): boolean {
    if (cause === undefined || isMarked || entry.seen.isJobGone || this.#unmarkable.has(entry)) return false;
    return cause.kind !== "succeeded" || !endsByItself;
  }

  #needsKill(entry: JobEntry, { phase, endsByItself }: Decision): boolean {
    return phase === "ending" && !endsByItself && !entry.seen.isJobGone && !this.#killed.has(entry);
  }

  /** When something is due for a job without anything being told of it. */
  #nextLimit(entry: JobEntry): number | undefined {
    const { phase, hasRun } = this.#decide(entry);
    if (phase === "ended") return undefined;
    const { clock } = this.#dependencies;
    const { job, pod } = entry.seen;
    const deletion = pod?.metadata.deletionTimestamp;
    const nowMs = clock.now();
    const limits = [
      deadlineOf(job),
      // What keeps it from starting has limits of its own.
      ...(hasRun ? [] : [nowMs + START_LOOK_MS]),
      ...(deletion === undefined ? [] : [Date.parse(deletion) + UNREACHABLE_LOOK_MS]),
    ];
    // What is past has been dealt with, or waits for Kubernetes.
    const due = limits.filter((limit) => limit > nowMs);
    return due.length === 0 ? undefined : Math.min(...due);
  }

  #setTimer(entry: JobEntry, atMs: number | undefined): void {
    const { clock } = this.#dependencies;
    const set = this.#timers.get(entry);
    if (set?.atMs === atMs) return;
    set?.abort.abort();
    this.#timers.delete(entry);
    if (atMs === undefined || this.#closed.signal.aborted) return;
    const leftMs = atMs - clock.now();
    const abort = new AbortController();
    this.#timers.set(entry, { atMs, abort });
    clock.sleep(Math.min(leftMs + 1, MAX_TIMER_MS), abort.signal).then(
      () => {
        this.#timers.delete(entry);
        entry.wake();
        this.#onChange(entry);
      },
      () => undefined, // Set anew, or closed.
    );
  }

  /** Waits for what Kubernetes does. */
  async #until(entry: JobEntry, isSo: (seen: JobEntry["seen"]) => boolean): Promise<void> {
    const limitMs = this.#dependencies.settings.stopGraceSeconds * 1000 + ENDING_LIMIT_MS;
    const limit = AbortSignal.timeout(limitMs);
    for (;;) {
      const { version } = entry;
      if (isSo(entry.seen)) return;
      try {
        await entry.changed(version, limit);
      } catch (cause) {
        const message = `Kubernetes did not end job ${entry.name} within ${String(limitMs)} ms; see its pod's node.`;
        throw new AppError("unavailable", message, { cause });
      }
    }
  }
}

/** After a step that Kubernetes refused or did not answer. */
const FAILED_LOOK_MS = 5_000;
/** Between two looks at a job that has not started. */
const START_LOOK_MS = 1_000;
/** A pod whose node does not answer counts as dead then; see `kubernetes-status.ts`. */
const UNREACHABLE_LOOK_MS = 31_000;

function labelsOf(job: JobObject): Readonly<Record<string, string>> {
  const text = job.metadata.annotations?.[LABELS_ANNOTATION];
  if (text === undefined) return job.metadata.labels ?? {};
  try {
    return JSON.parse(text) as Record<string, string>;
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    return job.metadata.labels ?? {};
  }
}
