/**
 * Settings of the job runner for Kubernetes: a JSON file that the agent's chart writes (`docs/configuration.md`). What it
 * says of volumes, mounts, tolerations and affinity is Kubernetes' own, and is handed on as it is.
 */
import { readFile } from "node:fs/promises";
import type { V1Affinity, V1Toleration, V1Volume, V1VolumeMount } from "@kubernetes/client-node";
import { Type, type Static } from "@sinclair/typebox";
import { Value } from "@sinclair/typebox/value";
import { AppError } from "../errors.ts";
import { QUANTITY } from "./kubernetes-quantity.ts";

const Quantity = Type.String({ pattern: QUANTITY.source });
const Quantities = Type.Object({ cpu: Type.Optional(Quantity), memory: Type.Optional(Quantity) });
const Texts = Type.Record(Type.String(), Type.String());
/** An object of Kubernetes' API, which checks it when the first job is made. */
const vendor = <Shape>() => Type.Unsafe<Shape>(Type.Object({}));

/** The file's schema. */
export const KubernetesJobSettings = Type.Object(
  {
    image: Type.String({ minLength: 1, description: "image of containers whose metadata name none" }),
    imagePullPolicy: Type.Union([Type.Literal("IfNotPresent"), Type.Literal("Always"), Type.Literal("Never")], {
      default: "IfNotPresent",
    }),
    imagePullSecrets: Type.Array(Type.String(), { default: [] }),
    namespace: Type.Optional(Type.String({ minLength: 1, description: "absent: the agent's own" })),
    labels: Type.Record(Type.String(), Type.String(), { default: {} }),
    annotations: Type.Record(Type.String(), Type.String(), { default: {} }),
    volumes: Type.Array(vendor<V1Volume>(), { default: [] }),
    mounts: Type.Object(
      {
        data: Type.Array(vendor<V1VolumeMount>(), { default: [] }),
        anonymizationKey: Type.Array(vendor<V1VolumeMount>(), { default: [] }),
        sidecar: Type.Array(vendor<V1VolumeMount>(), { default: [] }),
      },
      { additionalProperties: false, default: {} },
    ),
    requests: Type.Composite([Quantities], { default: {}, additionalProperties: false }),
    limits: Type.Object({ cpu: Type.Optional(Quantity) }, { default: {}, additionalProperties: false }),
    sidecarLimits: Type.Composite([Quantities], { default: {}, additionalProperties: false }),
    scratch: Type.String({ pattern: QUANTITY.source, default: "10Gi", description: "of each container's /tmp" }),
    runAsUser: Type.Integer({ minimum: 1, default: 10_001 }),
    startTimeoutMs: Type.Integer({ minimum: 1_000, default: 60_000 }),
    stopGraceSeconds: Type.Integer({ minimum: 1, maximum: 300, default: 5 }),
    ttlSecondsAfterFinished: Type.Integer({ minimum: 0, default: 300 }),
    nodeSelector: Type.Composite([Texts], { default: {} }),
    tolerations: Type.Array(vendor<V1Toleration>(), { default: [] }),
    affinity: Type.Unsafe<V1Affinity>(Type.Object({}, { default: {} })),
    priorityClassName: Type.String({ default: "" }),
    runtimeClassName: Type.String({ default: "" }),
  },
  { additionalProperties: false },
);
export type KubernetesJobSettings = Static<typeof KubernetesJobSettings>;

/** Settings from what a file says, defaults filled in. Otherwise `configuration_invalid` with every fault. */
export function checkKubernetesSettings(value: unknown, source: string): KubernetesJobSettings {
  const settings = Value.Default(KubernetesJobSettings, structuredClone(value));
  const faults = [...Value.Errors(KubernetesJobSettings, settings)].map(
    ({ path, message }) => `${path === "" ? "the document" : path}: ${message.toLowerCase()}`,
  );
  if (faults.length > 0) {
    throw new AppError("configuration_invalid", `The job settings ${source} are wrong. ${faults.join("; ")}.`, {
      details: { faults },
    });
  }
  return settings as KubernetesJobSettings;
}

/** Reads and checks the file. */
export async function loadKubernetesSettings(path: string): Promise<KubernetesJobSettings> {
  let value: unknown;
  try {
    value = JSON.parse(await readFile(path, "utf8"));
  } catch (cause) {
    throw new AppError("configuration_invalid", `The job settings ${path} cannot be read as JSON.`, { cause });
  }
  return checkKubernetesSettings(value, path);
}
