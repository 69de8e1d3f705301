import assert from "node:assert/strict";
import { describe, test } from "node:test";
import {
  endingAnnotation,
  ENDING_ANNOTATION,
  failureOfCause,
  type Cause,
} from "../../../lib/jobs/kubernetes-ending.ts";
import type { Observation } from "../../../lib/jobs/kubernetes-objects.ts";
import { decide, type Decision } from "../../../lib/jobs/kubernetes-status.ts";
import {
  DEADLINE_MS,
  jobObject,
  NOW_MS,
  observation,
  podObject,
  STARTED_MS,
  type PodChanges,
} from "../../support/kubernetes-observations.ts";

const START_TIMEOUT_MS = 60_000;

function decided(seen: Observation, nowMs = NOW_MS): Decision {
  return decide(seen, { nowMs, startedMs: STARTED_MS, startTimeoutMs: START_TIMEOUT_MS });
}

function ofPod(changes: PodChanges, nowMs?: number): Decision {
  return decided(observation(podObject(changes)), nowMs);
}

/** Past what a start may take, before the deadline. */
const LATE_MS = STARTED_MS + START_TIMEOUT_MS;
const RUNNING: PodChanges = { sidecar: "running", microservices: { query: "running", graph: "running" } };

describe("a job is", () => {
  test("starting without a pod, and with containers that wait", () => {
    assert.equal(decided(observation()).phase, "starting");
    const waiting = { waits: "PodInitializing" };
    const { phase, cause } = ofPod({ phase: "Pending", sidecar: "running", microservices: { query: waiting } });
    assert.deepEqual([phase, cause], ["starting", undefined]);
  });

  test("running when all containers have been started, also if one is done already", () => {
    assert.equal(ofPod(RUNNING).phase, "running");
    assert.equal(ofPod({ ...RUNNING, microservices: { query: { exit: 0 }, graph: "running" } }).phase, "running");
  });

  test("succeeded when its sidecar's program ended with 0; microservices that still run are to be ended", () => {
    const { phase, cause, endsByItself } = ofPod({ ...RUNNING, sidecar: { restartedAfter: 0 } });
    assert.deepEqual([phase, cause?.kind, endsByItself], ["ending", "succeeded", false]);
  });

  test("left to Kubernetes when its sidecar and all microservices are done", () => {
    const done = { query: { exit: 0 }, graph: { exit: 0 } };
    assert.equal(ofPod({ sidecar: { restartedAfter: 0 }, microservices: done }).endsByItself, true);
    const { phase, cause } = ofPod({ phase: "Succeeded", sidecar: { exit: 0 }, microservices: done });
    assert.deepEqual([phase, cause?.kind], ["ended", "succeeded"]);
  });

  test("failed where the sidecar failed, though Kubernetes calls the pod succeeded", () => {
    const { cause } = ofPod({ phase: "Succeeded", sidecar: { exit: 1 }, microservices: { query: { exit: 0 } } });
    assert.deepEqual(cause, { kind: "exited", container: "sidecar", exitCode: 1 });
  });

  test("succeeded although microservices were killed behind the sidecar", () => {
    const killed = { exit: 137, at: 8 };
    const { cause } = ofPod({ phase: "Failed", sidecar: { exit: 0, at: 5 }, microservices: { query: killed } });
    assert.equal(cause?.kind, "succeeded");
  });

  test("ended only when nothing of it runs", () => {
    const failing = { query: { exit: 3 }, graph: "running" } as const;
    assert.equal(ofPod({ ...RUNNING, microservices: failing }).phase, "ending");
    const dead = { query: { exit: 3 }, graph: { exit: 137, at: 7 } };
    const ended = ofPod({ phase: "Failed", sidecar: { exit: 143, at: 7 }, microservices: dead });
    assert.deepEqual([ended.phase, ended.cause], ["ended", { kind: "exited", container: "query", exitCode: 3 }]);
  });

  test("ended without a pod only when its Job makes none any more", () => {
    const ending = JSON.stringify({ cause: { kind: "stopped" }, atMs: 1 });
    assert.equal(decided(observation(undefined, { job: jobObject({ ending }) })).phase, "ending");
    const conditions = [{ type: "Failed", status: "True", reason: "DeadlineExceeded" }];
    assert.equal(decided(observation(undefined, { job: jobObject({ ending, conditions }) })).phase, "ended");
  });

  test("ended when its node has been silent for half a minute after its deletion", () => {
    const deleted = { ...RUNNING, deletedAt: "2026-03-01T12:00:05Z" };
    assert.equal(ofPod(deleted).phase, "ending");
    assert.equal(ofPod(deleted, NOW_MS + 30_000).phase, "ended");
  });
});

describe("the first cause", () => {
  test("is what stands on the Job, whatever its pod says by now", () => {
    const cause: Cause = { kind: "exited", container: "query", exitCode: 3 };
    const job = jobObject({ ending: endingAnnotation(cause, 1)[ENDING_ANNOTATION] ?? "" });
    const killed = podObject({ ...RUNNING, phase: "Failed", reason: "DeadlineExceeded", sidecar: { exit: 143 } });
    const seen = decided(observation(killed, { job }));
    assert.deepEqual([seen.cause, seen.isMarked], [cause, true]);
  });

  test("is the exit that came first", () => {
    const microservices = { query: { exit: 1, at: 7 }, graph: { exit: 9, at: 6 } };
    const { cause } = ofPod({ sidecar: "running", microservices });
    assert.deepEqual(cause, { kind: "exited", container: "graph", exitCode: 9 });
  });

  test("can be read although somebody spoilt its annotation", () => {
    for (const ending of ["{", "{}", '{"cause":{"kind":"odd"},"atMs":1}']) {
      const { cause } = decided(observation(undefined, { job: jobObject({ ending }) }));
      assert.equal(cause?.kind, "lost");
    }
  });

  test("is the deadline from that very moment on, even where nothing has started", () => {
    assert.deepEqual(decided(observation(), DEADLINE_MS).cause, { kind: "deadline", deadlineMs: DEADLINE_MS });
    assert.equal(ofPod(RUNNING, DEADLINE_MS - 1).cause, undefined);
  });

  test("is the memory limit where the kernel killed a container for it", () => {
    const microservices = { query: { exit: 137, reason: "OOMKilled" }, graph: "running" } as const;
    const { cause } = ofPod({ sidecar: "running", microservices });
    assert.deepEqual(cause, { kind: "memory", container: "query", limitBytes: 160 * 2 ** 20 });
    assert.match(failureOfCause(cause, [])?.message ?? "", /query .* 160 MiB.*resources\.memoryLimitMiB/);
  });
});

/** Waiting containers, and whether they end a job at once, with a retry that may help. */
const WAITING: readonly (readonly [waits: string, message: string, outcome: "at once" | "late"])[] = [
  ["InvalidImageName", "couldn't parse image name", "at once"],
  ["ErrImageNeverPull", "is not present with pull policy of Never", "at once"],
  ["ErrImagePull", "docker.io/library/nowhere:1: not found", "at once"],
  ["ImagePullBackOff", "Back-off pulling image: ErrImagePull: pull access denied", "at once"],
  ["ErrImagePull", "dial tcp 10.0.0.1:443: connect: connection refused", "late"],
  ["ImagePullBackOff", "Back-off pulling image: i/o timeout", "late"],
  ["CreateContainerConfigError", 'secret "vu-keys" not found', "at once"],
  ["CreateContainerConfigError", "failed to sync secret cache: timed out waiting for the condition", "late"],
  ["RunContainerError", "failed to create containerd task", "at once"],
];

describe("a container that waits", () => {
  for (const [waits, message, outcome] of WAITING) {
    test(`because of ${waits} (${message}) fails the start ${outcome === "late" ? "when its time is over" : "at once"}`, () => {
      const pod: PodChanges = { phase: "Pending", sidecar: "running", microservices: { query: { waits, message } } };
      const early = ofPod(pod).cause;
      const late = ofPod(pod, LATE_MS).cause;
      assert.equal(early !== undefined, outcome === "at once");
      const failure = late && failureOfCause(late, []);
      assert.equal(failure?.code, "job_start_failed");
      assert.equal(failure.retryable, outcome === "late");
      assert.equal(failure.details["container"], "query");
      assert.ok(failure.message.includes(message));
    });
  }
});

describe("a pod that cannot be made or placed", () => {
  const warning = (message: string): Partial<Observation> => ({ jobWarning: { reason: "FailedCreate", message } });

  test("because of Pod Security fails the start at once, without a retry", () => {
    const said = 'pods "run-1" is forbidden: violates PodSecurity "restricted:latest"';
    const { cause } = decided(observation(undefined, warning(said)));
    const failure = cause && failureOfCause(cause, []);
    assert.deepEqual([failure?.code, failure?.retryable], ["job_start_failed", false]);
    assert.match(failure?.message ?? "", /PodSecurity/);
  });

  test("because of a quota fails it after ten seconds: others may end meanwhile", () => {
    const seen = observation(undefined, warning('pods "run-1" is forbidden: exceeded quota: pods'));
    assert.equal(decided(seen, NOW_MS - 1).cause, undefined);
    const { cause } = decided(seen, NOW_MS);
    const failure = cause && failureOfCause(cause, []);
    assert.deepEqual([failure?.code, failure?.retryable], ["job_start_failed", true]);
    assert.match(failure?.message ?? "", /quota leaves no room.*exceeded quota/);
  });

  test("because no node takes it fails it when its time is over, in the scheduler's words", () => {
    const message = "0/3 nodes are available: 3 Insufficient memory.";
    const conditions = [{ type: "PodScheduled", status: "False", reason: "Unschedulable", message }];
    const pod = { ...podObject({ phase: "Pending", sidecar: "running", microservices: {} }) };
    const { initContainerStatuses: _, containerStatuses: __, ...status } = { ...pod.status, conditions };
    const seen = observation({ ...pod, status });
    assert.equal(decided(seen).cause, undefined);
    const { cause } = decided(seen, LATE_MS);
    assert.ok(cause?.kind === "startFailed" && cause.message.includes(message) && cause.retryable);
  });

  test("because of a volume fails it when its time is over, in the kubelet's words", () => {
    const waiting = { waits: "ContainerCreating" };
    const pod = podObject({ phase: "Pending", sidecar: waiting, microservices: { query: waiting } });
    const podWarning = { reason: "FailedMount", message: 'secret "vu-chain" not found' };
    const { cause } = decided(observation(pod, { podWarning }), LATE_MS);
    assert.ok(cause?.kind === "startFailed" && cause.message.includes('FailedMount: secret "vu-chain" not found'));
  });
});

describe("a pod that is taken away", () => {
  const disruption = (reason: string): PodChanges => ({
    ...RUNNING,
    conditions: [{ type: "DisruptionTarget", status: "True", reason, message: "it had to go" }],
  });

  for (const reason of [
    "DeletionByTaintManager",
    "PreemptionByScheduler",
    "EvictionByEvictionAPI",
    "TerminationByKubelet",
  ]) {
    test(`by ${reason} is a loss that a retry helps`, () => {
      const { cause } = ofPod(disruption(reason));
      const failure = cause && failureOfCause(cause, []);
      assert.deepEqual([failure?.code, failure?.retryable, failure?.details["reason"]], ["job_failed", true, reason]);
    });
  }

  test("by an eviction for its node's sake is retried, for its own scratch's sake not", () => {
    const evicted = { ...RUNNING, phase: "Failed", reason: "Evicted", sidecar: { exit: 137 } } as const;
    const ofNode = ofPod({ ...evicted, message: "The node was low on resource: memory." }).cause;
    const own = ofPod({ ...evicted, message: 'Usage of EmptyDir volume "tmp-query" exceeds the limit "1Gi".' }).cause;
    assert.deepEqual([ofNode?.kind, ofNode?.kind === "lost" && ofNode.retryable], ["lost", true]);
    assert.ok(own?.kind === "lost" && !own.retryable && /scratch/.test(own.message));
  });

  test("by kubelet at its deadline, where no agent lived to do so, is told as the deadline", () => {
    const killed = { ...RUNNING, phase: "Failed", reason: "DeadlineExceeded", sidecar: { exit: 143 } } as const;
    assert.equal(ofPod(killed).cause?.kind, "deadline");
  });

  test("by somebody's delete is a loss, of the pod or of the Job", () => {
    const deleted = ofPod({ ...RUNNING, deletedAt: "2026-03-01T12:00:12Z" }).cause;
    assert.ok(deleted?.kind === "lost" && deleted.reason === "PodDeleted");
    const gone = decided(observation(podObject(RUNNING), { isJobGone: true, isPodGone: true }));
    assert.ok(gone.cause?.kind === "lost" && gone.cause.reason === "JobDeleted");
    assert.equal(gone.phase, "ended");
  });
});
