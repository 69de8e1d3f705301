/** What keeps a pod from starting, and what takes it away, in words that say what to do about it. Pure. */
import type { Cause } from "./kubernetes-ending.ts";
import { allStatuses, trueCondition, type Observation, type PodObject } from "./kubernetes-objects.ts";

/** Waiting for these helps nobody. */
const HOPELESS = new Set([
  "InvalidImageName",
  "ErrImageNeverPull",
  "CreateContainerConfigError",
  "CreateContainerError",
  "RunContainerError",
]);
const PULLING = new Set(["ErrImagePull", "ImagePullBackOff", "RegistryUnavailable", "SignatureValidationFailed"]);
/** The kubelet has not heard of a Secret or ConfigMap yet, or waits for its runtime. */
const PASSING = /timed out|timeout|failed to sync|deadline exceeded/i;
/** What registries say of an image that is not there, or not for us. */
const IMAGE_MISSING = /not found|does not exist|manifest unknown|unauthorized|denied|forbidden|no such (image|host)/i;
/** How long a chain waits for others to make room in its namespace. The Job controller asks again after 1, 2, 4 … seconds. */
const QUOTA_PATIENCE_MS = 10_000;
/** How long a registry may fail to answer. A pull that is under way has until the start's limit. */
const PULL_PATIENCE_MS = 20_000;
/** Refusals of the API server that no waiting changes. */
const REFUSED_FOR_GOOD = /PodSecurity|violates|is invalid|not allowed|denied the request/i;

/**
 * What keeps a job from starting, if it is known to be without hope or if its time is over; undefined: it may still start.
 */
export function startFault(seen: Observation, waitedMs: number, startTimeoutMs: number): Cause | undefined {
  const known = hopelessWaiting(seen, waitedMs) ?? refusedPod(seen) ?? fullNamespace(seen, waitedMs);
  if (known) return known;
  if (waitedMs < startTimeoutMs) return undefined;
  const { reason, message, container } = likeliestReason(seen);
  const limit = `The chain did not start within ${String(startTimeoutMs)} ms (startTimeoutMs of the job settings)`;
  return {
    kind: "startFailed",
    ...(container === undefined ? {} : { container }),
    reason,
    message: `${limit}: ${message}`,
    retryable: true,
  };
}

/** What took a pod away: a loss of its node, an eviction, its deletion. `DeadlineExceeded` is told as a loss, too. */
export function podLoss(pod: PodObject, isGone: boolean): Extract<Cause, { kind: "lost" }> | undefined {
  const { status, metadata } = pod;
  const reason = status?.reason;
  const words = status?.message === undefined ? "" : `: ${status.message}`;
  if (reason === "Evicted") {
    const isOwnFault = /emptyDir|ephemeral/i.test(words) && /exceeds/i.test(words);
    const fix = isOwnFault ? " Its scratch space is limited by scratch in the job settings, or by a LimitRange." : "";
    return lost("Evicted", `The chain's pod was evicted from its node${words}.${fix}`, !isOwnFault);
  }
  const disruption = trueCondition(status?.conditions, "DisruptionTarget");
  if (disruption && status?.phase !== "Succeeded") {
    const why = disruption.reason ?? "DisruptionTarget";
    const said = disruption.message === undefined ? "" : `: ${disruption.message}`;
    return lost(why, `The chain's pod was taken off its node (${why}${said}).`, true);
  }
  if (status?.phase === "Failed" && reason !== undefined) {
    return lost(reason, `The chain's pod failed (${reason})${words}.`, true);
  }
  if (isGone || metadata.deletionTimestamp !== undefined) {
    return lost("PodDeleted", "The chain's pod was deleted by somebody.", true);
  }
  return undefined;
}

function lost(reason: string, message: string, retryable: boolean): Extract<Cause, { kind: "lost" }> {
  return { kind: "lost", reason, message, retryable };
}

interface WaitingContainer {
  readonly container: string;
  readonly reason: string;
  readonly message: string;
}

function waitingContainers({ pod }: Observation): readonly WaitingContainer[] {
  const statuses = pod ? allStatuses(pod) : [];
  return statuses.flatMap(({ name, state }): WaitingContainer[] => {
    const { reason, message = "" } = state?.waiting ?? {};
    return reason === undefined || reason === "PodInitializing" || reason === "ContainerCreating"
      ? []
      : [{ container: name, reason, message }];
  });
}

function hopelessWaiting(seen: Observation, waitedMs: number): Cause | undefined {
  for (const { container, reason, message } of waitingContainers(seen)) {
    const isMissing = PULLING.has(reason) && IMAGE_MISSING.test(message);
    const isOutOfReach = PULLING.has(reason) && waitedMs >= PULL_PATIENCE_MS;
    const isHopeless = isMissing || (HOPELESS.has(reason) && !PASSING.test(message));
    if (!isHopeless && !isOutOfReach) continue;
    const what = PULLING.has(reason) ? "its image cannot be had" : "it cannot be started";
    const said = `Container ${container}: ${what} (${reason}): ${message}`;
    return { kind: "startFailed", container, reason, message: said, retryable: !isHopeless };
  }
  return undefined;
}

function refusedPod({ jobWarning, pod }: Observation): Cause | undefined {
  if (pod || jobWarning?.reason !== "FailedCreate" || !REFUSED_FOR_GOOD.test(jobWarning.message)) return undefined;
  const message = `The cluster refuses the chain's pod: ${jobWarning.message}`;
  return { kind: "startFailed", reason: jobWarning.reason, message, retryable: false };
}

/** Other chains may make room, if they end soon. */
function fullNamespace({ jobWarning, pod }: Observation, waitedMs: number): Cause | undefined {
  if (pod || jobWarning?.reason !== "FailedCreate" || !/exceeded quota/i.test(jobWarning.message)) return undefined;
  if (waitedMs < QUOTA_PATIENCE_MS) return undefined;
  const message = `The namespace's quota leaves no room for the chain's pod: ${jobWarning.message}`;
  return { kind: "startFailed", reason: "QuotaExceeded", message, retryable: true };
}

/** What most likely kept it from starting, in Kubernetes' words. */
function likeliestReason(seen: Observation): {
  readonly reason: string;
  readonly message: string;
  readonly container?: string;
} {
  const { pod, jobWarning, podWarning } = seen;
  if (pod === undefined) {
    if (jobWarning) return { reason: jobWarning.reason, message: `its pod cannot be made: ${jobWarning.message}` };
    return { reason: "NoPod", message: "its Job has no pod yet; see that the cluster's Job controller works." };
  }
  const unscheduled = pod.status?.conditions?.find(({ type, status }) => type === "PodScheduled" && status === "False");
  if (unscheduled) {
    const reason = unscheduled.reason ?? "Unschedulable";
    return { reason, message: `no node takes its pod: ${unscheduled.message ?? reason}` };
  }
  const [waiting] = waitingContainers(seen);
  if (waiting) {
    const { container, reason, message } = waiting;
    return { reason, container, message: `container ${container} waits (${reason}): ${message}` };
  }
  if (podWarning) return { reason: podWarning.reason, message: `${podWarning.reason}: ${podWarning.message}` };
  return { reason: "Slow", message: "its containers are still being made." };
}
