/** From a chain to the job that runs it. Pure. */
import { AppError } from "../lib/errors.ts";
import type { ContainerSpec, JobSpec } from "../lib/jobs/job-runner.ts";
import type { CompositionRequest } from "../lib/model/composition.ts";
import type { Microservice } from "../lib/model/microservice.ts";

/** What a job is made from. */
export interface JobSpecInput {
  readonly runName: string;
  readonly steward: string;
  readonly composition: CompositionRequest;
  /** The chain in order. */
  readonly chain: readonly Microservice[];
  readonly deadlineMs: number;
  /** Memory of one container in MiB where the microservice's metadata say nothing. */
  readonly memoryLimitMiB: number;
  /** Program of a microservice without a `command` of its own. */
  readonly programOf: (microservice: string) => readonly string[];
  /** Environment for every microservice, and for the sidecar. */
  readonly microserviceEnvironment: Readonly<Record<string, string>>;
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
  return {
    name: input.runName,
    steward: input.steward,
    microservices: input.chain.map((microservice) => toContainer(microservice, input)),
    sidecar: {
      name: "sidecar",
      command: input.programOf("sidecar"),
      environment: input.sidecarEnvironment,
      memoryLimitBytes: input.memoryLimitMiB * 1024 * 1024,
    },
    deadlineMs: input.deadlineMs,
    labels: {
      "dynamos.steward": input.steward,
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
  const limitMiB = microservice.resources?.memoryLimitMiB ?? input.memoryLimitMiB;
  return {
    name: containerName(microservice.name),
    command: microservice.command ?? input.programOf(microservice.name),
    ...(microservice.image === undefined ? {} : { image: microservice.image }),
    environment: input.microserviceEnvironment,
    memoryLimitBytes: limitMiB * 1024 * 1024,
  };
}

/** A microservice's name as a DNS label, which containers' names are; documents' names allow more. */
function containerName(microservice: string): string {
  return microservice
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, "-")
    .replace(/-+$/, "");
}
