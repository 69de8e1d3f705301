/** What the runner reads of Kubernetes' objects, as they come in JSON (API reference of batch/v1, v1). Times are RFC 3339. */

/** What every object has. */
export interface ObjectMeta {
  readonly name: string;
  readonly namespace?: string;
  readonly uid: string;
  readonly resourceVersion: string;
  readonly creationTimestamp?: string;
  readonly deletionTimestamp?: string;
  readonly deletionGracePeriodSeconds?: number;
  readonly labels?: Readonly<Record<string, string>>;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly ownerReferences?: readonly {
    readonly apiVersion: string;
    readonly kind: string;
    readonly name: string;
    readonly uid: string;
    readonly controller?: boolean;
  }[];
}

/** An object that is kept by name and uid. */
export interface KubernetesObject {
  readonly metadata: ObjectMeta;
}

/** A condition of a Job or a pod. */
export interface Condition {
  readonly type: string;
  readonly status: string;
  readonly reason?: string;
  readonly message?: string;
}

interface ContainerTemplate {
  readonly name: string;
  readonly resources?: { readonly limits?: Readonly<Record<string, string>> };
}

interface PodTemplateSpec {
  readonly nodeName?: string;
  readonly activeDeadlineSeconds?: number;
  readonly terminationGracePeriodSeconds?: number;
  readonly initContainers?: readonly ContainerTemplate[];
  readonly containers: readonly ContainerTemplate[];
}

/** A Job. */
export interface JobObject extends KubernetesObject {
  readonly spec: { readonly template: { readonly spec: PodTemplateSpec } };
  readonly status?: { readonly conditions?: readonly Condition[]; readonly active?: number; readonly failed?: number };
}

/** How a container ended. */
export interface Terminated {
  readonly exitCode: number;
  readonly reason?: string;
  readonly message?: string;
  readonly finishedAt?: string;
}

/** One of `state`'s members is there. */
export interface ContainerState {
  readonly waiting?: { readonly reason?: string; readonly message?: string };
  readonly running?: { readonly startedAt?: string };
  readonly terminated?: Terminated;
}

/** One container of a pod. */
export interface ContainerStatus {
  readonly name: string;
  readonly restartCount: number;
  readonly state?: ContainerState;
  readonly lastState?: ContainerState;
}

/** A pod. */
export interface PodObject extends KubernetesObject {
  readonly spec: PodTemplateSpec;
  readonly status?: {
    readonly phase?: string;
    readonly reason?: string;
    readonly message?: string;
    readonly conditions?: readonly Condition[];
    readonly initContainerStatuses?: readonly ContainerStatus[];
    readonly containerStatuses?: readonly ContainerStatus[];
  };
}

/** An Event of the core API. */
export interface EventObject extends KubernetesObject {
  readonly type?: string;
  readonly reason?: string;
  readonly message?: string;
  readonly involvedObject: { readonly kind?: string; readonly name?: string; readonly uid?: string };
}

/** What is known of one job. */
export interface Observation {
  readonly job: JobObject;
  /** Gone from the API: it was deleted. */
  readonly isJobGone: boolean;
  /** Its pod as it was last seen; a Job of ours never makes a second one. */
  readonly pod?: PodObject;
  readonly isPodGone: boolean;
  /** The last warning that Kubernetes gave of the Job (its pod cannot be made), and of the pod. */
  readonly jobWarning?: Warning;
  readonly podWarning?: Warning;
}

/** A warning, in Kubernetes' words. */
export interface Warning {
  readonly reason: string;
  readonly message: string;
}

/** Labels that the Job controller puts on pods. */
export const JOB_NAME_LABEL = "batch.kubernetes.io/job-name";
export const JOB_UID_LABEL = "batch.kubernetes.io/controller-uid";

/** A condition that is true. */
export function trueCondition(conditions: readonly Condition[] | undefined, type: string): Condition | undefined {
  return conditions?.find((condition) => condition.type === type && condition.status === "True");
}

/** All containers of a pod, the sidecar first. */
export function allStatuses({ status }: PodObject): readonly ContainerStatus[] {
  return [...(status?.initContainerStatuses ?? []), ...(status?.containerStatuses ?? [])];
}
