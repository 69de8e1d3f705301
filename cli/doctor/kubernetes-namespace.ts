/** The doctor's look at what stands around the pods of a namespace: Pod Security, Secrets, volumes, quotas, network. Pure. */
import { fault, ok, skip, type Finding } from "./findings.ts";
import type { ClaimFacts, LabelSelector, NamespaceFacts, Needed, PolicyFacts } from "./kubernetes-facts.ts";
import { CHAIN_PART } from "./kubernetes-pods.ts";

const ENFORCE = "pod-security.kubernetes.io/enforce";
/** A quota that is used up to here has no room for another chain, in all likelihood. */
const QUOTA_WARN = 0.9;

/** Judges the namespace's Pod Security level. */
export function judgeNamespace({ name, labels }: NamespaceFacts): readonly Finding[] {
  if (!labels.seen)
    return [skip("cluster.namespace", `The labels of the namespace ${name} cannot be read: ${labels.why}`)];
  const level = labels.value[ENFORCE];
  if (level === "restricted") return [ok("cluster.namespace", `${name} enforces Pod Security "restricted".`)];
  const now = level === undefined ? "enforces no Pod Security level" : `enforces Pod Security "${level}"`;
  return [
    fault(
      "cluster.namespace",
      "warn",
      `${name} ${now}: a microservice's image could ask for more than it needs.`,
      `kubectl label namespace ${name} ${ENFORCE}=restricted --overwrite`,
    ),
  ];
}

/** Judges whether the Secrets and ConfigMaps that pods name are there, with the keys that they name. */
export function judgeNeeds({ name, workloads, secrets, configMaps }: NamespaceFacts): readonly Finding[] {
  const needs = workloads.flatMap((workload) => workload.needs.map((need) => ({ need, workload })));
  const kinds = { Secret: secrets, ConfigMap: configMaps };
  const found: Finding[] = [];
  for (const kind of ["Secret", "ConfigMap"] as const) {
    const there = kinds[kind];
    const named = needs.filter(({ need }) => need.kind === kind);
    if (named.length === 0) continue;
    if (!there.seen) {
      found.push(skip("cluster.secret", `The ${kind}s in ${name} cannot be looked at: ${there.why}`));
      continue;
    }
    const faults = [...mergedNeeds(named)].flatMap(([wanted, { keys, by }]) =>
      judgeNeed(name, { kind, name: wanted, keys }, by, there.value.get(wanted)),
    );
    const count = new Set(named.map(({ need }) => need.name)).size;
    found.push(
      ...(faults.length > 0
        ? faults
        : [
            ok("cluster.secret", `Every ${kind} that pods in ${name} name is there, with its keys (${String(count)}).`),
          ]),
    );
  }
  return found;
}

function mergedNeeds(
  named: readonly { readonly need: Needed; readonly workload: { readonly name: string } }[],
): ReadonlyMap<string, { readonly keys: readonly string[]; readonly by: readonly string[] }> {
  const merged = new Map<string, { keys: readonly string[]; by: readonly string[] }>();
  for (const { need, workload } of named) {
    const known = merged.get(need.name) ?? { keys: [], by: [] };
    merged.set(need.name, {
      keys: [...new Set([...known.keys, ...need.keys])],
      by: [...new Set([...known.by, workload.name])],
    });
  }
  return merged;
}

function judgeNeed(
  namespace: string,
  { kind, name, keys }: Needed,
  by: readonly string[],
  there: readonly string[] | undefined,
): readonly Finding[] {
  const what = `The ${kind} ${name} in ${namespace}, which ${by.join(", ")} names,`;
  if (there === undefined) {
    return [
      fault("cluster.secret", "fail", `${what} is not there: its pods wait for it.`, needFix(namespace, kind, name)),
    ];
  }
  const missing = keys.filter((key) => !there.includes(key));
  if (missing.length === 0) return [];
  const found = `${what} has no ${missing.join(", ")}: pods that need it do not start.`;
  return [fault("cluster.secret", "fail", found, needFix(namespace, kind, name))];
}

function needFix(namespace: string, kind: string, name: string): string {
  if (kind === "Secret" && name.includes("credentials")) {
    return `Have the core make it: kubectl -n CORE exec deploy/core-console -- dynamos steward add NAME --secret ${name} | kubectl -n ${namespace} apply -f -`;
  }
  if (kind === "Secret" && /tls|cert/.test(name)) {
    return `Make it, with tls.crt, tls.key and the authority's ca.crt: kubectl -n ${namespace} create secret generic ${name} --from-file …`;
  }
  return `Make it in ${namespace}, or helm upgrade the release that brings it.`;
}

/** Judges claims that have no volume, as far as pods name them: many classes make a volume only when a pod needs it. */
export function judgeClaims(facts: NamespaceFacts): readonly Finding[] {
  const { name, claims, workloads } = facts;
  if (!claims.seen) return [skip("cluster.volume", `The claims of volumes in ${name} cannot be read: ${claims.why}`)];
  const named = workloads.flatMap((workload) => workload.claims);
  const isNamed = (claim: string): boolean =>
    named.some((each) => claim === each || (each.endsWith("-") && claim.startsWith(each)));
  const inUse = claims.value.filter((claim) => isNamed(claim.name));
  if (inUse.length === 0) return [];
  const faults = inUse.filter(({ phase }) => phase !== "Bound").map((claim) => judgeClaim(facts, claim));
  const well = `Every claim that pods in ${name} name has its volume (${String(inUse.length)}).`;
  return faults.length > 0 ? faults : [ok("cluster.volume", well)];
}

function judgeClaim(
  { name, warnings }: NamespaceFacts,
  { name: claim, phase, size, storageClass }: ClaimFacts,
): Finding {
  const told = warnings.seen
    ? warnings.value.find(({ about }) => about === `PersistentVolumeClaim ${claim}`)?.message
    : undefined;
  const of = storageClass === "" ? "no storage class" : `storage class ${storageClass}`;
  const found = `The claim ${claim} in ${name} (${size}, ${of}) is ${phase}${told === undefined ? "." : `: ${told}`}`;
  if (phase === "Lost")
    return fault("cluster.volume", "fail", found, "Its volume is gone: restore it from the back-up.");
  const fix =
    "Name a storage class that the cluster has (kubectl get storageclass), or make one the default; a static volume has to be as large and of the same access mode.";
  if (told !== undefined) return fault("cluster.volume", "fail", found, fix);
  return fault(
    "cluster.volume",
    "warn",
    found,
    `It waits for its pod to find a node, if there is a fault of that above; else: ${fix}`,
  );
}

/** Judges quotas that are used up, or soon are. */
export function judgeQuotas({ name, quotas }: NamespaceFacts): readonly Finding[] {
  if (!quotas.seen) return [skip("cluster.quota", `The quotas of ${name} cannot be read: ${quotas.why}`)];
  if (quotas.value.length === 0) return [];
  const faults = quotas.value
    .filter(({ used, hard }) => used >= hard * QUOTA_WARN)
    .map(({ name: quota, resource, used, hard, shown }) =>
      fault(
        "cluster.quota",
        used >= hard ? "fail" : "warn",
        `The quota ${quota} in ${name} has ${used >= hard ? "no" : "little"} ${resource} left: ${shown}.`,
        "Raise it, or lower DYNAMOS_MAX_RUNS (settings.maxRuns) and the resources of the release: every chain is a pod.",
      ),
    );
  return faults.length > 0 ? faults : [ok("cluster.quota", `The quotas of ${name} leave room for chains.`)];
}

/** Judges whether every pod of ours is closed both ways but for what its policies open. */
export function judgePolicies({ name, policies, pods, workloads }: NamespaceFacts): readonly Finding[] {
  if (!policies.seen)
    return [skip("cluster.network", `The NetworkPolicies of ${name} cannot be read: ${policies.why}`)];
  const agents = workloads.filter(({ part }) => part === "dynamos-agent");
  // Chains come later: what will select them is judged by the labels that they will have.
  const chains =
    agents.length === 0
      ? []
      : [
          {
            name: "the pods of chains",
            labels: { "app.kubernetes.io/name": CHAIN_PART, "app.kubernetes.io/managed-by": "dynamos-agent" },
          },
        ];
  const open = [
    ...pods.filter(({ part }) => part !== CHAIN_PART).map((pod) => ({ name: pod.name, labels: pod.labels })),
    ...chains,
  ].flatMap(({ name: who, labels }) => {
    const types = new Set(
      policies.value.filter(({ selector }) => selects(selector, labels)).flatMap((each) => each.types),
    );
    const missing = ["Ingress", "Egress"].filter((type) => !types.has(type));
    return missing.length === 0 ? [] : [`${who} (${missing.join(", ").toLowerCase()})`];
  });
  if (open.length === 0)
    return [ok("cluster.network", `NetworkPolicies close every pod in ${name} but for what it needs.`)];
  return [
    fault(
      "cluster.network",
      "warn",
      `No NetworkPolicy in ${name} closes ${open.join(", ")}.`,
      "Set networkPolicy.enabled of the release. That the cluster enforces policies is the network plugin's matter: see docs/operations.md.",
    ),
  ];
}

/** Whether a selector (meta/v1, LabelSelector) selects labels; an empty one selects all. */
export function selects(
  { matchLabels = {}, matchExpressions = [] }: PolicyFacts["selector"],
  labels: Readonly<Record<string, string>>,
): boolean {
  const isEqual = Object.entries(matchLabels).every(([key, value]) => labels[key] === value);
  return isEqual && matchExpressions.every((expression) => fits(expression, labels));
}

function fits(
  { key, operator, values = [] }: NonNullable<LabelSelector["matchExpressions"]>[number],
  labels: Readonly<Record<string, string>>,
): boolean {
  const value = labels[key];
  switch (operator) {
    case "In":
      return value !== undefined && values.includes(value);
    case "NotIn":
      return value === undefined || !values.includes(value);
    case "Exists":
      return value !== undefined;
    case "DoesNotExist":
      return value === undefined;
    default:
      return false;
  }
}
