/**
 * The environment of a chain's containers (`docs/configuration.md`): written by job runners,
 * read by sidecar and microservices.
 *
 * Data goes from the sidecar to {@link ChainPorts.firstMicroservicePort}, from each microservice to its own port + 1,
 * and from the last one back to the sidecar.
 */
import { Type, type Static } from "@sinclair/typebox";
import { loadSettings, type Environment } from "../config/env.ts";
import { Role } from "../model/archetype.ts";
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

/**
 * How long a part of a chain waits for the next one to listen, in milliseconds. A runner whose containers start one after the
 * other, with images that may have to be fetched, sets it above its own limit for a start, since it knows why one does not come.
 */
export const CHAIN_START_VARIABLE = "DYNAMOS_CHAIN_START_MS";

/** Its schema; for programs in chains. */
export const ChainStartMs = Type.Integer({
  default: 20_000,
  minimum: 1,
  description: "how long the next part of the chain may take to listen",
});

/** How many runs a chain serves at once; 1: it serves one in all, and ends with it. For programs in chains. */
export const ChainConcurrency = Type.Integer({
  default: 1,
  minimum: 1,
  description: "runs that a persistent chain serves at once; 1: the chain serves one run, and ends",
});

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

const Port = Type.Integer({ minimum: 1, maximum: 65_535 });
const Flag = Type.Union([Type.Literal("0"), Type.Literal("1")], { description: "1 or 0" });

/** What every container of a chain reads. */
const MemberVariables = Type.Object({
  [CHAIN_VARIABLES.steward]: Type.String({ minLength: 1 }),
  [CHAIN_VARIABLES.jobName]: Type.String({ minLength: 1 }),
  [CHAIN_VARIABLES.role]: { ...Role, description: "all, dataProvider or computeProvider" },
  [CHAIN_VARIABLES.dataProviderCount]: Type.Integer({ minimum: 0 }),
  [CHAIN_VARIABLES.sidecarPort]: Port,
});
const MicroserviceVariables = Type.Composite([
  MemberVariables,
  Type.Object({ [CHAIN_VARIABLES.port]: Port, [CHAIN_VARIABLES.isFirst]: Flag, [CHAIN_VARIABLES.isLast]: Flag }),
]);
const SidecarVariables = Type.Composite([
  MemberVariables,
  Type.Object({ [CHAIN_VARIABLES.firstMicroservicePort]: Port }),
]);

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

/** Reads a microservice's place in its chain, by default from its own environment. Fails with `configuration_invalid`, naming every fault at once. */
export function readChainEnvironment(environment?: Environment): MicroservicePosition {
  const read = loadSettings(MicroserviceVariables, environment);
  const isLast = read.LAST === "1";
  return {
    ...memberOf(read),
    port: read.DESIGNATED_GRPC_PORT,
    nextPort: isLast ? read.SIDECAR_PORT : read.DESIGNATED_GRPC_PORT + 1,
    isFirst: read.FIRST === "1",
    isLast,
  };
}

/** Reads the sidecar's place in its chain, by default from its own environment. Fails with `configuration_invalid`, naming every fault at once. */
export function readSidecarEnvironment(environment?: Environment): SidecarPosition {
  const read = loadSettings(SidecarVariables, environment);
  return { ...memberOf(read), firstMicroservicePort: read.FIRST_MICROSERVICE_PORT };
}

function memberOf(read: Static<typeof MemberVariables>): ChainMember {
  return {
    steward: read.DATA_STEWARD_NAME,
    jobName: read.JOB_NAME,
    role: read.AGENT_ROLE,
    dataProviderCount: read.NR_OF_DATA_PROVIDERS,
    sidecarPort: read.SIDECAR_PORT,
  };
}
