/**
 * A chain's shape: all of a job that is fixed when it starts, and may be known before anybody asks. What belongs to one request (who
 * asks, the grant, where its data are, the deadline, the trace) comes with the run's request instead, so that a job of a shape can
 * serve any request for it (decision 0021). Pure.
 */
import { containerName, requireContainerNames, SIDECAR_CONTAINER } from "../../lib/chain/container-name.ts";
import { AppError } from "../../lib/errors.ts";
import { fingerprintOf } from "../../lib/fingerprint.ts";
import type { ContainerSpec, JobSpec } from "../../lib/jobs/job-runner.ts";
import type { CompositionRequest } from "../../lib/model/composition.ts";
import type { Microservice } from "../../lib/model/microservice.ts";
import { makeShapeKey } from "../../lib/model/names.ts";

/** Which instance of the agent started a job. */
export const INSTANCE_LABEL = "dynamos.instance";
/** How a job came to be started: `cold`, `warm` or `persistent`. */
export const LIFETIME_LABEL = "dynamos.lifetime";

/** What a composition says of its chain's shape. */
export type ShapeComposition = Pick<CompositionRequest, "archetype_id" | "request_type" | "role" | "data_providers">;

/** What a shape is made from. */
export interface ChainShapeInput {
  readonly steward: string;
  readonly composition: ShapeComposition;
  /** The chain in order. */
  readonly chain: readonly Microservice[];
  /** Memory of one container in MiB where the microservice's metadata say nothing. */
  readonly memoryLimitMiB: number;
  /** Program of a microservice with neither `command` nor `image`. */
  readonly programOf: (microservice: string) => readonly string[];
  /** Environment of each microservice, and of the sidecar: the steward's settings, and nothing of a request. */
  readonly microserviceEnvironment: (microservice: Microservice) => Readonly<Record<string, string>>;
  readonly sidecarEnvironment: Readonly<Record<string, string>>;
}

/** See the file comment. */
export type ChainShape = Pick<JobSpec, "steward" | "microservices" | "sidecar" | "labels"> & {
  readonly chain: Pick<JobSpec["chain"], "role" | "dataProviderCount">;
};

/** What one job has beyond its shape. */
export interface JobOfShape {
  /** The job's own name, and its run queue's. */
  readonly name: string;
  /** Of the agent. */
  readonly instance: string;
  readonly deadlineMs: number;
  readonly labels?: Readonly<Record<string, string>>;
  readonly outlivesRunner?: boolean;
  /** Of every container. */
  readonly environment?: Readonly<Record<string, string>>;
  readonly sidecarEnvironment?: Readonly<Record<string, string>>;
}

/**
 * The shape of a chain.
 *
 * @throws AppError `chain_invalid` for a chain that cannot be a job.
 */
export function makeChainShape(input: ChainShapeInput): ChainShape {
  const { composition, chain } = input;
  if (chain.length === 0) {
    throw new AppError(
      "chain_invalid",
      `No microservice runs for role ${composition.role} in ${composition.archetype_id}.`,
    );
  }
  requireContainerNames(chain.map(({ name }) => name));
  const late = chain.slice(1).find(({ needs }) => needs?.includes("data"));
  if (late !== undefined) {
    throw new AppError(
      "chain_invalid",
      `${late.name} needs data, which only a chain's first microservice gets; first here is ${String(chain[0]?.name)}.`,
    );
  }
  return {
    steward: input.steward,
    microservices: chain.map((microservice) => toContainer(microservice, input)),
    sidecar: {
      name: SIDECAR_CONTAINER,
      command: input.programOf("sidecar"),
      environment: input.sidecarEnvironment,
      memoryLimitBytes: input.memoryLimitMiB * 1024 * 1024,
    },
    labels: {
      "dynamos.steward": input.steward,
      "dynamos.role": composition.role,
      "dynamos.archetype": composition.archetype_id,
      "dynamos.requestType": composition.request_type,
    },
    chain: {
      role: composition.role,
      dataProviderCount: composition.role === "computeProvider" ? composition.data_providers.length : 1,
    },
  };
}

/** What two shapes share only if they are equal, whatever the order in which they were put together; see `makeShapeKey`. */
export function shapeKey(shape: ChainShape): string {
  return makeShapeKey(fingerprintOf(shape));
}

/** What stands for an approval's name where a job is made before there is one: `chain-` and the shape's key. */
export function shapeName(shape: ChainShape): string {
  return `chain-${shapeKey(shape)}`;
}

/** One job of a shape. */
export function makeJobSpec(shape: ChainShape, job: JobOfShape): JobSpec {
  const { steward, microservices, sidecar, chain } = shape;
  return {
    name: job.name,
    steward,
    microservices: microservices.map((container) => withEnvironment(container, job.environment)),
    sidecar: withEnvironment(sidecar, {
      DYNAMOS_RUN_NAME: job.name,
      ...job.environment,
      ...job.sidecarEnvironment,
    }),
    deadlineMs: job.deadlineMs,
    labels: { ...shape.labels, [INSTANCE_LABEL]: job.instance, ...job.labels },
    ...(job.outlivesRunner === undefined ? {} : { outlivesRunner: job.outlivesRunner }),
    chain: { ...chain, jobName: shapeName(shape) },
  };
}

function withEnvironment<Container extends { readonly environment: Readonly<Record<string, string>> }>(
  container: Container,
  environment: Readonly<Record<string, string>> | undefined,
): Container {
  return { ...container, environment: { ...container.environment, ...environment } };
}

function toContainer(microservice: Microservice, input: ChainShapeInput): ContainerSpec {
  const { name, image, needs, resources } = microservice;
  const limitMiB = resources?.memoryLimitMiB ?? input.memoryLimitMiB;
  // An image without a command has an entry point of its own.
  const command = microservice.command ?? (image === undefined ? input.programOf(name) : undefined);
  return {
    name: containerName(name),
    ...(command === undefined ? {} : { command }),
    ...(image === undefined ? {} : { image }),
    environment: input.microserviceEnvironment(microservice),
    memoryLimitBytes: limitMiB * 1024 * 1024,
    ...(needs === undefined ? {} : { needs }),
    ...(resources?.cpuRequest === undefined ? {} : { cpuRequest: resources.cpuRequest }),
    ...(resources?.cpuLimit === undefined ? {} : { cpuLimit: resources.cpuLimit }),
  };
}
