/** Gathers what `kubernetes.ts` judges: reads of the cluster's API by whoever KUBECONFIG, or the pod's service account, says. */
import type { Clock } from "../../lib/clock.ts";
import { AppError } from "../../lib/errors.ts";
import { ApiRefusal, KubernetesApi } from "../../lib/jobs/kubernetes-api.ts";
import { attempt } from "./attempt.ts";
import type { ClusterFacts } from "./kubernetes-facts.ts";
import { probeNamespace, type WorkloadObject } from "./probe-namespace.ts";

/** Labels that all charts give to what they make. */
const PARTS = "app.kubernetes.io/part-of=dynamos";
const TIMEOUT_MS = 10_000;

/** Looks at these namespaces; none named: at all where parts are, or at the configuration's own where others are not to be seen. */
export async function probeKubernetes(named: readonly string[], clock: Clock): Promise<ClusterFacts> {
  const { outcome, result: api } = await attempt(async () => connect());
  if (api === undefined) return { reached: outcome, namespaces: [] };
  try {
    const begunMs = clock.now();
    const asked = await attempt(() => api.answer({ method: "GET", path: "/version" }));
    const endedMs = clock.now();
    if (asked.result === undefined) return { reached: asked.outcome, namespaces: [] };
    const namespaces = named.length > 0 ? named : await namespacesWithParts(api);
    const facts = [];
    // One after the other: the API server's limits are per user.
    for (const namespace of namespaces) facts.push(await probeNamespace(api, namespace, clock));
    return { reached: asked.outcome, ...clockOffset(asked.result.date, (begunMs + endedMs) / 2), namespaces: facts };
  } catch (thrown) {
    if (!(thrown instanceof AppError)) throw thrown;
    return { reached: { ok: false, code: thrown.code, message: thrown.message }, namespaces: [] };
  } finally {
    api.close();
  }
}

async function connect(): Promise<KubernetesApi> {
  const api = new KubernetesApi({ timeoutMs: TIMEOUT_MS });
  // Who may ask nothing at all learns it here.
  await api.text({ method: "GET", path: "/api" });
  return api;
}

async function namespacesWithParts(api: KubernetesApi): Promise<readonly string[]> {
  const found = new Set<string>();
  for (const resource of ["statefulsets", "deployments"]) {
    try {
      const list = await api.call<{ readonly items: readonly WorkloadObject[] }>({
        method: "GET",
        path: `/apis/apps/v1/${resource}`,
        query: { labelSelector: PARTS },
      });
      for (const { metadata } of list.items) if (metadata.namespace !== undefined) found.add(metadata.namespace);
    } catch (thrown) {
      if (thrown instanceof ApiRefusal && thrown.httpStatus === 403) return [api.namespace];
      throw thrown;
    }
  }
  return [...found].sort();
}

/** The server's `Date` is the beginning of its second: half a second later is what it means, give or take another half. */
function clockOffset(date: string, askedMs: number): { readonly clockOffsetMs?: number } {
  const serverMs = Date.parse(date);
  return Number.isNaN(serverMs) ? {} : { clockOffsetMs: serverMs + 500 - askedMs };
}
