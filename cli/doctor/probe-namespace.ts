/** Gathers what is judged of one namespace. What may not be looked at is said to be unseen, and is no fault. */
import type { Clock } from "../../lib/clock.ts";
import { ApiRefusal, type KubernetesApi } from "../../lib/jobs/kubernetes-api.ts";
import { quantityOf } from "../../lib/jobs/kubernetes-quantity.ts";
import type {
  ClaimFacts,
  LabelSelector,
  NamespaceFacts,
  PolicyFacts,
  QuotaFacts,
  RightsFacts,
  Seen,
  WarningFacts,
  WorkloadFacts,
} from "./kubernetes-facts.ts";
import { EXCESS_RIGHTS, NEEDED_RIGHTS, rightName, type Right } from "./kubernetes-rights.ts";
import { claimsOf, needsOf, partOf, type PodTemplate } from "./pod-needs.ts";
import { probePods } from "./probe-pods.ts";

const WARNINGS_OF_MS = 3_600_000;
/** Reviews of one service account that are asked at once. */
const REVIEWS_AT_ONCE = 6;

interface Meta {
  readonly name: string;
  readonly namespace?: string;
  readonly labels?: Readonly<Record<string, string>>;
}

/** A StatefulSet or Deployment (apps/v1), as far as it is read. */
export interface WorkloadObject {
  readonly metadata: Meta;
  readonly spec: {
    readonly replicas?: number;
    readonly template: PodTemplate;
    readonly volumeClaimTemplates?: readonly { readonly metadata: Meta }[];
  };
  readonly status?: { readonly readyReplicas?: number };
}

/** Looks at one namespace. */
export async function probeNamespace(api: KubernetesApi, name: string, clock: Clock): Promise<NamespaceFacts> {
  const core = `/api/v1/namespaces/${name}`;
  const workloads = await probeWorkloads(api, name);
  return {
    name,
    labels: await seeing(async () => (await get<{ metadata: Meta }>(api, core)).metadata.labels ?? {}),
    workloads,
    pods: await probePods(api, name, clock),
    secrets: await seeing(() => keysOf(api, `${core}/secrets`)),
    configMaps: await seeing(() => keysOf(api, `${core}/configmaps`)),
    claims: await seeing(() => probeClaims(api, core)),
    quotas: await seeing(() => probeQuotas(api, core)),
    policies: await seeing(() => probePolicies(api, name)),
    warnings: await seeing(() => probeWarnings(api, core, clock)),
    rights: await probeRights(api, name, workloads),
  };
}

async function probeWorkloads(api: KubernetesApi, namespace: string): Promise<readonly WorkloadFacts[]> {
  const kinds = { StatefulSet: "statefulsets", Deployment: "deployments" } as const;
  const found: WorkloadFacts[] = [];
  for (const kind of ["StatefulSet", "Deployment"] as const) {
    const path = `/apis/apps/v1/namespaces/${namespace}/${kinds[kind]}`;
    const items = await list<WorkloadObject>(api, path, { labelSelector: "app.kubernetes.io/part-of=dynamos" });
    for (const { metadata, spec, status } of items) {
      found.push({
        kind,
        name: metadata.name,
        part: partOf(metadata.labels),
        serviceAccount: spec.template.spec.serviceAccountName ?? "default",
        wanted: spec.replicas ?? 1,
        ready: status?.readyReplicas ?? 0,
        needs: needsOf(spec.template),
        claims: [
          ...claimsOf(spec.template),
          ...(spec.volumeClaimTemplates ?? []).map((each) => `${each.metadata.name}-${metadata.name}-`),
        ],
      });
    }
  }
  return found;
}

/** Names and keys alone: values do not stay. */
async function keysOf(api: KubernetesApi, path: string): Promise<ReadonlyMap<string, readonly string[]>> {
  const items = await list<{ metadata: Meta; data?: object; binaryData?: object }>(api, path);
  return new Map(
    items.map(({ metadata, data = {}, binaryData = {} }) => [
      metadata.name,
      [...Object.keys(data), ...Object.keys(binaryData)],
    ]),
  );
}

async function probeClaims(api: KubernetesApi, core: string): Promise<readonly ClaimFacts[]> {
  const items = await list<{
    readonly metadata: Meta;
    readonly spec: {
      readonly storageClassName?: string;
      readonly resources?: { readonly requests?: { readonly storage?: string } };
    };
    readonly status?: { readonly phase?: string };
  }>(api, `${core}/persistentvolumeclaims`);
  return items.map(({ metadata, spec, status }) => ({
    name: metadata.name,
    phase: status?.phase ?? "Pending",
    storageClass: spec.storageClassName ?? "",
    size: spec.resources?.requests?.storage ?? "?",
  }));
}

async function probeQuotas(api: KubernetesApi, core: string): Promise<readonly QuotaFacts[]> {
  const items = await list<{
    readonly metadata: Meta;
    readonly status?: {
      readonly hard?: Readonly<Record<string, string>>;
      readonly used?: Readonly<Record<string, string>>;
    };
  }>(api, `${core}/resourcequotas`);
  return items.flatMap(({ metadata, status }) =>
    Object.entries(status?.hard ?? {}).map(([resource, hard]) => {
      const used = status?.used?.[resource] ?? "0";
      return {
        name: metadata.name,
        resource,
        used: quantityOf(used),
        hard: quantityOf(hard),
        shown: `${used} of ${hard} are used`,
      };
    }),
  );
}

async function probePolicies(api: KubernetesApi, namespace: string): Promise<readonly PolicyFacts[]> {
  const path = `/apis/networking.k8s.io/v1/namespaces/${namespace}/networkpolicies`;
  const items = await list<{
    readonly metadata: Meta;
    readonly spec: {
      readonly podSelector?: LabelSelector;
      readonly policyTypes?: readonly string[];
      readonly egress?: unknown;
    };
  }>(api, path);
  return items.map(({ metadata, spec }) => ({
    name: metadata.name,
    selector: spec.podSelector ?? {},
    // Where none are named (networking.k8s.io/v1): Ingress always, Egress where there are rules for it.
    types: spec.policyTypes ?? ["Ingress", ...(spec.egress === undefined ? [] : ["Egress"])],
  }));
}

async function probeWarnings(api: KubernetesApi, core: string, clock: Clock): Promise<readonly WarningFacts[]> {
  const items = await list<{
    readonly involvedObject: { readonly kind: string; readonly name: string };
    readonly reason?: string;
    readonly message?: string;
    readonly lastTimestamp?: string | null;
    readonly eventTime?: string | null;
  }>(api, `${core}/events`, { fieldSelector: "type=Warning" });
  const timeOf = (event: (typeof items)[number]): number => Date.parse(event.lastTimestamp ?? event.eventTime ?? "");
  return items
    .filter((event) => !(clock.now() - timeOf(event) > WARNINGS_OF_MS))
    .sort((one, other) => timeOf(other) - timeOf(one))
    .map(({ involvedObject: { kind, name }, reason = "", message = "" }) => ({
      about: `${kind} ${name}`,
      reason,
      message,
    }));
}

async function probeRights(
  api: KubernetesApi,
  namespace: string,
  workloads: readonly WorkloadFacts[],
): Promise<readonly RightsFacts[]> {
  const accounts = new Set(
    workloads.filter(({ part }) => part === "dynamos-agent").map(({ serviceAccount }) => serviceAccount),
  );
  return Promise.all(
    [...accounts].map(async (serviceAccount) => ({
      serviceAccount,
      answers: await seeing(async () => {
        const who = `system:serviceaccount:${namespace}:${serviceAccount}`;
        const needed = await review(api, namespace, who, NEEDED_RIGHTS);
        const excess = await review(api, namespace, who, EXCESS_RIGHTS);
        return {
          missing: NEEDED_RIGHTS.filter((_right, index) => needed[index] === false).map(rightName),
          excess: EXCESS_RIGHTS.filter((_right, index) => excess[index] === true).map(rightName),
        };
      }),
    })),
  );
}

/** Whether an account may, for each of these rights: asked of the API server, as it would decide (authorization.k8s.io/v1). */
async function review(
  api: KubernetesApi,
  namespace: string,
  user: string,
  rights: readonly Right[],
): Promise<readonly boolean[]> {
  const answers: boolean[] = [];
  const groups = ["system:serviceaccounts", `system:serviceaccounts:${namespace}`, "system:authenticated"];
  for (let first = 0; first < rights.length; first += REVIEWS_AT_ONCE) {
    const some = await Promise.all(
      rights.slice(first, first + REVIEWS_AT_ONCE).map((right) =>
        api.call<{ readonly status?: { readonly allowed?: boolean } }>({
          method: "POST",
          path: `/apis/authorization.k8s.io/v1/namespaces/${namespace}/localsubjectaccessreviews`,
          body: {
            apiVersion: "authorization.k8s.io/v1",
            kind: "LocalSubjectAccessReview",
            metadata: { namespace },
            spec: { user, groups, resourceAttributes: { namespace, ...right } },
          },
        }),
      ),
    );
    answers.push(...some.map(({ status }) => status?.allowed === true));
  }
  return answers;
}

function get<Answer>(api: KubernetesApi, path: string, query: Readonly<Record<string, string>> = {}): Promise<Answer> {
  return api.call<Answer>({ method: "GET", path, query });
}

async function list<Item>(
  api: KubernetesApi,
  path: string,
  query: Readonly<Record<string, string>> = {},
): Promise<readonly Item[]> {
  return (await get<{ readonly items: readonly Item[] }>(api, path, query)).items;
}

/** What cannot be looked at for want of a right, or went while others were looked at, is unseen; any other failure is one. */
async function seeing<Value>(look: () => Promise<Value>): Promise<Seen<Value>> {
  try {
    return { seen: true, value: await look() };
  } catch (thrown) {
    const status = thrown instanceof ApiRefusal ? thrown.httpStatus : 0;
    if (status === 403) return { seen: false, why: "who asks here may not (an administrator of the namespace may)." };
    if (status === 404) return { seen: false, why: "it is not there." };
    throw thrown;
  }
}
