/** Ending jobs on Kubernetes: writing the first cause down, killing the pod but keeping it, removing the Job. */
import type { Clock } from "../clock.ts";
import { type AppError, toAppError } from "../errors.ts";
import { ApiRefusal, type KubernetesApi } from "./kubernetes-api.ts";
import { endingEvent } from "./kubernetes-events.ts";
import { ENDING_ANNOTATION, endingAnnotation, endingOf, type Cause } from "./kubernetes-ending.ts";
import { allStatuses, type JobObject } from "./kubernetes-objects.ts";
import type { JobEntry, JobStore } from "./kubernetes-store.ts";

/** What ending jobs works with. */
export interface EnderOptions {
  readonly api: KubernetesApi;
  readonly store: JobStore;
  readonly namespace: string;
  readonly clock: Clock;
  readonly report: (error: AppError) => void;
}

const ATTEMPTS = 5;
const FIRST_PAUSE_MS = 100;
/** Between SIGTERM and SIGKILL where a job is removed; the least that waits for the kubelet's word at all. */
const REMOVAL_GRACE_S = 1;
/** `/` in a JSON Pointer is `~1` (RFC 6901); this annotation's name has none. */
const ENDING_POINTER = `/metadata/annotations/${ENDING_ANNOTATION}`;

/** See the file comment. */
export class JobEnder {
  readonly #options: EnderOptions;
  readonly #telling = new Set<Promise<void>>();

  constructor(options: EnderOptions) {
    this.#options = options;
  }

  /** Writes the cause on the Job, unless somebody was faster: the first one counts. Of a job that is gone: nothing. */
  async mark(entry: JobEntry, cause: Cause): Promise<void> {
    const { store, clock } = this.#options;
    const nowMs = clock.now();
    const annotation = endingAnnotation(cause, nowMs)[ENDING_ANNOTATION];
    const patch = [
      { op: "test", path: "/metadata/uid", value: entry.uid },
      { op: "test", path: ENDING_POINTER, value: "" },
      { op: "replace", path: ENDING_POINTER, value: annotation },
      // Nothing is to be kept: the Job controller deletes its pod, and makes none.
      ...(hasBegun(entry) ? [] : [{ op: "add", path: "/spec/activeDeadlineSeconds", value: 0 }]),
    ];
    try {
      store.takeJob(await this.#patchJob(entry, patch, "application/json-patch+json"));
    } catch (error) {
      if (!(error instanceof ApiRefusal)) throw error;
      if (error.httpStatus === 404) return;
      if (error.httpStatus !== 422) throw error;
      await this.#readAgain(entry, error);
      return;
    }
    this.#tell(entry, cause, nowMs);
  }

  /** Has Kubernetes kill what runs; the pod stays, with states and logs. */
  async kill(entry: JobEntry): Promise<void> {
    const { pod } = entry.seen;
    if (pod === undefined || !hasBegun(entry)) {
      await this.#harmless(() => this.#patchJob(entry, { spec: { activeDeadlineSeconds: 0 } }));
      return;
    }
    // The kubelet ends a pod beyond its deadline as `Failed` at its next look, at most a second later.
    const body = { metadata: { uid: pod.metadata.uid }, spec: { activeDeadlineSeconds: 1 } };
    await this.#harmless(() => this.#call("PATCH", this.#podPath(pod.metadata.name), body));
  }

  /** Deletes the Job and its pod. */
  async remove(entry: JobEntry): Promise<void> {
    const { pod, isPodGone } = entry.seen;
    const preconditions = { uid: entry.uid };
    // In the foreground: when the Job is gone, its name is free and no pod of it is left.
    const job = { propagationPolicy: "Foreground", preconditions };
    await this.#harmless(() => this.#call("DELETE", this.#jobPath(entry.name), job));
    if (pod === undefined || isPodGone) return;
    const grace = { gracePeriodSeconds: REMOVAL_GRACE_S, preconditions: { uid: pod.metadata.uid } };
    await this.#harmless(() => this.#call("DELETE", this.#podPath(pod.metadata.name), grace));
  }

  /** Resolves when all that is to be told is told. */
  async close(): Promise<void> {
    await Promise.all(this.#telling);
  }

  /** Somebody else's cause stands there, or the name is another job's by now. */
  async #readAgain(entry: JobEntry, refused: ApiRefusal): Promise<void> {
    const { api, store } = this.#options;
    const job = await api.call<JobObject>({ method: "GET", path: this.#jobPath(entry.name) });
    store.takeJob(job);
    if (job.metadata.uid === entry.uid && endingOf(job.metadata.annotations) === undefined) throw refused;
  }

  /** Nobody waits for it but {@link JobEnder.close}, and the job's end does not depend on it. */
  #tell(entry: JobEntry, cause: Cause, nowMs: number): void {
    const { namespace, report } = this.#options;
    const body = endingEvent(entry.seen.job, namespace, cause, nowMs);
    const told = this.#harmless(() => this.#call("POST", `/api/v1/namespaces/${namespace}/events`, body))
      .catch((error: unknown) => report(toAppError(error)))
      .finally(() => this.#telling.delete(told));
    this.#telling.add(told);
  }

  #patchJob(entry: JobEntry, body: unknown, contentType?: string): Promise<JobObject> {
    return this.#call<JobObject>("PATCH", this.#jobPath(entry.name), body, contentType);
  }

  #jobPath(name: string): string {
    return `/apis/batch/v1/namespaces/${this.#options.namespace}/jobs/${name}`;
  }

  #podPath(name: string): string {
    return `/api/v1/namespaces/${this.#options.namespace}/pods/${name}`;
  }

  /** All of these may be made again. */
  async #call<Answer>(
    method: "PATCH" | "DELETE" | "POST",
    path: string,
    body: unknown,
    contentType?: string,
  ): Promise<Answer> {
    const { api, clock } = this.#options;
    for (let attempt = 1; ; attempt++) {
      try {
        return await api.call<Answer>({ method, path, body, ...(contentType === undefined ? {} : { contentType }) });
      } catch (error) {
        if (attempt === ATTEMPTS || toAppError(error).code !== "unavailable") throw error;
        await clock.sleep(FIRST_PAUSE_MS * 2 ** attempt * (0.5 + Math.random() / 2));
      }
    }
  }

  /** What is not there any more, or has another uid by now, needs nothing. */
  async #harmless(call: () => Promise<unknown>): Promise<void> {
    try {
      await call();
    } catch (error) {
      if (!(error instanceof ApiRefusal && [404, 409].includes(error.httpStatus))) throw error;
    }
  }
}

/**
 * Whether something of its pod runs, or is to be kept. Of one that waits for its volumes or its first image nothing is, and the
 * kubelet would not look at its deadline before it has got them.
 */
function hasBegun({ seen: { pod, isPodGone } }: JobEntry): boolean {
  if (pod === undefined || isPodGone) return false;
  return allStatuses(pod).some(
    ({ state, restartCount }) => restartCount > 0 || !!(state?.running ?? state?.terminated),
  );
}
