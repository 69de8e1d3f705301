/** Charts rendered by the real `helm`, and what tests look for in the objects that come out. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  loadAllYaml,
  type KubernetesObject,
  type V1Container,
  type V1NetworkPolicy,
  type V1NetworkPolicyPeer,
  type V1NetworkPolicyPort,
  type V1PodSpec,
  type V1PodTemplateSpec,
} from "@kubernetes/client-node";
import { packageRoot } from "../../lib/package-root.ts";
import { runProgram, type ProgramResult } from "../support/cluster-tools.ts";

/** A chart's folder below `charts/`. */
export type ChartName = "core" | "orchestrator" | "agent";
/** Values, as a file would have them. */
export type Values = Readonly<Record<string, unknown>>;
/** An object that a chart renders; its kind says what else it has. */
export type Rendered = KubernetesObject & { readonly metadata: { readonly name: string } };

/** Why charts cannot be rendered here; false when they can. For a test's `skip`. */
export const NO_HELM =
  spawnSync("helm", ["version"], { stdio: "ignore" }).status === 0 ? false : "helm is not installed, or does not work";

/** Runs `helm template` with these values. */
export async function template(chart: ChartName, values: Values, release = "it"): Promise<ProgramResult> {
  const folder = await mkdtemp(join(tmpdir(), "dynamos-chart-"));
  try {
    const file = join(folder, "values.json");
    await writeFile(file, JSON.stringify(values));
    const path = join(packageRoot, "charts", chart);
    return await runProgram("helm", ["template", release, path, "--namespace", "here", "--values", file]);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** All objects that a chart renders with these values. */
export async function render(chart: ChartName, values: Values, release = "it"): Promise<readonly Rendered[]> {
  const { code, stdout, stderr } = await template(chart, values, release);
  assert.equal(code, 0, stderr);
  return (loadAllYaml(stdout) as (Rendered | null)[]).filter((object) => object !== null);
}

/** What `helm template` says of values that it refuses. */
export async function refusal(chart: ChartName, values: Values): Promise<string> {
  const { code, stderr } = await template(chart, values);
  assert.notEqual(code, 0, `accepted: ${JSON.stringify(values)}`);
  return stderr;
}

/** The one object of this kind and name. */
export function find<Shape>(objects: readonly Rendered[], kind: string, name: string): Shape {
  const found = objects.filter((object) => object.kind === kind && object.metadata.name === name);
  assert.equal(found.length, 1, `${kind} ${name}, of ${namesOf(objects).join(", ")}`);
  return found[0] as unknown as Shape;
}

/** `Kind/name` of each, sorted. */
export function namesOf(objects: readonly Rendered[]): string[] {
  return objects.map(({ kind, metadata }) => `${kind ?? ""}/${metadata.name}`).sort();
}

/** A pod that would run, and who makes it. */
export interface RenderedPod {
  readonly name: string;
  readonly spec: V1PodSpec;
  readonly labels: Readonly<Record<string, string>>;
}

interface PodMaker {
  readonly template?: V1PodTemplateSpec;
}

/** The pods of all workloads, and those of hooks. */
export function podsOf(objects: readonly Rendered[]): readonly RenderedPod[] {
  return objects.flatMap((object) => {
    const { kind, metadata } = object;
    const whole = object as unknown as { spec?: V1PodSpec & PodMaker & { jobTemplate?: { spec: PodMaker } } };
    const spec = whole.spec?.jobTemplate?.spec ?? whole.spec;
    if (kind === "Pod" && spec !== undefined) {
      return [{ name: `Pod/${metadata.name}`, spec: spec as V1PodSpec, labels: object.metadata?.labels ?? {} }];
    }
    const pod = spec?.template;
    if (pod?.spec === undefined) return [];
    return [{ name: `${kind ?? ""}/${metadata.name}`, spec: pod.spec, labels: pod.metadata?.labels ?? {} }];
  });
}

/** Containers of a pod, also those that run before or beside the main one. */
export function containersOf(spec: V1PodSpec): readonly V1Container[] {
  return [...(spec.initContainers ?? []), ...spec.containers];
}

/** One container by its name. */
export function container(spec: V1PodSpec, name: string): V1Container {
  const found = containersOf(spec).find((one) => one.name === name);
  assert.ok(found, `no container ${name}`);
  return found;
}

/** Its environment; variables that come from elsewhere as `<kind>:<where>`. */
export function environmentOf({ env = [] }: V1Container): Readonly<Record<string, string>> {
  const entries = env.map(({ name, value, valueFrom }) => {
    const { secretKeyRef: secret, fieldRef: field } = valueFrom ?? {};
    const from = secret ? `secret:${secret.name ?? ""}/${secret.key}` : `field:${field?.fieldPath ?? ""}`;
    return [name, value ?? from] as const;
  });
  assert.equal(new Set(entries.map(([name]) => name)).size, entries.length, "a variable is set twice");
  return Object.fromEntries(entries);
}

/**
 * What Pod Security's level "restricted" would refuse of a pod
 * (https://kubernetes.io/docs/concepts/security/pod-security-standards/), and what this project asks for besides: a read-only
 * root, limited memory, requests for the scheduler.
 */
export function securityFaults({ name, spec }: RenderedPod): string[] {
  const faults: string[] = [];
  const require = (isMet: boolean, what: string): void => void (isMet || faults.push(`${name}: ${what}`));
  const pod = spec.securityContext;
  require(pod?.runAsNonRoot === true && (pod.runAsUser ?? 0) > 0, "runs as root");
  require(pod?.seccompProfile?.type === "RuntimeDefault", "has no seccomp profile");
  require(!spec.hostNetwork && !spec.hostPID && !spec.hostIPC, "shares the host's namespaces");
  require(spec.automountServiceAccountToken === false, "mounts a token into every container");
  require(spec.enableServiceLinks === false, "gets variables of Services");
  for (const volume of spec.volumes ?? []) require(volume.hostPath === undefined, `mounts the host's ${volume.name}`);
  for (const { name: which, securityContext: security, resources, image } of containersOf(spec)) {
    require(security?.allowPrivilegeEscalation === false, `${which} may escalate`);
    require(security?.privileged !== true, `${which} is privileged`);
    require(security?.capabilities?.drop?.join() === "ALL", `${which} has capabilities`);
    require(security?.capabilities?.add === undefined, `${which} gets capabilities`);
    require(security?.readOnlyRootFilesystem === true, `${which} may write its root`);
    require(resources?.limits?.["memory"] !== undefined, `${which} has no limit of memory`);
    require(resources?.requests?.["cpu"] !== undefined, `${which} requests no CPU`);
    require(!/:latest$|^[^:]*$/.test(image ?? ""), `${which} has no image of a version`);
  }
  return faults;
}

/** Mounts without a volume, volumes that nobody mounts, and two mounts at one path. */
export function mountFaults({ name, spec }: RenderedPod): string[] {
  const volumes = (spec.volumes ?? []).map((volume) => volume.name);
  const mounts = containersOf(spec).flatMap((one) => (one.volumeMounts ?? []).map((mount) => mount.name));
  const doubled = containersOf(spec).filter((one) => {
    const paths = (one.volumeMounts ?? []).map(({ mountPath }) => mountPath);
    return new Set(paths).size < paths.length;
  });
  return [
    ...mounts.filter((mount) => !volumes.includes(mount)).map((mount) => `${name}: there is no volume ${mount}`),
    ...volumes.filter((volume) => !mounts.includes(volume)).map((volume) => `${name}: nobody mounts ${volume}`),
    ...volumes.filter((volume, index) => volumes.indexOf(volume) !== index).map((volume) => `${name}: two ${volume}`),
    ...doubled.map((one) => `${name}: ${one.name} has two mounts at one path`),
  ];
}

/** What a policy opens, one line per peer: `from PEER on PORTS`, `to PEER on PORTS`. */
export function openings(policy: V1NetworkPolicy): string[] {
  const { policyTypes, ingress = [], egress = [] } = policy.spec ?? {};
  assert.deepEqual(policyTypes, ["Ingress", "Egress"], "closes both ways");
  return [
    ...ingress.flatMap((rule) => peers(rule._from).map((peer) => `from ${peer} on ${ports(rule.ports)}`)),
    ...egress.flatMap((rule) => peers(rule.to).map((peer) => `to ${peer} on ${ports(rule.ports)}`)),
  ].sort();
}

function peers(some: readonly V1NetworkPolicyPeer[] | undefined): string[] {
  if (some === undefined || some.length === 0) return ["anywhere"];
  return some.map(({ ipBlock, namespaceSelector, podSelector }) => {
    if (ipBlock !== undefined) return ipBlock.cidr;
    const labels = (selector: { readonly matchLabels?: Readonly<Record<string, string>> } | undefined): string =>
      Object.values(selector?.matchLabels ?? {}).join("+") || "all";
    const where = namespaceSelector === undefined ? "" : ` of ${labels(namespaceSelector)} namespaces`;
    return `${podSelector === undefined ? "all" : labels(podSelector)} pods${where}`;
  });
}

function ports(some: readonly V1NetworkPolicyPort[] | undefined): string {
  return (some ?? [{ port: "any" }])
    .map(({ protocol = "TCP", port }) => (protocol === "TCP" ? "" : "udp ") + String(port))
    .join(",");
}
