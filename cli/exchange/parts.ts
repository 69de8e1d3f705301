/**
 * Which processes an exchange consists of, and in what order. Pure.
 *
 * A **part** is an orchestrator, a policy enforcer or a party's agent; it has one process per **replica**, all alike, on the
 * same state folder. A process is named after its part, from the second replica on with its number: `agent-VU`, `agent-VU-2`.
 * Where sidecars are separate, each has one of its own: `agent-VU-2-sidecar`.
 */
import { AppError } from "../../lib/errors.ts";
import type { PartyConfiguration } from "./configuration-folder.ts";

/** How many processes each part has; what is not named has one. */
export interface Replicas {
  readonly orchestrator?: number;
  readonly policyEnforcer?: number;
  /** Of every party, or by party. */
  readonly agent?: number | Readonly<Record<string, number>>;
}

/** Whether orchestrator, policy enforcer and agents reach the bus themselves, or by a process beside each of them. */
export type SidecarPlacement = "inProcess" | "separate";

/** One process of a part. */
export interface PartProcess {
  readonly name: string;
  /** `orchestrator`, `policy-enforcer`, `agent-VU`: names the state folder. */
  readonly part: string;
  /** From 1. */
  readonly replica: number;
  /** Path of the program below the package's built root, without extension. */
  readonly program: string;
  /** The party, of an agent. */
  readonly party?: PartyConfiguration;
}

/**
 * The processes of an exchange, but for sidecars.
 *
 * @throws AppError `configuration_invalid` when replicas are asked for of a party that there is not.
 */
export function partProcesses(
  parties: readonly PartyConfiguration[],
  replicas: Replicas,
): { readonly enforcers: PartProcess[]; readonly orchestrators: PartProcess[]; readonly agents: PartProcess[] } {
  const { agent = 1 } = replicas;
  const counts = typeof agent === "number" ? {} : agent;
  const stranger = Object.keys(counts).find((name) => !parties.some((party) => party.name === name));
  if (stranger !== undefined) {
    const known = parties.map(({ name }) => name).join(", ");
    throw new AppError(
      "configuration_invalid",
      `There is no party "${stranger}" to have replicas; there are ${known}.`,
    );
  }
  return {
    enforcers: replicated("policy-enforcer", "orchestrator/policy-enforcer/main", replicas.policyEnforcer),
    orchestrators: replicated("orchestrator", "orchestrator/main", replicas.orchestrator),
    agents: parties.flatMap((party) =>
      replicated(`agent-${party.name}`, "agent/main", typeof agent === "number" ? agent : counts[party.name]).map(
        (process) => ({ ...process, party }),
      ),
    ),
  };
}

/** The name of a part's process: `agent-VU`, `agent-VU-2`. */
export function processName(part: string, replica: number): string {
  return replica === 1 ? part : `${part}-${String(replica)}`;
}

/** The name of the sidecar beside a process. */
export function sidecarName(process: string): string {
  return `${process}-sidecar`;
}

function replicated(part: string, program: string, count = 1): PartProcess[] {
  return Array.from({ length: count }, (_, index) => ({
    name: processName(part, index + 1),
    part,
    replica: index + 1,
    program,
  }));
}
