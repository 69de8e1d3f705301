/** From a chain to the job that runs it. Pure. */
import { containerName, requireContainerNames, SIDECAR_CONTAINER } from "../lib/chain/container-name.ts";
import { AppError } from "../lib/errors.ts";
import type { ContainerSpec, JobSpec } from "../lib/jobs/job-runner.ts";
import type { CompositionRequest } from "../lib/model/composition.ts";
import type { Microservice } from "../lib/model/microservice.ts";

/** Which instance of the agent started a job. */
export const INSTANCE_LABEL = "dynamos.instance";

/** What a job is made from. */
export interface JobSpecInput {
  readonly runName: string;
  readonly steward: string;
  /** Of the agent. */
  readonly instance: string;
  readonly composition: CompositionRequest;
  /** The chain in order. */
  readonly chain: readonly Microservice[];
  readonly deadlineMs: number;
  /** Memory of one container in MiB where the microservice's metadata say nothing. */
  readonly memoryLimitMiB: number;
  /** Program of a microservice with neither `command` nor `image`. */
  readonly programOf: (microservice: string) => readonly string[];
  /** Environment of each microservice, and of the sidecar. */
  readonly microserviceEnvironment: (microservice: Microservice) => Readonly<Record<string, string>>;
  readonly sidecarEnvironment: Readonly<Record<string, string>>;
}

/** The job of one run. */
export function makeJobSpec(input: JobSpecInput): JobSpec {
  const { composition } = input;
  if (input.chain.length === 0) {
    throw new AppError(
      "chain_invalid",
      `No microservice runs for role ${composition.role} in ${composition.archetype_id}.`,
    );
  }
  requireContainerNames(input.chain.map(({ name }) => name));
  return {
    name: input.runName,
    steward: input.steward,
    microservices: input.chain.map((microservice) => toContainer(microservice, input)),
    sidecar: {
      name: SIDECAR_CONTAINER,
      command: input.programOf("sidecar"),
      environment: input.sidecarEnvironment,
      memoryLimitBytes: input.memoryLimitMiB * 1024 * 1024,
    },
    deadlineMs: input.deadlineMs,
    labels: {
      "dynamos.steward": input.steward,
      [INSTANCE_LABEL]: input.instance,
      "dynamos.role": composition.role,
      "dynamos.archetype": composition.archetype_id,
      "dynamos.requestType": composition.request_type,
    },
    chain: {
      jobName: composition.job_name,
      role: composition.role,
      dataProviderCount: composition.role === "computeProvider" ? composition.data_providers.length : 1,
    },
  };
}

function toContainer(microservice: Microservice, input: JobSpecInput): ContainerSpec {
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
