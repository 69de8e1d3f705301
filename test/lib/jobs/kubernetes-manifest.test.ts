import assert from "node:assert/strict";
import { describe, test } from "node:test";
import type { V1Container, V1Job } from "@kubernetes/client-node";
import type { ContainerSpec, JobSpec } from "../../../lib/jobs/job-runner.ts";
import { ENDING_ANNOTATION } from "../../../lib/jobs/kubernetes-ending.ts";
import { LABELS_ANNOTATION, makeManifest, type ManifestInput } from "../../../lib/jobs/kubernetes-manifest.ts";
import { checkKubernetesSettings } from "../../../lib/jobs/kubernetes-settings.ts";

const MIB = 2 ** 20;
const NOW_MS = Date.parse("2026-03-01T12:00:00Z");

function container(name: string, changes: Partial<ContainerSpec> = {}): ContainerSpec {
  return { name, command: ["node", name], environment: { OWN: name }, memoryLimitBytes: 300 * MIB, ...changes };
}

const SPEC: JobSpec = {
  name: "run-1",
  steward: "VU",
  microservices: [
    container("sql-query", { needs: ["data"], cpuRequest: "100m", cpuLimit: "4" }),
    container("theirs", { image: "example.org/theirs:1", memoryLimitBytes: 32 * MIB }),
  ],
  sidecar: container("sidecar"),
  deadlineMs: NOW_MS + 90_500,
  labels: { "dynamos.role": "all", "dynamos.requestType": "no label value: Ä" },
  chain: { jobName: "jan-0a1b2c3d", role: "all", dataProviderCount: 1 },
};
const SETTINGS = {
  image: "dynamos:1",
  volumes: [
    { name: "state", persistentVolumeClaim: { claimName: "vu-state" } },
    { name: "key", secret: { secretName: "vu-keys" } },
    { name: "bus", secret: { secretName: "vu-bus" } },
  ],
  mounts: {
    data: [{ name: "state", mountPath: "/var/lib/dynamos/data", subPath: "data", readOnly: true }],
    anonymizationKey: [{ name: "key", mountPath: "/var/lib/dynamos/keys" }],
    sidecar: [{ name: "bus", mountPath: "/etc/dynamos/credentials/chain" }],
  },
  requests: { cpu: "50m", memory: "64Mi" },
  limits: { cpu: "2" },
};

function manifest(changes: Partial<ManifestInput> = {}, settings: object = {}): V1Job {
  return makeManifest({
    spec: SPEC,
    settings: checkKubernetesSettings({ ...SETTINGS, ...settings }, "of the test"),
    nowMs: NOW_MS,
    startId: "an id",
    ...changes,
  });
}

function podOf(job: V1Job): NonNullable<NonNullable<V1Job["spec"]>["template"]["spec"]> {
  assert.ok(job.spec?.template.spec);
  return job.spec.template.spec;
}

function containersOf(job: V1Job): Map<string, V1Container> {
  const { initContainers = [], containers } = podOf(job);
  return new Map([...initContainers, ...containers].map((each) => [each.name, each]));
}

describe("a chain's Job", () => {
  test("is one pod that Kubernetes never repeats, and that it fails at once where a container does", () => {
    const { spec } = manifest();
    assert.deepEqual(
      [spec?.backoffLimit, spec?.podReplacementPolicy, spec?.template.spec?.restartPolicy],
      [0, "Failed", "Never"],
    );
    assert.deepEqual(
      spec?.podFailurePolicy?.rules.map(({ action }) => action),
      ["FailJob", "FailJob"],
    );
  });

  test("has the pod's deadline just behind its own, and the Job's behind that", () => {
    const job = manifest();
    assert.equal(podOf(job).activeDeadlineSeconds, 93);
    assert.equal(job.spec?.activeDeadlineSeconds, 121);
  });

  test("that is over before it begins never gets a pod, and says why", () => {
    const { metadata, spec } = manifest({ ending: { kind: "deadline", deadlineMs: 1 } });
    assert.equal(spec?.activeDeadlineSeconds, 0);
    assert.match(metadata?.annotations?.[ENDING_ANNOTATION] ?? "", /"deadline"/);
  });

  test("keeps all labels in an annotation, and as labels those that Kubernetes takes", () => {
    const { metadata, spec } = manifest({}, { labels: { "app.kubernetes.io/instance": "vu" } });
    const labels = {
      "app.kubernetes.io/instance": "vu",
      "app.kubernetes.io/name": "dynamos-chain",
      "app.kubernetes.io/managed-by": "dynamos-agent",
      "dynamos.steward": "VU",
      "dynamos.role": "all",
    };
    assert.deepEqual(metadata?.labels, labels);
    assert.deepEqual(spec?.template.metadata?.labels, labels);
    assert.deepEqual(JSON.parse(metadata?.annotations?.[LABELS_ANNOTATION] ?? ""), SPEC.labels);
  });

  test("belongs to the agent's controller, without keeping that from going", () => {
    const owner = { apiVersion: "apps/v1", kind: "StatefulSet", name: "vu", uid: "u" };
    const [reference] = manifest({ owner }).metadata?.ownerReferences ?? [];
    assert.deepEqual(reference, { ...owner, controller: false, blockOwnerDeletion: false });
  });
});

describe("its pod", () => {
  test('meets the Pod Security standard "restricted", and has no token', () => {
    const pod = podOf(manifest());
    assert.equal(pod.automountServiceAccountToken, false);
    assert.equal(pod.enableServiceLinks, false);
    assert.equal(pod.shareProcessNamespace, undefined);
    const { runAsNonRoot, runAsUser, seccompProfile } = pod.securityContext ?? {};
    assert.deepEqual([runAsNonRoot, runAsUser, seccompProfile], [true, 10_001, { type: "RuntimeDefault" }]);
    for (const each of containersOf(manifest()).values()) {
      assert.deepEqual(each.securityContext, {
        allowPrivilegeEscalation: false,
        readOnlyRootFilesystem: true,
        capabilities: { drop: ["ALL"] },
      });
    }
  });

  test("shows each container only what it needs, and scratch space that no other sees", () => {
    const job = manifest();
    const seen = [...containersOf(job)].map(([name, { volumeMounts = [] }]) => [
      name,
      volumeMounts.map((mount) => `${mount.name}:${mount.mountPath}`),
    ]);
    assert.deepEqual(seen, [
      ["sidecar", ["tmp-sidecar:/tmp", "launcher:/run/dynamos", "bus:/etc/dynamos/credentials/chain"]],
      ["sql-query", ["tmp-sql-query:/tmp", "state:/var/lib/dynamos/data"]],
      ["theirs", ["tmp-theirs:/tmp"]],
    ]);
    const volumes = podOf(job).volumes?.map(({ name }) => name);
    assert.deepEqual(volumes, ["tmp-sidecar", "tmp-sql-query", "tmp-theirs", "launcher", "state", "bus"]);
  });

  test("has the sidecar as a native one behind its launcher, and runs microservices as they are", () => {
    const containers = containersOf(manifest());
    const sidecar = containers.get("sidecar");
    assert.equal(sidecar?.restartPolicy, "Always");
    assert.deepEqual(sidecar.command?.slice(3), ["dynamos-launch", "node", "sidecar"]);
    assert.deepEqual(containers.get("sql-query")?.command, ["node", "sql-query"]);
    const { command: _, ...withoutCommand } = container("own");
    const spec = { ...SPEC, microservices: [withoutCommand] };
    assert.equal(containersOf(manifest({ spec })).get("own")?.command, undefined);
  });

  test("uses the metadata's image and processors, and the jobs file's where they name none", () => {
    const containers = containersOf(manifest());
    assert.deepEqual(
      [containers.get("sql-query")?.image, containers.get("theirs")?.image],
      ["dynamos:1", "example.org/theirs:1"],
    );
    assert.deepEqual(containers.get("sql-query")?.resources, {
      limits: { memory: String(300 * MIB), cpu: "4" },
      requests: { memory: String(64 * MIB), cpu: "100m" },
    });
    // No container asks for more memory than it may have.
    assert.deepEqual(containers.get("theirs")?.resources, {
      limits: { memory: String(32 * MIB), cpu: "2" },
      requests: { memory: String(32 * MIB), cpu: "50m" },
    });
    assert.equal(containers.get("sidecar")?.resources?.limits?.["cpu"], undefined);
  });

  test("hands environment values on as they are, and lets nobody rename a port", () => {
    const microservices = [container("a", { environment: { TEXT: "$(HOME) costs $5", FIRST: "0", TMPDIR: "/" } })];
    const { env = [] } = containersOf(manifest({ spec: { ...SPEC, microservices } })).get("a") ?? {};
    const values = Object.fromEntries(env.map(({ name, value }) => [name, value]));
    assert.equal(values["TEXT"], "$$(HOME) costs $5");
    assert.deepEqual([values["FIRST"], values["TMPDIR"], values["DESIGNATED_GRPC_PORT"]], ["1", "/tmp", "50053"]);
    assert.equal(values["DYNAMOS_CHAIN_START_MS"], "70000");
  });

  test("leaves a lost node soon, unless the jobs file says otherwise", () => {
    const key = "node.kubernetes.io/unreachable";
    const tolerations = [{ key, operator: "Exists", effect: "NoExecute", tolerationSeconds: 600 }];
    const seconds = podOf(manifest({}, { tolerations })).tolerations?.map((each) => [each.key, each.tolerationSeconds]);
    assert.deepEqual(seconds, [
      [key, 600],
      ["node.kubernetes.io/not-ready", 20],
    ]);
  });
});
