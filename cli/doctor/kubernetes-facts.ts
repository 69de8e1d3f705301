/** What the doctor finds in a cluster: Kubernetes' objects as far as they are looked at, never the values of Secrets. */
import type { Outcome } from "./findings.ts";

/** All that was found. */
export interface ClusterFacts {
  readonly reached: Outcome;
  /** The API server's clock minus this machine's, in milliseconds; the server tells whole seconds. */
  readonly clockOffsetMs?: number;
  readonly namespaces: readonly NamespaceFacts[];
}

/** A connection that no policy opens, and that was tried. */
export type NetworkTrial =
  | { readonly tried: true; readonly from: string; readonly to: string; readonly isOpen: boolean }
  | { readonly tried: false; readonly why: string };

/** What may be looked at, or why not: most of these rights are an administrator's of the namespace. */
export type Seen<Value> =
  { readonly seen: true; readonly value: Value } | { readonly seen: false; readonly why: string };

/** What was found in one namespace. */
export interface NamespaceFacts {
  readonly name: string;
  readonly labels: Seen<Readonly<Record<string, string>>>;
  readonly workloads: readonly WorkloadFacts[];
  readonly pods: readonly PodFacts[];
  /** Name to keys; of Secrets and of ConfigMaps. */
  readonly secrets: Seen<ReadonlyMap<string, readonly string[]>>;
  readonly configMaps: Seen<ReadonlyMap<string, readonly string[]>>;
  readonly claims: Seen<readonly ClaimFacts[]>;
  readonly quotas: Seen<readonly QuotaFacts[]>;
  readonly policies: Seen<readonly PolicyFacts[]>;
  /** Warnings of the last hour, the latest of each kind. */
  readonly warnings: Seen<readonly WarningFacts[]>;
  readonly rights: readonly RightsFacts[];
}

/** A StatefulSet or Deployment. */
export interface WorkloadFacts {
  readonly kind: "StatefulSet" | "Deployment";
  readonly name: string;
  /** `dynamos-agent`, `dynamos-orchestrator`, … */
  readonly part: string;
  readonly serviceAccount: string;
  readonly wanted: number;
  readonly ready: number;
  readonly needs: readonly Needed[];
  /** Claims of volumes: their names, and the beginnings of those that a StatefulSet makes for each pod. */
  readonly claims: readonly string[];
}

/** A Secret or ConfigMap that pods name. */
export interface Needed {
  readonly kind: "Secret" | "ConfigMap";
  readonly name: string;
  /** Keys that are named; none: the whole. */
  readonly keys: readonly string[];
}

/** One pod. */
export interface PodFacts {
  readonly name: string;
  readonly part: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly phase: string;
  readonly isReady: boolean;
  readonly isEnding: boolean;
  readonly ageMs: number;
  /** Where it serves HTTP. */
  readonly address?: { readonly ip: string; readonly port: number };
  /** Why the scheduler finds no node. */
  readonly unschedulable?: string;
  readonly containers: readonly ContainerFacts[];
  /** What its own `/ready` says, where that could be asked through the API server. */
  readonly lacks?: readonly { readonly name: string; readonly detail: string; readonly fix: string }[];
}

/** One container of a pod, sidecars and init containers too. */
export interface ContainerFacts {
  readonly name: string;
  readonly image: string;
  readonly restarts: number;
  /** Why it does not run. */
  readonly waiting?: { readonly reason: string; readonly message: string };
  /** How it ended last; `said` is its last word, as our programs log it. */
  readonly ended?: { readonly reason: string; readonly exitCode: number; readonly said?: string };
}

/** A PersistentVolumeClaim. */
export interface ClaimFacts {
  readonly name: string;
  readonly phase: string;
  readonly storageClass: string;
  readonly size: string;
}

/** One resource of a ResourceQuota, in plain numbers. */
export interface QuotaFacts {
  readonly name: string;
  readonly resource: string;
  readonly used: number;
  readonly hard: number;
  readonly shown: string;
}

/** A NetworkPolicy. */
export interface PolicyFacts {
  readonly name: string;
  readonly selector: LabelSelector;
  readonly types: readonly string[];
}

/** As Kubernetes has it (meta/v1). */
export interface LabelSelector {
  readonly matchLabels?: Readonly<Record<string, string>>;
  readonly matchExpressions?: readonly {
    readonly key: string;
    readonly operator: string;
    readonly values?: readonly string[];
  }[];
}

/** An event of type Warning. */
export interface WarningFacts {
  /** `StatefulSet vu`. */
  readonly about: string;
  readonly reason: string;
  readonly message: string;
}

/** What an agent's service account may do. */
export interface RightsFacts {
  readonly serviceAccount: string;
  readonly answers: Seen<{ readonly missing: readonly string[]; readonly excess: readonly string[] }>;
}
