/** Gathers what is judged of the pods of a namespace: their states, the last words of those that ended, and their own `/ready`. */
import type { Clock } from "../../lib/clock.ts";
import { AppError } from "../../lib/errors.ts";
import type { KubernetesApi } from "../../lib/jobs/kubernetes-api.ts";
import type { ContainerFacts, PodFacts } from "./kubernetes-facts.ts";
import { partOf, type PodSpec } from "./pod-needs.ts";

interface Terminated {
  readonly exitCode: number;
  readonly reason?: string;
}

interface ContainerStatus {
  readonly name: string;
  readonly image: string;
  readonly restartCount: number;
  readonly state?: {
    readonly waiting?: { readonly reason?: string; readonly message?: string };
    readonly terminated?: Terminated;
  };
  readonly lastState?: { readonly terminated?: Terminated };
}

interface PodObject {
  readonly metadata: {
    readonly name: string;
    readonly labels?: Readonly<Record<string, string>>;
    readonly creationTimestamp?: string;
    readonly deletionTimestamp?: string;
  };
  readonly spec: PodSpec;
  readonly status?: {
    readonly phase?: string;
    readonly podIP?: string;
    readonly conditions?: readonly {
      readonly type: string;
      readonly status: string;
      readonly reason?: string;
      readonly message?: string;
    }[];
    readonly containerStatuses?: readonly ContainerStatus[];
    readonly initContainerStatuses?: readonly ContainerStatus[];
  };
}

/** Of a log, so much is read for its last word. */
const TAIL_LINES = 20;

/** All pods of the charts and of chains. */
export async function probePods(api: KubernetesApi, namespace: string, clock: Clock): Promise<readonly PodFacts[]> {
  const path = `/api/v1/namespaces/${namespace}/pods`;
  const labelSelector = "app.kubernetes.io/part-of=dynamos";
  const { items } = await api.call<{ readonly items: readonly PodObject[] }>({
    method: "GET",
    path,
    query: { labelSelector },
  });
  return Promise.all(items.map((pod) => probePod(api, path, pod, clock)));
}

async function probePod(api: KubernetesApi, path: string, pod: PodObject, clock: Clock): Promise<PodFacts> {
  const { metadata, status = {} } = pod;
  const conditions = status.conditions ?? [];
  const isReady = conditions.some(({ type, status: is }) => type === "Ready" && is === "True");
  const scheduled = conditions.find(({ type }) => type === "PodScheduled");
  const isRunning =
    status.phase === "Running" && (status.containerStatuses ?? []).every(({ state }) => state?.waiting === undefined);
  const statuses = [...(status.initContainerStatuses ?? []), ...(status.containerStatuses ?? [])];
  const port = httpPort(pod);
  const lacks = isReady || !isRunning ? undefined : await lacksOf(api, path, pod);
  return {
    name: metadata.name,
    part: partOf(metadata.labels),
    labels: metadata.labels ?? {},
    phase: status.phase ?? "Pending",
    isReady,
    isEnding: metadata.deletionTimestamp !== undefined,
    ageMs: clock.now() - Date.parse(metadata.creationTimestamp ?? ""),
    ...(port === undefined || status.podIP === undefined ? {} : { address: { ip: status.podIP, port } }),
    ...(scheduled?.reason === "Unschedulable" ? { unschedulable: scheduled.message ?? scheduled.reason } : {}),
    containers: await Promise.all(statuses.map((each) => containerFacts(api, `${path}/${metadata.name}`, each))),
    ...(lacks === undefined ? {} : { lacks }),
  };
}

async function containerFacts(api: KubernetesApi, pod: string, status: ContainerStatus): Promise<ContainerFacts> {
  const { name, image, restartCount: restarts, state, lastState } = status;
  const { waiting } = state ?? {};
  const ended = state?.terminated ?? lastState?.terminated;
  const said = waiting?.reason === "CrashLoopBackOff" ? await lastWord(api, pod, name) : undefined;
  return {
    name,
    image,
    restarts,
    ...(waiting?.reason === undefined ? {} : { waiting: { reason: waiting.reason, message: waiting.message ?? "" } }),
    ...(ended === undefined
      ? {}
      : {
          ended: {
            reason: ended.reason ?? "ended",
            exitCode: ended.exitCode,
            ...(said === undefined ? {} : { said }),
          },
        }),
  };
}

/** Why a container's earlier life ended, by its own log: of our programs the error, of others the last line. */
async function lastWord(api: KubernetesApi, pod: string, container: string): Promise<string | undefined> {
  const query = { container, previous: true, tailLines: TAIL_LINES };
  const text = await readable(() => api.text({ method: "GET", path: `${pod}/log`, query }));
  const lines = (text ?? "").split("\n").filter((line) => line.trim() !== "");
  const errors = lines.flatMap((line) => errorOf(line));
  return errors.at(-1) ?? lines.at(-1);
}

function errorOf(line: string): readonly string[] {
  try {
    const { error } = JSON.parse(line) as { readonly error?: { readonly message?: string } };
    return error?.message === undefined ? [] : [error.message];
  } catch (thrown) {
    if (!(thrown instanceof SyntaxError)) throw thrown;
    return [];
  }
}

/** What a pod that runs and is not ready says itself; undefined where it cannot be asked through the API server. */
async function lacksOf(api: KubernetesApi, path: string, pod: PodObject): Promise<PodFacts["lacks"]> {
  const port = httpPort(pod);
  if (port === undefined) return undefined;
  const { metadata, spec } = pod;
  const variables = spec.containers.flatMap(({ env = [] }) => env.map(({ name }) => name));
  const scheme = variables.includes("DYNAMOS_TLS_CERT_FILE") ? "https" : "http";
  const place = `${path}/${scheme}:${metadata.name}:${String(port)}/proxy/ready`;
  const answer = await readable(() => api.answer({ method: "GET", path: place }));
  if (answer === undefined) return undefined;
  return dependenciesIn(answer.text)
    .filter(({ ok, required }) => !ok && required !== false)
    .map(({ name, detail = "no reason given", fix = "See its log." }) => ({ name, detail, fix }));
}

function httpPort({ spec }: PodObject): number | undefined {
  const ports = spec.containers.flatMap((container) => container.ports ?? []);
  return ports.find(({ name }) => name === "http")?.containerPort;
}

interface Dependency {
  readonly name: string;
  readonly ok: boolean;
  readonly required?: boolean;
  readonly detail?: string;
  readonly fix?: string;
}

function dependenciesIn(text: string): readonly Dependency[] {
  try {
    const { dependencies } = JSON.parse(text) as { readonly dependencies?: readonly Dependency[] };
    return dependencies ?? [];
  } catch (thrown) {
    if (!(thrown instanceof SyntaxError)) throw thrown;
    return [];
  }
}

/** What is good to know, and not there for everybody, or not any more: without it a finding says less. */
async function readable<Value>(read: () => Promise<Value>): Promise<Value | undefined> {
  try {
    return await read();
  } catch (thrown) {
    if (thrown instanceof AppError) return undefined;
    throw thrown;
  }
}
