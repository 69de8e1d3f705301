/** The doctor's look at pods: images that do not come, containers that do not run, pods that are not ready, and why. Pure. */
import { fault, ok, type Finding } from "./findings.ts";
import type { ContainerFacts, NamespaceFacts, PodFacts, WarningFacts, WorkloadFacts } from "./kubernetes-facts.ts";

/** Pods of chains; they come and go, and are never ready. */
export const CHAIN_PART = "dynamos-chain";
/** A pod may take so long to become ready before it is a fault. */
const STARTING_MS = 60_000;

const IMAGE_REASONS = new Set([
  "ErrImagePull",
  "ImagePullBackOff",
  "ErrImageNeverPull",
  "InvalidImageName",
  "ImageInspectError",
  "RegistryUnavailable",
]);

/** Judges the pods of a namespace, and the workloads that have none. */
export function judgePods(facts: NamespaceFacts): readonly Finding[] {
  const { name, pods, workloads } = facts;
  const current = pods.filter(({ isEnding, phase }) => !isEnding && phase !== "Succeeded" && phase !== "Failed");
  const faults = [
    ...imageFaults(name, current),
    ...current.flatMap((pod) => judgePod(facts, pod)),
    ...workloads.flatMap((workload) => judgeWorkload(facts, workload)),
  ];
  if (faults.length > 0) return faults;
  const serving = current.filter(({ part }) => part !== CHAIN_PART).length;
  return [
    ok("cluster.image", `The images of all pods in ${name} are there.`),
    ok("cluster.pod", `Every pod in ${name} is ready (${String(serving)}).`),
  ];
}

/** One finding per image and reason, whichever pods wait for it. */
function imageFaults(namespace: string, pods: readonly PodFacts[]): readonly Finding[] {
  const byImage = new Map<string, { readonly container: ContainerFacts; readonly pods: string[] }>();
  for (const pod of pods) {
    for (const container of pod.containers.filter(waitsForImage)) {
      const known = byImage.get(container.image) ?? { container, pods: [] };
      known.pods.push(pod.name);
      byImage.set(container.image, known);
    }
  }
  return [...byImage].map(([image, { container, pods: waiting }]) => {
    const { reason, message } = container.waiting!;
    const found = `The image ${image} cannot be had for ${[...new Set(waiting)].join(", ")} in ${namespace}: ${reason}${said(message)}`;
    return fault("cluster.image", "fail", found, imageFix(reason, message));
  });
}

function imageFix(reason: string, message: string): string {
  if (reason === "InvalidImageName") {
    return "Write image.repository and image.tag of the release (of a microservice: its image) as REGISTRY/NAME and TAG.";
  }
  if (reason === "ErrImageNeverPull") {
    return "Load the image into every node, or set image.pullPolicy to IfNotPresent.";
  }
  if (/unauthorized|denied|authentication|forbidden|no basic auth/i.test(message)) {
    return "Make a Secret of type kubernetes.io/dockerconfigjson with the registry's credentials in this namespace, and name it in image.pullSecrets.";
  }
  if (/no such host|timeout|timed out|connection refused|x509|dial tcp|no route/i.test(message)) {
    return "See that the nodes reach the registry (name, proxy, its certificate); an image that is loaded into the nodes needs none, with image.pullPolicy IfNotPresent.";
  }
  return "See that image.repository and image.tag of the release (of a microservice: its image) name an image that the registry has.";
}

function judgePod({ name: namespace, warnings }: NamespaceFacts, pod: PodFacts): readonly Finding[] {
  const who = `The pod ${pod.name} in ${namespace}`;
  if (pod.unschedulable !== undefined) return [judgeUnschedulable(who, pod, pod.unschedulable)];
  const waiting = pod.containers.find(({ waiting: why }) => why !== undefined && CONTAINER_REASONS.has(why.reason));
  if (waiting !== undefined) return [judgeContainer(who, namespace, pod, waiting)];
  // Told already, once for all pods.
  if (pod.containers.some(waitsForImage)) return [];
  if (pod.part === CHAIN_PART || pod.isReady || pod.ageMs < STARTING_MS) return [];
  if (pod.lacks !== undefined && pod.lacks.length > 0) {
    return pod.lacks.map(({ name, detail, fix }) =>
      fault("cluster.pod", "fail", `${who} is not ready: it lacks the ${name}: ${detail}`, fix),
    );
  }
  const fix = `See kubectl -n ${namespace} describe pod ${pod.name}, and its log.`;
  const told = warnings.seen ? warnings.value.find(({ about }) => about === `Pod ${pod.name}`)?.message : undefined;
  return [fault("cluster.pod", "fail", `${who} is not ready${said(told ?? "")}`, fix)];
}

/** A chain waits for others to end, within its request's deadline; anything else waits for the operator. */
function judgeUnschedulable(who: string, { part }: PodFacts, message: string): Finding {
  const found = `${who} finds no node${said(message)}`;
  if (part !== CHAIN_PART) return fault("cluster.pod", "fail", found, schedulingFix(message));
  const fix =
    "If chains often wait so, lower settings.maxRuns or jobs.requests of the agent's release, or give the cluster another node.";
  return fault("cluster.pod", "warn", found, fix);
}

/** Reasons for which a container waits that nobody but an operator ends, besides those of images. */
const CONTAINER_REASONS = new Set([
  "CrashLoopBackOff",
  "CreateContainerConfigError",
  "CreateContainerError",
  "RunContainerError",
]);

function containerFix(namespace: string, pod: string, { name, waiting, ended }: ContainerFacts): string {
  if (waiting?.reason === "CreateContainerConfigError") {
    return "Make what it names, with all its keys; the pod then starts by itself. A steward's Secret is made by dynamos steward add.";
  }
  if (waiting?.reason !== "CrashLoopBackOff") {
    return `See kubectl -n ${namespace} describe pod ${pod}: the container's command or a mount is wrong.`;
  }
  return ended?.reason === "OOMKilled"
    ? "It was out of memory: raise resources.limits.memory of the release."
    : `Mend what it says; all of it: kubectl -n ${namespace} logs ${pod} -c ${name} --previous`;
}

function judgeContainer(who: string, namespace: string, pod: PodFacts, container: ContainerFacts): Finding {
  const { reason, message } = container.waiting!;
  const { ended } = container;
  const last = ended === undefined ? message : (ended.said ?? `${ended.reason}, exit code ${String(ended.exitCode)}`);
  const found = `${who} cannot run its container ${container.name}: ${reason}${said(last)}`;
  return fault("cluster.pod", "fail", found, containerFix(namespace, pod.name, container));
}

function schedulingFix(message: string): string {
  if (/insufficient/i.test(message))
    return "Lower resources.requests of the release, or give the cluster another node.";
  if (/PersistentVolumeClaim|volume/i.test(message)) {
    return "See the volumes below: a pod waits for its claims, and goes only where its volume can be.";
  }
  if (/taint|affinity|selector/i.test(message)) {
    return "Set nodeSelector, tolerations and affinity of the release so that they fit a node.";
  }
  return "See kubectl describe nodes.";
}

/** A workload whose pods were never made: the reason is an event's, and no pod's. */
function judgeWorkload(
  { name: namespace, pods, warnings }: NamespaceFacts,
  workload: WorkloadFacts,
): readonly Finding[] {
  const { kind, name, part, wanted, ready } = workload;
  // By its name alone, a pod of the policy enforcer's Deployment would be one of the orchestrator's.
  const own = pods.filter((pod) => pod.part === part && pod.name.startsWith(`${name}-`));
  if (ready >= wanted || own.length >= wanted) return [];
  const told = warnings.seen ? warnings.value.find((each) => isAbout(each, workload)) : undefined;
  const found = `${kind} ${name} in ${namespace} has ${String(own.length)} of ${String(wanted)} pods${said(told?.message ?? "")}`;
  return [
    fault(
      "cluster.pod",
      "fail",
      found,
      creationFix(told?.message ?? "", `kubectl -n ${namespace} describe ${kind.toLowerCase()} ${name}`),
    ),
  ];
}

function isAbout({ about, reason }: WarningFacts, { name }: WorkloadFacts): boolean {
  // A Deployment's pods are made by its ReplicaSets.
  return reason === "FailedCreate" && new RegExp(`^(StatefulSet|ReplicaSet) ${name}(-[a-z0-9]+)?$`).test(about);
}

function creationFix(message: string, command: string): string {
  if (/exceeded quota/.test(message))
    return "Raise the namespace's ResourceQuota, or lower replicas and resources of the release.";
  if (/violates PodSecurity/.test(message)) {
    return "What extraVolumes or microservices' images ask for is more than the namespace's Pod Security level allows: leave it out.";
  }
  return `See ${command}.`;
}

function waitsForImage({ waiting }: ContainerFacts): boolean {
  return waiting !== undefined && IMAGE_REASONS.has(waiting.reason);
}

function said(message: string): string {
  const text = message.trim().replace(/\s+/g, " ");
  if (text === "") return ".";
  const short = text.length > 400 ? `${text.slice(0, 400)}…` : text;
  return `: ${short}${/[.…]$/.test(short) ? "" : "."}`;
}
