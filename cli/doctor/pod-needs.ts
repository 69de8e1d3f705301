/** Which Secrets and ConfigMaps a pod names, and what a pod is by its labels. Pure. */
import type { Needed } from "./kubernetes-facts.ts";

interface KeyRef {
  readonly name?: string;
  readonly key: string;
  readonly optional?: boolean;
}

interface Source {
  readonly name?: string;
  readonly secretName?: string;
  readonly optional?: boolean;
  readonly items?: readonly { readonly key: string }[];
}

interface Container {
  readonly name: string;
  readonly ports?: readonly { readonly name?: string; readonly containerPort: number }[];
  readonly env?: readonly {
    readonly name: string;
    readonly valueFrom?: { readonly secretKeyRef?: KeyRef; readonly configMapKeyRef?: KeyRef };
  }[];
  readonly envFrom?: readonly { readonly secretRef?: Source; readonly configMapRef?: Source }[];
}

/** A pod's spec (v1), as far as it is read. */
export interface PodSpec {
  readonly serviceAccountName?: string;
  readonly imagePullSecrets?: readonly { readonly name?: string }[];
  readonly initContainers?: readonly Container[];
  readonly containers: readonly Container[];
  readonly volumes?: readonly {
    readonly secret?: Source;
    readonly configMap?: Source;
    readonly persistentVolumeClaim?: { readonly claimName: string };
    readonly projected?: { readonly sources?: readonly { readonly secret?: Source; readonly configMap?: Source }[] };
  }[];
}

/** A workload's template of pods. */
export interface PodTemplate {
  readonly spec: PodSpec;
}

/** All that a template names, but for what is optional. */
export function needsOf({ spec }: PodTemplate): readonly Needed[] {
  const { volumes = [], initContainers = [], containers, imagePullSecrets = [] } = spec;
  const sources = volumes.flatMap(({ secret, configMap, projected }) => [
    { secret, configMap },
    ...(projected?.sources ?? []),
  ]);
  const all = [...initContainers, ...containers];
  const env = all.flatMap((container) => container.env ?? []).map(({ valueFrom }) => valueFrom);
  const envFrom = all.flatMap((container) => container.envFrom ?? []);
  return [
    ...sources.flatMap(({ secret }) => whole("Secret", secret)),
    ...sources.flatMap(({ configMap }) => whole("ConfigMap", configMap)),
    ...env.flatMap((from) => oneKey("Secret", from?.secretKeyRef)),
    ...env.flatMap((from) => oneKey("ConfigMap", from?.configMapKeyRef)),
    ...envFrom.flatMap(({ secretRef }) => whole("Secret", secretRef)),
    ...envFrom.flatMap(({ configMapRef }) => whole("ConfigMap", configMapRef)),
    ...imagePullSecrets.flatMap((secret) => whole("Secret", secret)),
  ];
}

/** Claims of volumes that a template names. */
export function claimsOf({ spec }: PodTemplate): readonly string[] {
  return (spec.volumes ?? []).flatMap(({ persistentVolumeClaim: claim }) =>
    claim === undefined ? [] : [claim.claimName],
  );
}

function whole(kind: Needed["kind"], source: Source | undefined): readonly Needed[] {
  const name = source?.secretName ?? source?.name;
  if (name === undefined || source?.optional === true) return [];
  return [{ kind, name, keys: (source?.items ?? []).map(({ key }) => key) }];
}

function oneKey(kind: Needed["kind"], reference: KeyRef | undefined): readonly Needed[] {
  if (reference?.name === undefined || reference.optional === true) return [];
  return [{ kind, name: reference.name, keys: [reference.key] }];
}

/** `dynamos-agent`, `dynamos-chain`, …: what all charts and the job runner label their pods with. */
export function partOf(labels: Readonly<Record<string, string>> | undefined): string {
  return labels?.["app.kubernetes.io/name"] ?? "";
}
