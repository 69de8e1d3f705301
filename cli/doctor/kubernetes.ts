/** The doctor's look at a cluster. Facts in, findings out; pure. Its siblings each judge one kind of thing. */
import { fault, ok, skip, type Finding } from "./findings.ts";
import type { ClusterFacts, NamespaceFacts, NetworkTrial } from "./kubernetes-facts.ts";
import { judgeClaims, judgeNamespace, judgeNeeds, judgePolicies, judgeQuotas } from "./kubernetes-namespace.ts";
import { judgePods } from "./kubernetes-pods.ts";
import { judgeRights } from "./kubernetes-rights.ts";

/** As of services; the API server's time has whole seconds. */
const CLOCK_FAIL_MS = 30_000;
const CLOCK_WARN_MS = 5_000;

/** Judges the cluster as a whole. */
export function judgeCluster({ reached, clockOffsetMs, namespaces }: ClusterFacts): readonly Finding[] {
  if (!reached.ok) {
    return [
      fault(
        "cluster.reachable",
        "fail",
        `The cluster cannot be asked: ${reached.message}`,
        "Name a kubeconfig in KUBECONFIG that kubectl works with (kubectl auth whoami), or run this in a pod with a service account.",
      ),
    ];
  }
  const found: Finding[] = [ok("cluster.reachable", `The API server answers (${String(reached.ms)} ms).`)];
  if (clockOffsetMs !== undefined) found.push(judgeClock(clockOffsetMs));
  if (!namespaces.some(({ workloads }) => workloads.length > 0)) found.push(nothingThere(namespaces));
  return found;
}

/** Judges whether policies are enforced. */
export function judgeTrial(trial: NetworkTrial): Finding {
  if (!trial.tried)
    return skip("cluster.enforcement", `No connection that no policy opens could be tried: ${trial.why}`);
  const { from, to, isOpen } = trial;
  if (!isOpen) return ok("cluster.enforcement", `NetworkPolicies are enforced: ${from} does not reach ${to}.`);
  return fault(
    "cluster.enforcement",
    "fail",
    `${from} reaches ${to}, which no policy opens: NetworkPolicies are not enforced, or not there.`,
    "Give the cluster a network plugin that enforces them (Calico, Cilium and others do), and set networkPolicy.enabled of all releases.",
  );
}

/** Judges one namespace. */
export function judgeClusterNamespace(facts: NamespaceFacts): readonly Finding[] {
  return [
    ...judgeNamespace(facts),
    ...judgeRights(facts),
    ...judgeNeeds(facts),
    ...judgePods(facts),
    ...judgeClaims(facts),
    ...judgeQuotas(facts),
    ...judgePolicies(facts),
  ];
}

function judgeClock(offsetMs: number): Finding {
  const off = Math.abs(offsetMs);
  if (off <= CLOCK_WARN_MS) return ok("cluster.clock", "The API server's clock agrees with this machine's.");
  const found = `The API server's clock is ${(off / 1000).toFixed(0)} s ${offsetMs > 0 ? "ahead of" : "behind"} this machine's.`;
  const fix = "Let this machine and the nodes keep their time by NTP; up to 30 s are borne.";
  return fault("cluster.clock", off > CLOCK_FAIL_MS ? "fail" : "warn", found, fix);
}

function nothingThere(namespaces: readonly NamespaceFacts[]): Finding {
  const where = namespaces.length === 0 ? "any namespace" : namespaces.map(({ name }) => name).join(", ");
  return fault(
    "cluster.parts",
    "fail",
    `No part of a deployment was found in ${where}.`,
    "Name its namespaces (--namespace NAME …), or install the charts (docs/operations.md).",
  );
}
