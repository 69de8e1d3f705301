/** What the API server says of chains' Jobs and pods, for tests of the pure parts of the runner. Recorded on Kubernetes 1.34. */
import { DEADLINE_ANNOTATION } from "../../lib/jobs/kubernetes-manifest.ts";
import { ENDING_ANNOTATION } from "../../lib/jobs/kubernetes-ending.ts";
import type {
  Condition,
  ContainerState,
  ContainerStatus,
  JobObject,
  Observation,
  PodObject,
} from "../../lib/jobs/kubernetes-objects.ts";

/** The time of all observations, and when their job was started. */
export const NOW_MS = Date.parse("2026-03-01T12:00:10Z");
export const STARTED_MS = NOW_MS - 10_000;
export const DEADLINE_MS = NOW_MS + 60_000;

/** A Job that nothing has ended. */
export function jobObject(
  changes: { readonly conditions?: readonly Condition[]; readonly ending?: string } = {},
): JobObject {
  return {
    metadata: {
      name: "run-1",
      uid: "job-uid",
      resourceVersion: "10",
      creationTimestamp: "2026-03-01T12:00:00Z",
      annotations: { [DEADLINE_ANNOTATION]: String(DEADLINE_MS), [ENDING_ANNOTATION]: changes.ending ?? "" },
    },
    spec: { template: { spec: { containers: [] } } },
    status: { conditions: changes.conditions ?? [] },
  };
}

/** A container's state in short: what it waits for, `running`, or how it ended. */
export type Short =
  | "running"
  | { readonly waits: string; readonly message?: string }
  | { readonly exit: number; readonly reason?: string; readonly at?: number }
  /** A sidecar whose launcher was started again after its program's exit. */
  | { readonly restartedAfter: number; readonly at?: number };

/** What a pod is made of. */
export interface PodChanges {
  readonly sidecar: Short;
  readonly microservices: Readonly<Record<string, Short>>;
  readonly phase?: string;
  readonly reason?: string;
  readonly message?: string;
  readonly conditions?: readonly Condition[];
  readonly deletedAt?: string;
}

/** A pod on a node; microservices have 160 MiB each. */
export function podObject(changes: PodChanges): PodObject {
  const { sidecar, microservices, phase = "Running", reason, message, conditions = [], deletedAt } = changes;
  const limits = { memory: String(160 * 2 ** 20) };
  return {
    metadata: {
      name: "run-1-abcde",
      uid: "pod-uid",
      resourceVersion: "11",
      ...(deletedAt === undefined ? {} : { deletionTimestamp: deletedAt }),
    },
    spec: {
      nodeName: "node1",
      initContainers: [{ name: "sidecar", resources: { limits } }],
      containers: Object.keys(microservices).map((name) => ({ name, resources: { limits } })),
    },
    status: {
      phase,
      ...(reason === undefined ? {} : { reason }),
      ...(message === undefined ? {} : { message }),
      conditions,
      initContainerStatuses: [statusOf("sidecar", sidecar)],
      containerStatuses: Object.entries(microservices).map(([name, short]) => statusOf(name, short)),
    },
  };
}

/** A Job and, if there is one, its pod. */
export function observation(pod?: PodObject, changes: Partial<Observation> = {}): Observation {
  return { job: jobObject(), isJobGone: false, isPodGone: false, ...(pod ? { pod } : {}), ...changes };
}

function statusOf(name: string, short: Short): ContainerStatus {
  if (short === "running") return { name, restartCount: 0, state: { running: {} } };
  if ("waits" in short) {
    const { waits: reason, message = "" } = short;
    return { name, restartCount: 0, state: { waiting: { reason, message } } };
  }
  if ("restartedAfter" in short) {
    const lastState = terminated(short.restartedAfter, "Completed", short.at);
    return { name, restartCount: 1, state: { running: {} }, lastState };
  }
  return { name, restartCount: 0, state: terminated(short.exit, short.reason, short.at) };
}

function terminated(exitCode: number, reason = exitCode === 0 ? "Completed" : "Error", at = 5): ContainerState {
  return { terminated: { exitCode, reason, finishedAt: `2026-03-01T12:00:0${String(at)}Z` } };
}
