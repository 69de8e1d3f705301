/**
 * What a runner knows of its steward's jobs: what watches and its own calls tell, the newest of each object. Versions are
 * compared as numbers (KEP-5504).
 */
import { EventEmitter, once } from "node:events";
import {
  JOB_UID_LABEL,
  type EventObject,
  type JobObject,
  type KubernetesObject,
  type Observation,
  type PodObject,
  type Warning,
} from "./kubernetes-objects.ts";

/** Jobs and warnings whose objects are gone or not there yet, as many as are remembered. */
const REMEMBERED = 1_000;

/** One Job and its pod; outlives both for those who hold it. */
export class JobEntry {
  readonly name: string;
  readonly uid: string;
  #seen: Observation;
  #version = 0;
  readonly #changes = new EventEmitter();

  constructor(job: JobObject) {
    this.name = job.metadata.name;
    this.uid = job.metadata.uid;
    this.#seen = { job, isJobGone: false, isPodGone: false };
    this.#changes.setMaxListeners(0);
  }

  /** What is known now. */
  get seen(): Observation {
    return this.#seen;
  }

  /** Grows with every change. */
  get version(): number {
    return this.#version;
  }

  /** Takes something new, and tells those who wait. */
  update(change: Partial<Observation>): void {
    this.#seen = { ...this.#seen, ...change };
    this.wake();
  }

  /** Has everybody who waits look again. */
  wake(): void {
    this.#version++;
    this.#changes.emit("change");
  }

  /** Resolves when something has changed since `version`. Throws the signal's reason when it is aborted. */
  async changed(version: number, signal?: AbortSignal): Promise<void> {
    while (this.#version === version) {
      try {
        await once(this.#changes, "change", signal ? { signal } : {});
      } catch (error) {
        signal?.throwIfAborted();
        throw error;
      }
    }
  }
}

/** See the file comment. */
export class JobStore {
  readonly #byName = new Map<string, JobEntry>();
  /** Also those whose Job is gone, as long as their pod is not. */
  readonly #byUid = new Map<string, JobEntry>();
  /** Pods whose Job is not known yet, by its uid: watches tell in any order. */
  readonly #early = new Map<string, PodObject>();
  /** What was learned when, so that a list that was asked for before removes nothing. */
  readonly #learnedAt = new Map<string, number>();
  readonly #gone = new Map<string, true>();
  /** Warnings by the uid that they are about; they may come before what they are about. */
  readonly #warnings = new Map<string, Warning>();
  readonly #onChange: (entry: JobEntry) => void;
  #mark = 0;

  /** `onChange` hears of every change, before those who wait at the entry. */
  constructor(onChange: (entry: JobEntry) => void) {
    this.#onChange = onChange;
  }

  /** Grows with everything that is learned. */
  readonly mark = (): number => this.#mark;

  /** The job of this name that is not removed. */
  get(name: string): JobEntry | undefined {
    return this.#byName.get(name);
  }

  /** All of them, in the order in which they became known. */
  entries(): readonly JobEntry[] {
    return [...this.#byName.values()];
  }

  /** Takes a Job that a call answered with, or a watch told of. */
  takeJob(job: JobObject, isGone = false): JobEntry | undefined {
    const { name, uid } = job.metadata;
    if (this.#gone.has(uid)) return undefined;
    let entry = this.#byName.get(name);
    if (entry?.uid !== uid) {
      if (isGone) {
        remember(this.#gone, uid, true);
        return undefined;
      }
      // The old one of this name must be gone: names are unique.
      if (entry) this.#removeJob(entry, entry.seen.job);
      entry = this.#add(job);
    }
    this.#learned(uid);
    if (isGone) this.#removeJob(entry, job);
    else if (!isOlder(job, entry.seen.job)) this.#change(entry, { job, ...this.#warningOf("jobWarning", uid) });
    return entry;
  }

  /** Takes a pod. */
  takePod(pod: PodObject, isGone = false): void {
    const jobUid = pod.metadata.labels?.[JOB_UID_LABEL] ?? "";
    const entry = this.#byUid.get(jobUid);
    if (entry === undefined) {
      if (isGone || this.#gone.has(jobUid)) this.#early.delete(jobUid);
      else remember(this.#early, jobUid, pod);
      return;
    }
    const known = entry.seen.pod;
    if (known?.metadata.uid === pod.metadata.uid && isOlder(pod, known)) return;
    this.#learned(pod.metadata.uid);
    if (isGone && entry.seen.isJobGone) this.#forget(entry);
    this.#change(entry, { pod, isPodGone: isGone, ...this.#warningOf("podWarning", pod.metadata.uid) });
  }

  /** Takes a warning about a Job or a pod. */
  takeEvent({ type, reason, message, involvedObject }: EventObject, isGone = false): void {
    const { uid } = involvedObject;
    if (isGone || type !== "Warning" || uid === undefined) return;
    const warning = { reason: reason ?? "Warning", message: message ?? "" };
    remember(this.#warnings, uid, warning);
    for (const entry of this.#byName.values()) {
      if (entry.uid === uid) this.#change(entry, { jobWarning: warning });
      if (entry.seen.pod?.metadata.uid === uid) this.#change(entry, { podWarning: warning });
    }
  }

  /** Takes all Jobs that there were when they were asked for. */
  readonly takeJobs = (jobs: readonly JobObject[], askedAt: number): void => {
    const listed = new Set(jobs.map(({ metadata }) => metadata.uid));
    for (const entry of this.entries()) {
      if (!listed.has(entry.uid) && this.#isKnownSince(entry.uid, askedAt)) this.#removeJob(entry, entry.seen.job);
    }
    for (const job of jobs) this.takeJob(job);
  };

  /** Takes all pods that there were when they were asked for. */
  readonly takePods = (pods: readonly PodObject[], askedAt: number): void => {
    const listed = new Set(pods.map(({ metadata }) => metadata.uid));
    for (const entry of [...this.#byUid.values()]) {
      const uid = entry.seen.pod?.metadata.uid;
      if (uid === undefined || listed.has(uid) || !this.#isKnownSince(uid, askedAt)) continue;
      if (entry.seen.isJobGone) this.#forget(entry);
      this.#change(entry, { isPodGone: true });
    }
    for (const pod of pods) this.takePod(pod);
  };

  #add(job: JobObject): JobEntry {
    const entry = new JobEntry(job);
    this.#byName.set(entry.name, entry);
    this.#byUid.set(entry.uid, entry);
    const pod = this.#early.get(entry.uid);
    this.#early.delete(entry.uid);
    if (pod) this.takePod(pod);
    return entry;
  }

  #removeJob(entry: JobEntry, last: JobObject): void {
    remember(this.#gone, entry.uid, true);
    this.#byName.delete(entry.name);
    if (entry.seen.pod === undefined || entry.seen.isPodGone) this.#forget(entry);
    this.#change(entry, { job: last, isJobGone: true });
  }

  #forget(entry: JobEntry): void {
    this.#byUid.delete(entry.uid);
    this.#learnedAt.delete(entry.uid);
    this.#learnedAt.delete(entry.seen.pod?.metadata.uid ?? "");
  }

  #change(entry: JobEntry, change: Partial<Observation>): void {
    this.#mark++;
    entry.update(change);
    this.#onChange(entry);
  }

  #warningOf(kind: "jobWarning" | "podWarning", uid: string): Partial<Observation> {
    const warning = this.#warnings.get(uid);
    return warning ? { [kind]: warning } : {};
  }

  #learned(uid: string): void {
    this.#learnedAt.set(uid, ++this.#mark);
  }

  #isKnownSince(uid: string, askedAt: number): boolean {
    return (this.#learnedAt.get(uid) ?? 0) <= askedAt;
  }
}

function isOlder(one: KubernetesObject, other: KubernetesObject): boolean {
  const [a, b] = [one.metadata.resourceVersion, other.metadata.resourceVersion];
  return /^\d+$/.test(a) && /^\d+$/.test(b) && BigInt(a) < BigInt(b);
}

/** Adds to a map that forgets its oldest entries. */
function remember<Value>(map: Map<string, Value>, key: string, value: Value): void {
  map.delete(key);
  map.set(key, value);
  const [oldest] = map.keys();
  if (map.size > REMEMBERED && oldest !== undefined) map.delete(oldest);
}
