/** Pods of a test's namespaces: who they are, and the hand that ends them. */
import { kubectl, kubectlJson } from "./cluster-tools.ts";

/** A pod, as far as tests look at it. */
export interface PodState {
  readonly name: string;
  readonly uid: string;
  readonly isReady: boolean;
  /** Of all its containers together. */
  readonly restarts: number;
}

interface Pod {
  readonly metadata: { readonly name: string; readonly uid: string; readonly deletionTimestamp?: string };
  readonly status: {
    readonly conditions?: readonly { readonly type: string; readonly status: string }[];
    readonly containerStatuses?: readonly ContainerStatus[];
    readonly initContainerStatuses?: readonly ContainerStatus[];
  };
}

interface ContainerStatus {
  readonly restartCount: number;
}

/** The pods of a namespace, or those that a selector finds; by name. Those that are being deleted are not among them. */
export async function podsOf(namespace: string, selector?: string): Promise<readonly PodState[]> {
  const which = selector === undefined ? [] : ["-l", selector];
  const { items } = await kubectlJson<{ readonly items: readonly Pod[] }>(["get", "pods", "-n", namespace, ...which]);
  return items
    .filter(({ metadata }) => metadata.deletionTimestamp === undefined)
    .map(({ metadata, status }) => ({
      name: metadata.name,
      uid: metadata.uid,
      isReady: (status.conditions ?? []).some(({ type, status: is }) => type === "Ready" && is === "True"),
      restarts: [...(status.containerStatuses ?? []), ...(status.initContainerStatuses ?? [])].reduce(
        (sum, { restartCount }) => sum + restartCount,
        0,
      ),
    }))
    .sort((one, other) => one.name.localeCompare(other.name));
}

/** Kills pods, at once: their processes get no time to end well. */
export async function killPod(namespace: string, ...pods: readonly string[]): Promise<void> {
  await kubectl(["delete", "pod", ...pods, "-n", namespace, "--grace-period=0", "--force", "--wait=false"]);
}

/** Ends the program of one container, which the kubelet starts again. */
export async function endContainer(namespace: string, pod: string, container: string): Promise<void> {
  const script = "process.kill(1, 'SIGTERM')";
  await kubectl(["exec", "-n", namespace, pod, "-c", container, "--", "node", "-e", script]);
}
