/** Ways in which a chain's pod fails on a real cluster, each brought about: what the agent is told, and what the operator finds. */
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { after, describe, test } from "node:test";
import type { Failure } from "../../lib/errors.ts";
import type { JobRunner, JobSpec } from "../../lib/jobs/job-runner.ts";
import type { KubernetesJobSettings } from "../../lib/jobs/kubernetes-settings.ts";
import { clusterContainer, makeClusterJobs } from "../support/cluster-jobs.ts";
import { apply, kubectl, kubectlJson, noCluster } from "../support/cluster-tools.ts";
import { eventually } from "../support/eventually.ts";
import { FOREVER } from "../support/job-programs.ts";

const MIB = 1024 ** 2;
const skip = await noCluster();

if (skip) test("failures of chains on a cluster", { skip });
else {
  const jobs = await makeClusterJobs();
  const { namespace } = jobs;
  after(async () => {
    await jobs.remove();
    assert.deepEqual(jobs.reported, []);
  });

  const jobOf = (changes: Partial<JobSpec> = {}): JobSpec => ({
    name: `run-${randomUUID().slice(0, 8)}`,
    steward: "VU",
    microservices: [clusterContainer("service", FOREVER)],
    sidecar: clusterContainer("sidecar", FOREVER),
    deadlineMs: Date.now() + 120_000,
    labels: { "dynamos.role": "all", odd: "no label value: ÄÖÜ" },
    chain: { jobName: "jan-0a1b2c3d", role: "all", dataProviderCount: 1 },
    ...changes,
  });

  async function withRunner(
    settings: Partial<KubernetesJobSettings>,
    use: (runner: JobRunner) => Promise<void>,
  ): Promise<void> {
    const runner = await jobs.open(settings);
    try {
      await use(runner);
    } finally {
      await runner.close();
    }
  }

  /** Starts a job, does something to it, and waits for its failure. */
  async function failureOf(
    runner: JobRunner,
    spec: JobSpec,
    act: (runner: JobRunner) => Promise<void> = async () => undefined,
  ): Promise<Failure> {
    await runner.start(spec);
    const told = lastOf(runner, spec.name);
    await act(runner);
    const failure = await told;
    assert.ok(failure, "it failed");
    return failure;
  }

  const untilRunning = (name: string) => async (runner: JobRunner) => {
    await eventually(async () => (await runner.status(name))?.phase === "running", { timeoutMs: 60_000 });
  };

  describe("a chain on a cluster", () => {
    test("whose image is not there fails at once, with the container and the kubelet's reason", async () => {
      await withRunner({ imagePullPolicy: "Never" }, async (runner) => {
        const service = { ...clusterContainer("service", FOREVER), image: "localhost/nowhere:none" };
        const failure = await failureOf(runner, jobOf({ microservices: [service] }));
        assert.deepEqual([failure.code, failure.retryable], ["job_start_failed", false]);
        assert.equal(failure.details?.["container"], "service");
        assert.match(failure.detail, /ErrImageNeverPull.*localhost\/nowhere:none/);
      });
    });

    test("that no node takes fails when its start takes too long, in the scheduler's words", async () => {
      await withRunner({ nodeSelector: { nowhere: "yes" }, startTimeoutMs: 3_000 }, async (runner) => {
        const spec = jobOf();
        const failure = await failureOf(runner, spec);
        assert.deepEqual([failure.code, failure.retryable], ["job_start_failed", true]);
        assert.match(failure.detail, /3000 ms \(startTimeoutMs.*no node takes its pod.*affinity\/selector/);
        assert.deepEqual(await podsOf(spec.name), [], "nothing waits for a node any more");
      });
    });

    test("whose pod breaks the rules of its namespace fails at once, in the API server's words", async () => {
      const volumes = [{ name: "host", hostPath: { path: "/etc" } }];
      const mounts = { data: [], anonymizationKey: [], sidecar: [{ name: "host", mountPath: "/host" }] };
      await withRunner({ volumes, mounts }, async (runner) => {
        const failure = await failureOf(runner, jobOf());
        assert.deepEqual([failure.code, failure.retryable], ["job_start_failed", false]);
        assert.match(failure.detail, /PodSecurity.*hostPath/);
      });
    });

    test("that finds no room in its namespace fails with the quota's words", async () => {
      const quota = { apiVersion: "v1", kind: "ResourceQuota", metadata: { name: "full", namespace } };
      await apply({ ...quota, spec: { hard: { "requests.memory": "1Mi" } } });
      try {
        await withRunner({}, async (runner) => {
          const failure = await failureOf(runner, jobOf());
          assert.deepEqual([failure.code, failure.retryable], ["job_start_failed", true]);
          assert.match(failure.detail, /exceeded quota: full/);
        });
      } finally {
        await kubectl(["delete", "resourcequota", "full", "-n", namespace]);
      }
    });

    test("whose Secret is not there fails when its start takes too long, with the kubelet's reason", async () => {
      const volumes = [{ name: "keys", secret: { secretName: "no-such-secret" } }];
      const mounts = { data: [], anonymizationKey: [], sidecar: [{ name: "keys", mountPath: "/keys" }] };
      await withRunner({ volumes, mounts, startTimeoutMs: 6_000 }, async (runner) => {
        const failure = await failureOf(runner, jobOf({ deadlineMs: Date.now() + 60_000 }));
        assert.equal(failure.code, "job_start_failed");
        assert.match(failure.detail, /no-such-secret/);
      });
    });

    test("whose pod somebody deletes is told as lost, and worth another attempt", async () => {
      await withRunner({}, async (runner) => {
        const spec = jobOf();
        const failure = await failureOf(runner, spec, async () => {
          await untilRunning(spec.name)(runner);
          await kubectl(["delete", "pod", "-n", namespace, "-l", `job-name=${spec.name}`, "--wait=false"]);
        });
        assert.deepEqual([failure.code, failure.retryable], ["job_failed", true]);
        assert.equal(failure.details?.["reason"], "PodDeleted");
      });
    });

    test("whose Job somebody deletes is told as lost, too", async () => {
      await withRunner({}, async (runner) => {
        const spec = jobOf();
        const failure = await failureOf(runner, spec, async () => {
          await untilRunning(spec.name)(runner);
          await kubectl(["delete", "job", spec.name, "-n", namespace, "--wait=false"]);
        });
        assert.deepEqual([failure.code, failure.details?.["reason"]], ["job_failed", "JobDeleted"]);
      });
    });

    test("that fills its scratch space is evicted, and told which setting limits it", async () => {
      await withRunner({ scratch: "8Mi" }, async (runner) => {
        const greedy = `
          import { writeFileSync } from "node:fs";
          writeFileSync("/tmp/rows", Buffer.alloc(64 * ${String(MIB)}, 1));
          ${FOREVER}`;
        const failure = await failureOf(runner, jobOf({ microservices: [clusterContainer("service", greedy)] }));
        assert.deepEqual([failure.code, failure.retryable], ["job_failed", false]);
        assert.match(failure.detail, /evicted.*scratch/);
      });
    });

    test("that crashes leaves an Event that names container and code, and not what it wrote", async () => {
      await withRunner({}, async (runner) => {
        const crash = clusterContainer("service", `console.error("a row: 4711"); process.exit(3);`);
        const spec = jobOf({ microservices: [crash] });
        const failure = await failureOf(runner, spec);
        assert.deepEqual(failure.details?.["log"], ["a row: 4711"]);
        const { items } = await kubectlJson<{ readonly items: readonly { reason: string; message: string }[] }>([
          "get",
          "events",
          "-n",
          namespace,
          "--field-selector",
          `involvedObject.name=${spec.name},involvedObject.kind=Job`,
        ]);
        const told = items.find(({ reason }) => reason === "ChainFailed")?.message ?? "";
        assert.match(told, /Container service ended with exit code 3 .*kubectl logs/);
        assert.ok(!JSON.stringify(items).includes("4711"));
        const [pod] = await podsOf(spec.name);
        assert.match(await kubectl(["logs", "-n", namespace, String(pod), "-c", "service"]), /a row: 4711/);
      });
    });

    test("whose runner is cut off is ended by another one of its steward, and both tell the same", async () => {
      const cutOff = await jobs.openCuttable();
      const other = await jobs.open();
      try {
        const crash = clusterContainer("service", `setTimeout(() => process.exit(5), 4000);`);
        const spec = jobOf({ microservices: [crash, clusterContainer("second", FOREVER)] });
        await cutOff.runner.start(spec);
        const told = lastOf(cutOff.runner, spec.name);
        cutOff.path.cut();
        const failure = await lastOf(other, spec.name);
        assert.deepEqual([failure?.code, failure?.details?.["exitCode"]], ["job_failed", 5]);
        cutOff.path.mend();
        assert.deepEqual(await told, failure);
      } finally {
        await cutOff.close();
        await other.close();
      }
    });

    test("is watched on after its connection was lost in silence", async () => {
      const cuttable = await jobs.openCuttable();
      try {
        const spec = jobOf({
          microservices: [clusterContainer("service", `setTimeout(() => process.exit(6), 5000);`)],
        });
        await cuttable.runner.start(spec);
        await untilRunning(spec.name)(cuttable.runner);
        cuttable.path.cut();
        cuttable.path.mend();
        const failure = await lastOf(cuttable.runner, spec.name);
        assert.equal(failure?.details?.["exitCode"], 6);
      } finally {
        await cuttable.close();
      }
    });

    test("goes with its agent's controller, and otherwise some time after its end", async () => {
      const owner = { apiVersion: "v1", kind: "ConfigMap", metadata: { name: "release", namespace } };
      await apply(owner);
      const { metadata } = await kubectlJson<{ metadata: { uid: string } }>(["get", "cm", "release", "-n", namespace]);
      const reference = { apiVersion: "v1", kind: "ConfigMap", name: "release", uid: metadata.uid, controller: true };
      await apply(agentPod(namespace, reference));
      const runner = await jobs.open({ ttlSecondsAfterFinished: 1 }, { podName: "agent-0" });
      try {
        const [kept, gone] = [jobOf(), jobOf()];
        await runner.start(kept);
        await runner.start(gone);
        await untilRunning(kept.name)(runner);
        await runner.end(gone.name);
        await eventually(async () => (await runner.status(gone.name)) === undefined, { timeoutMs: 60_000 });
        assert.equal((await runner.status(kept.name))?.phase, "running");
        await kubectl(["delete", "cm", "release", "-n", namespace]);
        await eventually(async () => (await runner.status(kept.name)) === undefined, { timeoutMs: 60_000 });
      } finally {
        await runner.close();
      }
    });

    test("keeps the labels that Kubernetes does not take", async () => {
      await withRunner({}, async (runner) => {
        const spec = jobOf();
        await runner.start(spec);
        assert.deepEqual((await runner.list()).find(({ name }) => name === spec.name)?.labels, spec.labels);
      });
    });
  });

  async function lastOf(runner: JobRunner, name: string): Promise<Failure | undefined> {
    let failure: Failure | undefined;
    for await (const status of runner.watch(name)) failure = status.failure;
    return failure;
  }

  async function podsOf(jobName: string): Promise<readonly string[]> {
    const { items } = await kubectlJson<{
      readonly items: readonly { readonly metadata: { readonly name: string } }[];
    }>(["get", "pods", "-n", namespace, "-l", `job-name=${jobName}`]);
    return items.map(({ metadata }) => metadata.name);
  }
}

/** A pod that stands for the agent's: no node ever takes it. */
function agentPod(namespace: string, owner: object): object {
  const container = {
    name: "agent",
    image: "localhost/nowhere:none",
    securityContext: { allowPrivilegeEscalation: false, capabilities: { drop: ["ALL"] } },
  };
  return {
    apiVersion: "v1",
    kind: "Pod",
    metadata: { name: "agent-0", namespace, ownerReferences: [owner] },
    spec: {
      nodeSelector: { nowhere: "yes" },
      securityContext: { runAsNonRoot: true, runAsUser: 10_001, seccompProfile: { type: "RuntimeDefault" } },
      containers: [container],
    },
  };
}
