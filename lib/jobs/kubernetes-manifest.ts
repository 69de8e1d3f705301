/** From a job's specification to the Kubernetes Job that runs it. Pure. `docs/decisions/0017` says why it is as it is. */
import type {
  V1Container,
  V1EnvVar,
  V1Job,
  V1PodSpec,
  V1ResourceRequirements,
  V1Volume,
} from "@kubernetes/client-node";
import {
  CHAIN_START_VARIABLE,
  chainEnvironment,
  CLUSTER_CHAIN_PORTS,
  sidecarEnvironment,
} from "./chain-environment.ts";
import type { ContainerSpec, JobSpec } from "./job-runner.ts";
import { ENDING_ANNOTATION, endingAnnotation, type Cause } from "./kubernetes-ending.ts";
import { quantityOf } from "./kubernetes-quantity.ts";
import { LAUNCHER, LAUNCHER_FOLDER } from "./kubernetes-launcher.ts";
import type { KubernetesJobSettings } from "./kubernetes-settings.ts";
import { LAUNCHER_NAME } from "./job-ending.ts";

/** Labels of every Job and pod of this runner; nothing else carries the first two together. */
export const CHAIN_LABELS = {
  "app.kubernetes.io/name": "dynamos-chain",
  "app.kubernetes.io/managed-by": "dynamos-agent",
} as const;
export const STEWARD_LABEL = "dynamos.steward";
/** The labels that the job was started with, as JSON: not all of them are label values in Kubernetes. */
export const LABELS_ANNOTATION = "dynamos.labels";
/** The job's deadline in milliseconds since the epoch. */
export const DEADLINE_ANNOTATION = "dynamos.deadline";
/** Who made it: tells one's own Job from another of the same name, where the answer to its creation was lost. */
export const START_ANNOTATION = "dynamos.start";

/** After the job's own deadline its pod and its Job have these further seconds, for the runner that ends it itself. */
const POD_DEADLINE_REST_S = 2;
const JOB_DEADLINE_REST_S = 30;
/** After the limit of a start the parts of a chain wait for each other so much longer: the runner knows better why one does not come. */
const CHAIN_START_REST_MS = 10_000;
/** A node that is not there any more gives its pods up after this time, instead of five minutes. */
const NODE_LOST_S = 20;

/** What a manifest is made of beside the specification. */
export interface ManifestInput {
  readonly spec: JobSpec;
  readonly settings: KubernetesJobSettings;
  readonly nowMs: number;
  /** A unique text; see {@link START_ANNOTATION}. */
  readonly startId: string;
  /** The controller of the agent's pod; absent outside a cluster. */
  readonly owner?: OwnerReference;
  /** It is over before it begins: no pod is ever made of it. */
  readonly ending?: Cause;
}

/** Who a Job goes with. */
export interface OwnerReference {
  readonly apiVersion: string;
  readonly kind: string;
  readonly name: string;
  readonly uid: string;
}

/** The Job of a chain. */
export function makeManifest(input: ManifestInput): V1Job {
  const { spec, settings, owner, ending } = input;
  const labels = { ...settings.labels, ...labelsOf(spec) };
  const leftSeconds = Math.max(1, Math.ceil((spec.deadlineMs - input.nowMs) / 1000));
  return {
    apiVersion: "batch/v1",
    kind: "Job",
    metadata: {
      name: spec.name,
      labels,
      annotations: {
        ...settings.annotations,
        [LABELS_ANNOTATION]: JSON.stringify(spec.labels),
        [DEADLINE_ANNOTATION]: String(spec.deadlineMs),
        [START_ANNOTATION]: input.startId,
        [ENDING_ANNOTATION]: "",
        ...(ending ? endingAnnotation(ending, input.nowMs) : {}),
      },
      ...(owner ? { ownerReferences: [{ ...owner, controller: false, blockOwnerDeletion: false }] } : {}),
    },
    spec: {
      backoffLimit: 0,
      completions: 1,
      parallelism: 1,
      podReplacementPolicy: "Failed",
      activeDeadlineSeconds: ending ? 0 : leftSeconds + JOB_DEADLINE_REST_S,
      ttlSecondsAfterFinished: settings.ttlSecondsAfterFinished,
      podFailurePolicy: {
        rules: [
          { action: "FailJob", onPodConditions: [{ type: "DisruptionTarget", status: "True" }] },
          { action: "FailJob", onExitCodes: { operator: "NotIn", values: [0] } },
        ],
      },
      template: {
        metadata: { labels, annotations: settings.annotations },
        spec: podSpec(spec, settings, leftSeconds + POD_DEADLINE_REST_S),
      },
    },
  };
}

function podSpec(spec: JobSpec, settings: KubernetesJobSettings, activeDeadlineSeconds: number): V1PodSpec {
  const { runAsUser } = settings;
  const named = {
    ...(settings.priorityClassName === "" ? {} : { priorityClassName: settings.priorityClassName }),
    ...(settings.runtimeClassName === "" ? {} : { runtimeClassName: settings.runtimeClassName }),
  };
  return {
    restartPolicy: "Never",
    activeDeadlineSeconds,
    terminationGracePeriodSeconds: settings.stopGraceSeconds,
    automountServiceAccountToken: false,
    enableServiceLinks: false,
    securityContext: {
      runAsNonRoot: true,
      runAsUser,
      runAsGroup: runAsUser,
      fsGroup: runAsUser,
      // Without it, every start of a pod walks through all files of the steward's volume.
      fsGroupChangePolicy: "OnRootMismatch",
      seccompProfile: { type: "RuntimeDefault" },
    },
    imagePullSecrets: settings.imagePullSecrets.map((name) => ({ name })),
    nodeSelector: settings.nodeSelector,
    tolerations: [...settings.tolerations, ...lostNodeTolerations(settings)],
    affinity: settings.affinity,
    ...named,
    initContainers: [sidecarContainer(spec, settings)],
    containers: spec.microservices.map((container, index) => ({
      ...commonContainer(container, settings, chainEnvironment(spec, index, CLUSTER_CHAIN_PORTS)),
      ...(container.command ? { command: [...container.command] } : {}),
      resources: resourcesOf(container, settings, settings.limits.cpu),
    })),
    volumes: [
      ...[spec.sidecar, ...spec.microservices].map((container): V1Volume => ({
        name: scratchVolume(container.name),
        emptyDir: { sizeLimit: settings.scratch },
      })),
      { name: LAUNCHER_VOLUME, emptyDir: { sizeLimit: "1Mi" } },
      ...neededVolumes(spec, settings),
    ],
  };
}

const LAUNCHER_VOLUME = "launcher";

/** A native sidecar (KEP-753): started before the microservices, told to end when they are done. See `kubernetes-launcher.ts`. */
function sidecarContainer(spec: JobSpec, settings: KubernetesJobSettings): V1Container {
  const common = commonContainer(spec.sidecar, settings, sidecarEnvironment(spec, CLUSTER_CHAIN_PORTS));
  const { sidecarLimits } = settings;
  return {
    ...common,
    restartPolicy: "Always",
    command: ["/bin/sh", "-c", LAUNCHER, LAUNCHER_NAME, ...(spec.sidecar.command ?? [])],
    // What it wrote last survives its restart in the pod's status; it is our own program, and writes no data.
    terminationMessagePolicy: "FallbackToLogsOnError",
    resources: resourcesOf(
      sidecarLimits.memory === undefined
        ? spec.sidecar
        : { ...spec.sidecar, memoryLimitBytes: quantityOf(sidecarLimits.memory) },
      settings,
      sidecarLimits.cpu,
    ),
    volumeMounts: [
      ...(common.volumeMounts ?? []),
      { name: LAUNCHER_VOLUME, mountPath: LAUNCHER_FOLDER },
      ...settings.mounts.sidecar,
    ],
  };
}

function commonContainer(
  container: ContainerSpec,
  settings: KubernetesJobSettings,
  chain: Readonly<Record<string, string>>,
): V1Container {
  // What the runner adds wins: a container that could rename its ports would break the chain.
  const added = { TMPDIR: "/tmp", [CHAIN_START_VARIABLE]: String(settings.startTimeoutMs + CHAIN_START_REST_MS) };
  const environment = { HOME: "/tmp", ...container.environment, ...chain, ...added };
  return {
    name: container.name,
    image: container.image ?? settings.image,
    imagePullPolicy: settings.imagePullPolicy,
    env: Object.entries(environment).map(([name, value]): V1EnvVar => ({ name, value: literal(value) })),
    securityContext: {
      allowPrivilegeEscalation: false,
      readOnlyRootFilesystem: true,
      capabilities: { drop: ["ALL"] },
    },
    volumeMounts: [
      { name: scratchVolume(container.name), mountPath: "/tmp" },
      ...(container.needs ?? []).flatMap((need) => settings.mounts[need]),
    ],
  };
}

/** Kubernetes expands `$(NAME)` in values; `$$` stands for one `$`. */
function literal(value: string): string {
  return value.replaceAll("$(", "$$$$(");
}

/** Each container has a scratch folder of its own: a microservice may be anybody's, and another's may hold rows. */
function scratchVolume(container: string): string {
  return `tmp-${container}`.slice(0, 63).replace(/-+$/, "");
}

function resourcesOf(
  container: ContainerSpec,
  { requests }: KubernetesJobSettings,
  cpuLimit: string | undefined,
): V1ResourceRequirements {
  const cpu = container.cpuRequest ?? requests.cpu;
  const limit = container.cpuLimit ?? cpuLimit;
  return {
    limits: { memory: String(container.memoryLimitBytes), ...(limit === undefined ? {} : { cpu: limit }) },
    requests: {
      memory: String(Math.min(container.memoryLimitBytes, quantityOf(requests.memory ?? "64Mi"))),
      // Without a request, the limit would be it.
      cpu: cpu ?? "10m",
    },
  };
}

/** Volumes that some container of this chain mounts: what is not needed is not even in the pod. */
function neededVolumes(spec: JobSpec, { volumes, mounts }: KubernetesJobSettings): readonly V1Volume[] {
  const needs = new Set(spec.microservices.flatMap((container) => container.needs ?? []));
  const mounted = [...mounts.sidecar, ...[...needs].flatMap((need) => mounts[need])].map(({ name }) => name);
  return volumes.filter(({ name }) => mounted.includes(name));
}

function lostNodeTolerations({ tolerations }: KubernetesJobSettings): NonNullable<V1PodSpec["tolerations"]> {
  return ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"]
    .filter((key) => !tolerations.some((toleration) => toleration.key === key))
    .map((key) => ({ key, operator: "Exists", effect: "NoExecute", tolerationSeconds: NODE_LOST_S }));
}

/** Labels as Kubernetes takes them; the rest is in {@link LABELS_ANNOTATION} alone. */
function labelsOf(spec: JobSpec): Record<string, string> {
  const valid = Object.entries(spec.labels).filter(([key, value]) => isLabelKey(key) && isLabelValue(value));
  return { ...Object.fromEntries(valid), ...CHAIN_LABELS, [STEWARD_LABEL]: spec.steward };
}

function isLabelKey(key: string): boolean {
  return /^[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$/.test(key);
}

function isLabelValue(value: string): boolean {
  return value === "" || isLabelKey(value);
}
