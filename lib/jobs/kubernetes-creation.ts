/** Making a Job in Kubernetes: once, whatever becomes of the answer, and owned by whoever owns the agent's pod. */
import type { Clock } from "../clock.ts";
import { AppError, toAppError } from "../errors.ts";
import { ApiRefusal, type KubernetesApi } from "./kubernetes-api.ts";
import { START_ANNOTATION, type OwnerReference } from "./kubernetes-manifest.ts";
import type { JobObject, PodObject } from "./kubernetes-objects.ts";

const START_ATTEMPTS = 4;
const FIRST_PAUSE_MS = 100;

/** The controller of a pod, such as its StatefulSet; undefined for a pod that has none. */
export async function controllerOf(
  api: KubernetesApi,
  namespace: string,
  podName: string,
): Promise<OwnerReference | undefined> {
  const pod = await api.call<PodObject>({ method: "GET", path: `/api/v1/namespaces/${namespace}/pods/${podName}` });
  const owner = pod.metadata.ownerReferences?.find(({ controller }) => controller === true);
  if (owner === undefined) return undefined;
  const { apiVersion, kind, name, uid } = owner;
  return { apiVersion, kind, name, uid };
}

/** What is made: `startId` stands in the manifest's {@link START_ANNOTATION}. */
export interface NewJob {
  readonly name: string;
  readonly startId: string;
  readonly manifest: unknown;
}

/**
 * Makes the Job, once, also where the answer to an attempt was lost.
 *
 * @throws AppError `already_exists`, `job_start_failed` where a quota has no room for it, `access_refused`, and `unavailable` after
 * several attempts.
 */
export async function postJob(
  { api, namespace, clock }: { readonly api: KubernetesApi; readonly namespace: string; readonly clock: Clock },
  { name, startId, manifest }: NewJob,
): Promise<JobObject> {
  const path = `/apis/batch/v1/namespaces/${namespace}/jobs`;
  for (let attempt = 1; ; attempt++) {
    try {
      return await api.call<JobObject>({ method: "POST", path, body: manifest });
    } catch (thrown) {
      const error = toAppError(thrown);
      if (error.code === "already_exists") {
        const job = attempt === 1 ? undefined : await readIfThere<JobObject>(api, `${path}/${name}`);
        if (job?.metadata.annotations?.[START_ANNOTATION] === startId) return job;
        throw alreadyExists(name);
      }
      if (error.code !== "unavailable" || attempt === START_ATTEMPTS) throw asStartError(error);
      await clock.sleep(FIRST_PAUSE_MS * 2 ** attempt * (0.5 + Math.random() / 2));
    }
  }
}

/** An object of the API; undefined where there is none. */
export async function readIfThere<Item>(api: KubernetesApi, path: string): Promise<Item | undefined> {
  try {
    return await api.call<Item>({ method: "GET", path });
  } catch (error) {
    if (error instanceof ApiRefusal && error.httpStatus === 404) return undefined;
    throw error;
  }
}

/** Why a name cannot be used: it is some Job's. */
export function alreadyExists(name: string): AppError {
  return new AppError("already_exists", `There is a job ${name} already.`);
}

/** A full namespace is no fault of the agent's rights, though Kubernetes answers alike. */
function asStartError(error: AppError): AppError {
  if (error.code !== "access_refused" || !/exceeded quota/i.test(error.message)) return error;
  const message = `The namespace's quota allows no further Job now: ${error.message}`;
  return new AppError("job_start_failed", message, { cause: error, details: { reason: "QuotaExceeded" } });
}
