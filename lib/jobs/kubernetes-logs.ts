/** What a chain's containers wrote, from their node. */
import { toAppError } from "../errors.ts";
import { ApiRefusal, type KubernetesApi } from "./kubernetes-api.ts";
import { allStatuses, type ContainerStatus, type PodObject } from "./kubernetes-objects.ts";
import type { LogLine } from "./job-runner.ts";

/** The last lines of each container of a pod, microservices first in chain order. What has none gives none. */
export async function podLogs(api: KubernetesApi, pod: PodObject, lines: number): Promise<readonly LogLine[]> {
  const names = [...pod.spec.containers, ...(pod.spec.initContainers ?? [])].map(({ name }) => name);
  const logs = await Promise.all(
    names.map(async (container) =>
      (await containerLog(api, pod, container, lines)).map((line): LogLine => ({ container, line })),
    ),
  );
  return logs.flat();
}

/** The last lines of one container. */
export async function containerLog(
  api: KubernetesApi,
  pod: PodObject,
  container: string,
  lines: number,
): Promise<readonly string[]> {
  if (lines <= 0) return [];
  const status = allStatuses(pod).find(({ name }) => name === container);
  if (status === undefined || !hasBegun(status)) return [];
  const before = (): Promise<string | undefined> => readLog(api, pod, container, { tailLines: lines, previous: true });
  // A sidecar's launcher that was started again writes nothing: its program's log is the previous one.
  if (status.restartCount > 0) return linesOf((await before()) ?? status.lastState?.terminated?.message ?? "", lines);
  const text = await readLog(api, pod, container, { tailLines: lines });
  // It may have been started again since the pod was seen.
  return linesOf(text || ((await before()) ?? ""), lines);
}

function hasBegun({ state, restartCount }: ContainerStatus): boolean {
  return restartCount > 0 || state?.running !== undefined || state?.terminated !== undefined;
}

async function readLog(
  api: KubernetesApi,
  { metadata }: PodObject,
  container: string,
  options: Readonly<Record<string, string | number | boolean>>,
): Promise<string | undefined> {
  const path = `/api/v1/namespaces/${metadata.namespace ?? ""}/pods/${metadata.name}/log`;
  try {
    const text = await api.text({ method: "GET", path, query: { container, ...options } });
    // The kubelet says it with status 200.
    return text.startsWith("unable to retrieve container logs for ") ? undefined : text;
  } catch (error) {
    // No pod, or no log of it any more (400): nothing, as of a job that is removed.
    if (error instanceof ApiRefusal && [400, 404].includes(error.httpStatus)) return undefined;
    throw toAppError(error);
  }
}

function linesOf(text: string, lines: number): readonly string[] {
  const all = text.split(/\r?\n/);
  if (all.at(-1) === "") all.pop();
  return all.slice(-lines);
}
