/**
 * Where a job is, from what Kubernetes says of its Job and its pod. Pure; the one place that knows what Kubernetes' states
 * mean for a chain.
 *
 * ```text
 * starting ──► running ──► (ending) ──► ended
 * ```
 *
 * A job has a cause from the moment that something ended it, and has ended when nothing of it runs. The annotation on the Job
 * (`kubernetes-ending.ts`) comes first; without it, what is seen here is the first cause.
 */
import { endingOf, type Cause } from "./kubernetes-ending.ts";
import { DEADLINE_ANNOTATION } from "./kubernetes-manifest.ts";
import {
  allStatuses,
  trueCondition,
  type ContainerStatus,
  type JobObject,
  type Observation,
  type PodObject,
  type Terminated,
} from "./kubernetes-objects.ts";
import { podLoss, startFault } from "./kubernetes-faults.ts";
import { quantityOf } from "./kubernetes-quantity.ts";

/** What an observation means. */
export interface Decision {
  readonly phase: "starting" | "running" | "ending" | "ended";
  /** Whether all its containers have been started. */
  readonly hasRun: boolean;
  /** From `ending` on. */
  readonly cause?: Cause;
  /** Whether the cause stands on the Job. */
  readonly isMarked: boolean;
  /** Whether Kubernetes ends it without help: all that is left is to wait. */
  readonly endsByItself: boolean;
}

/** Limits that are the runner's own. */
export interface DecisionLimits {
  readonly nowMs: number;
  /** When its start began, by the same clock. */
  readonly startedMs: number;
  readonly startTimeoutMs: number;
}

/** See the file comment. */
export function decide(seen: Observation, limits: DecisionLimits): Decision {
  const marked = endingOf(seen.job.metadata.annotations);
  const cause = marked?.cause ?? causeOf(seen, limits);
  const isMarked = marked !== undefined;
  const isOver = !anythingRuns(seen, cause !== undefined, limits.nowMs);
  const hasRun = isRunning(seen);
  if (cause === undefined) return { phase: hasRun ? "running" : "starting", hasRun, isMarked, endsByItself: false };
  const endsByItself = isOver || isCompleting(seen, cause);
  return { phase: isOver ? "ended" : "ending", hasRun, cause, isMarked, endsByItself };
}

/** A job's deadline in milliseconds since the epoch, as it was started with. */
export function deadlineOf(job: JobObject): number {
  const deadlineMs = Number(job.metadata.annotations?.[DEADLINE_ANNOTATION]);
  return Number.isFinite(deadlineMs) && deadlineMs > 0 ? deadlineMs : Number.POSITIVE_INFINITY;
}

/** When it was made, in milliseconds since the epoch, by the API server's clock. */
export function createdAt(job: JobObject): number {
  return Date.parse(job.metadata.creationTimestamp ?? "") || 0;
}

function causeOf(seen: Observation, limits: DecisionLimits): Cause | undefined {
  const { job, pod } = seen;
  const exit = pod && exitCause(pod);
  // What is done is done, whatever became of the pod then.
  if (exit?.kind === "succeeded") return exit;
  const complete = trueCondition(job.status?.conditions, "Complete");
  if (complete && exit === undefined) return { kind: "succeeded" };
  if (seen.isJobGone || job.metadata.deletionTimestamp !== undefined) {
    return { kind: "lost", reason: "JobDeleted", message: "The chain's Job was deleted by somebody.", retryable: true };
  }
  const deadlineMs = deadlineOf(job);
  if (deadlineMs <= limits.nowMs) return { kind: "deadline", deadlineMs };
  const loss = pod && podLoss(pod, seen.isPodGone);
  if (loss) return pod.status?.reason === "DeadlineExceeded" ? { kind: "deadline", deadlineMs } : loss;
  if (exit) return exit;
  if (isRunning(seen)) return undefined;
  const fault = startFault(seen, limits.nowMs - limits.startedMs, limits.startTimeoutMs);
  if (fault) return fault;
  const failed = trueCondition(job.status?.conditions, "Failed");
  if (!failed || pod) return undefined;
  if (failed.reason === "DeadlineExceeded") return { kind: "deadline", deadlineMs };
  const message = `The chain's Job failed (${failed.reason ?? "no reason given"}), and its pod is gone.`;
  return { kind: "lost", reason: failed.reason ?? "JobFailed", message, retryable: true };
}

/** What the containers' exits mean: the sidecar's decides; a microservice may end early if its work is done. */
function exitCause(pod: PodObject): Cause | undefined {
  const sidecars = pod.status?.initContainerStatuses ?? [];
  const failing = [
    ...(pod.status?.containerStatuses ?? []).map((status) => ({ status, exit: status.state?.terminated })),
    ...sidecars.map((status) => ({ status, exit: firstExit(status) })),
  ].filter(({ exit }) => exit !== undefined && exit.exitCode !== 0);
  const isSidecarDone = sidecars.some((status) => firstExit(status)?.exitCode === 0);
  const first = failing.reduce<(typeof failing)[number] | undefined>((earliest, each) => {
    const isEarlier = (each.exit?.finishedAt ?? "") < (earliest?.exit?.finishedAt ?? "");
    return earliest === undefined || isEarlier ? each : earliest;
  }, undefined);
  if (first?.exit === undefined) return isSidecarDone ? { kind: "succeeded" } : undefined;
  // Microservices that are killed behind a sidecar that is done did not fail it.
  if (isSidecarDone && sidecarEndedBefore(sidecars, first.exit.finishedAt)) return { kind: "succeeded" };
  return causeOfExit(pod, first.status.name, first.exit);
}

function sidecarEndedBefore(sidecars: readonly ContainerStatus[], time: string | undefined): boolean {
  return sidecars.some((status) => {
    const exit = firstExit(status);
    return exit?.exitCode === 0 && (exit.finishedAt ?? "") < (time ?? "");
  });
}

function causeOfExit(pod: PodObject, container: string, { exitCode, reason, message }: Terminated): Cause {
  if (reason === "OOMKilled") return { kind: "memory", container, limitBytes: memoryLimitOf(pod, container) };
  if (reason === "StartError" || reason === "ContainerCannotRun") {
    const why = `Container ${container} could not be started: ${message ?? reason}`;
    return { kind: "startFailed", container, reason, message: why, retryable: false };
  }
  return { kind: "exited", container, exitCode };
}

/** The exit of a native sidecar's program: Kubernetes starts its launcher again, which then only waits. */
export function firstExit(status: ContainerStatus): Terminated | undefined {
  return status.restartCount > 0 ? status.lastState?.terminated : status.state?.terminated;
}

function memoryLimitOf(pod: PodObject, container: string): number {
  const spec = [...pod.spec.containers, ...(pod.spec.initContainers ?? [])].find(({ name }) => name === container);
  return quantityOf(spec?.resources?.limits?.["memory"] ?? "0");
}

/** Every container has been started, and what was started is no failure. */
function isRunning({ pod }: Observation): boolean {
  const statuses = pod ? allStatuses(pod) : [];
  const wanted = (pod?.spec.containers.length ?? 0) + (pod?.spec.initContainers?.length ?? 0);
  return (
    statuses.length === wanted &&
    statuses.length > 0 &&
    statuses.every(({ state, restartCount }) => state?.running ?? state?.terminated ?? restartCount > 0)
  );
}

/** After this time an unreachable node's pods count as dead: nobody can say more. */
const UNREACHABLE_MS = 30_000;

function anythingRuns({ job, isJobGone, pod, isPodGone }: Observation, hasCause: boolean, nowMs: number): boolean {
  if (pod && !isPodGone) {
    const phase = pod.status?.phase;
    if (phase !== "Succeeded" && phase !== "Failed") return !isUnreachable(pod, nowMs);
    const statuses = allStatuses(pod);
    return statuses.some(({ state }) => state?.running !== undefined);
  }
  if (isPodGone || isJobGone) return false;
  // No pod yet: only a Job that has ended makes none any more.
  const conditions = job.status?.conditions;
  const hasEnded = trueCondition(conditions, "Failed") ?? trueCondition(conditions, "Complete");
  return !hasCause || hasEnded === undefined;
}

function isUnreachable({ metadata }: PodObject, nowMs: number): boolean {
  // The deletion's time is when its grace is over.
  return metadata.deletionTimestamp !== undefined && nowMs - Date.parse(metadata.deletionTimestamp) > UNREACHABLE_MS;
}

/** The sidecar is done and so are all microservices: Kubernetes ends the sidecar, and completes the Job. */
function isCompleting({ pod }: Observation, cause: Cause): boolean {
  if (cause.kind !== "succeeded") return false;
  return (pod?.status?.containerStatuses ?? []).every(({ state }) => state?.terminated !== undefined);
}
