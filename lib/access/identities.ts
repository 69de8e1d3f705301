/**
 * Who has credentials at broker and store, and what they are called there (design decision 24): the core (orchestrator and
 * policy enforcer), each party's agent, and its chains, whose sidecars reach the broker only.
 */
import { AppError } from "../errors.ts";
import { isStewardName, runLabels } from "../model/names.ts";

/** Provides data, computes over others' data as a third party, or does both. */
export type PartyRole = "dataProvider" | "thirdParty" | "both";

/** A party, as far as its rights follow from it. */
export interface PartyAccess {
  readonly steward: string;
  readonly role: PartyRole;
  /** The parties that it exchanges data with; absent: any. */
  readonly partners?: readonly string[];
}

/** User of orchestrator and policy enforcer. */
export const CORE_USER = "dynamos-core";

/** User of a party's agent. */
export function agentUser(steward: string): string {
  return `dynamos-agent-${steward}`;
}

/** User of a party's chains. */
export function chainUser(steward: string): string {
  return `dynamos-chain-${steward}`;
}

/** The party whose agent has this user; undefined for other users. */
export function stewardOf(user: string): string | undefined {
  const [, steward = ""] = /^dynamos-agent-(.*)$/.exec(user) ?? [];
  return isStewardName(steward) ? steward : undefined;
}

/** Names whose queue would be that of a service. */
const RESERVED = new Set(["orchestrator", "policyenforcer"]);

/**
 * Makes sure that a party can be kept apart from those that have credentials.
 *
 * @throws AppError `invalid_argument` for what is no name or a service's, `conflict` beside a party whose runs would have the
 * same names.
 */
export function requireDistinct(steward: string, others: readonly string[]): void {
  if (!isStewardName(steward)) {
    throw new AppError(
      "invalid_argument",
      `"${steward}" is no party's name: letters and digits, beginning with a letter, at most 63.`,
    );
  }
  if (RESERVED.has(steward.toLowerCase())) {
    throw new AppError("invalid_argument", `"${steward}" is the name of a service: choose another one for the party.`);
  }
  const labels = runLabels(steward);
  const twin = others.find((other) => other !== steward && runLabels(other).some((label) => labels.includes(label)));
  if (twin === undefined) return;
  throw new AppError(
    "conflict",
    `${steward} and ${twin}, which has credentials, would have the same names of run queues: choose a name that differs in more than capitals.`,
  );
}
