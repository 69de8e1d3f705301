/**
 * The environment of a chain's containers (`contracts.md`, "A chain container's environment"): written by job runners,
 * read by sidecar and microservices. Pure; values of the environment come in as an argument.
 *
 * Data goes from the sidecar to {@link ChainPorts.firstMicroservicePort}, from each microservice to its own port + 1,
 * and from the last one back to the sidecar.
 */
import { AppError } from "../errors.ts";
import type { Role } from "../model/archetype.ts";
import type { JobSpec } from "./job-runner.ts";

/** The variables' names, spelled once. All but `firstMicroservicePort` are those of the Go prototype. */
export const CHAIN_VARIABLES = {
  steward: "DATA_STEWARD_NAME",
  port: "DESIGNATED_GRPC_PORT",
  isFirst: "FIRST",
  isLast: "LAST",
  jobName: "JOB_NAME",
  sidecarPort: "SIDECAR_PORT",
  dataProviderCount: "NR_OF_DATA_PROVIDERS",
  role: "AGENT_ROLE",
  firstMicroservicePort: "FIRST_MICROSERVICE_PORT",
} as const;

/** Where a chain's parts listen on localhost. */
export interface ChainPorts {
  readonly sidecarPort: number;
  /** Microservice i (from 0) listens on this + i. */
  readonly firstMicroservicePort: number;
}

/** In a pod of its own every chain has the same ports: "consecutive ports above 50052". */
export const CLUSTER_CHAIN_PORTS: ChainPorts = { sidecarPort: 50051, firstMicroservicePort: 50053 };

/** What every container of a chain knows. */
export interface ChainMember {
  readonly steward: string;
  /** The approval's job name, not the run's name. */
  readonly jobName: string;
  readonly role: Role;
  /** How many providers' streams meet in this chain. */
  readonly dataProviderCount: number;
  readonly sidecarPort: number;
}

/** A microservice's place in its chain. */
export interface MicroservicePosition extends ChainMember {
  /** The port that it listens on. */
  readonly port: number;
  /** The port that it sends to: the next microservice's, or the sidecar's. */
  readonly nextPort: number;
  readonly isFirst: boolean;
  readonly isLast: boolean;
}

/** The sidecar's place: it listens on `sidecarPort`, and feeds `firstMicroservicePort`. */
export interface SidecarPosition extends ChainMember {
  readonly firstMicroservicePort: number;
}

const ROLES = ["all", "dataProvider", "computeProvider"] as const satisfies readonly Role[];

/** An environment: what `process.env` is, or what a container is given. */
export type Environment = Readonly<Record<string, string | undefined>>;

/** The chain environment of microservice `index` (from 0) of a job. */
export function chainEnvironment(spec: JobSpec, index: number, ports: ChainPorts): Record<string, string> {
  return {
    ...memberEnvironment(spec, ports),
    [CHAIN_VARIABLES.port]: String(ports.firstMicroservicePort + index),
    [CHAIN_VARIABLES.isFirst]: index === 0 ? "1" : "0",
    [CHAIN_VARIABLES.isLast]: index === spec.microservices.length - 1 ? "1" : "0",
  };
}

/** The chain environment of a job's sidecar. */
export function sidecarEnvironment(spec: JobSpec, ports: ChainPorts): Record<string, string> {
  return {
    ...memberEnvironment(spec, ports),
    [CHAIN_VARIABLES.firstMicroservicePort]: String(ports.firstMicroservicePort),
  };
}

function memberEnvironment(spec: JobSpec, ports: ChainPorts): Record<string, string> {
  return {
    [CHAIN_VARIABLES.steward]: spec.steward,
    [CHAIN_VARIABLES.jobName]: spec.chain.jobName,
    [CHAIN_VARIABLES.role]: spec.chain.role,
    [CHAIN_VARIABLES.dataProviderCount]: String(spec.chain.dataProviderCount),
    [CHAIN_VARIABLES.sidecarPort]: String(ports.sidecarPort),
  };
}

/** Reads a microservice's place in its chain. Fails with `configuration_invalid`, naming every fault at once. */
export function readChainEnvironment(environment: Environment): MicroservicePosition {
  return readAll(environment, (read) => {
    const member = readMember(read);
    const port = read.integer(CHAIN_VARIABLES.port, 1, 65_535);
    const isLast = read.flag(CHAIN_VARIABLES.isLast);
    return {
      ...member,
      port,
      isFirst: read.flag(CHAIN_VARIABLES.isFirst),
      isLast,
      nextPort: isLast ? member.sidecarPort : port + 1,
    };
  });
}

/** Reads the sidecar's place in its chain. Fails with `configuration_invalid`, naming every fault at once. */
export function readSidecarEnvironment(environment: Environment): SidecarPosition {
  return readAll(environment, (read) => ({
    ...readMember(read),
    firstMicroservicePort: read.integer(CHAIN_VARIABLES.firstMicroservicePort, 1, 65_535),
  }));
}

function readMember(read: VariableReader): ChainMember {
  return {
    steward: read.text(CHAIN_VARIABLES.steward),
    jobName: read.text(CHAIN_VARIABLES.jobName),
    role: read.oneOf(CHAIN_VARIABLES.role, ROLES),
    dataProviderCount: read.integer(CHAIN_VARIABLES.dataProviderCount, 0, 1_000_000),
    sidecarPort: read.integer(CHAIN_VARIABLES.sidecarPort, 1, 65_535),
  };
}

function readAll<Position>(environment: Environment, read: (reader: VariableReader) => Position): Position {
  const reader = new VariableReader(environment);
  const position = read(reader);
  if (reader.faults.length === 0) return position;
  throw new AppError(
    "configuration_invalid",
    `This program runs as a container of a chain, and its environment is not one: ${reader.faults.join("; ")}. ` +
      `The job runner sets these variables; see contracts.md.`,
    { details: { faults: reader.faults } },
  );
}

/** Reads variable by variable and gathers the faults, so that one run shows them all. A faulty one reads as a dummy. */
class VariableReader {
  readonly faults: string[] = [];
  readonly #environment: Environment;

  constructor(environment: Environment) {
    this.#environment = environment;
  }

  text(name: string): string {
    const value = this.#environment[name] ?? "";
    if (value === "") this.faults.push(`${name} is missing`);
    return value;
  }

  integer(name: string, minimum: number, maximum: number): number {
    const value = this.text(name);
    const number = Number(value);
    if (value !== "" && !(/^\d{1,9}$/.test(value) && number >= minimum && number <= maximum)) {
      this.faults.push(`${name} is ${JSON.stringify(value)}, not an integer from ${minimum} to ${maximum}`);
    }
    return number;
  }

  flag(name: string): boolean {
    return this.oneOf(name, ["0", "1"]) === "1";
  }

  oneOf<Value extends string>(name: string, values: readonly [Value, ...Value[]]): Value {
    const value = this.text(name);
    const known = values.find((candidate) => candidate === value);
    if (value !== "" && known === undefined) {
      this.faults.push(`${name} is ${JSON.stringify(value)}, not one of ${values.join(", ")}`);
    }
    return known ?? values[0];
  }
}
