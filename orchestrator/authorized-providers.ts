/** Which of the stewards asked for may take part: those that allow the request and are online. Pure. */
import type { StewardValidation } from "../lib/messages.ts";

/** A steward that does not take part, and why. */
export interface RefusedProvider {
  readonly provider: string;
  /** One of `REFUSAL_CODES` of `lib/messages.ts`, or what another policy enforcer says. */
  readonly code: string;
  readonly detail: string;
}

/** The stewards asked for, by what becomes of them; each list by name. */
export interface ProviderOutcomes {
  readonly authorized: readonly StewardValidation[];
  readonly refused: readonly RefusedProvider[];
  /** Allowed by agreement, but without a living agent. */
  readonly offline: readonly string[];
}

/** Divides the stewards. A refused steward counts as refused, whether it is online or not. */
export function divideProviders(
  validations: readonly StewardValidation[],
  online: ReadonlySet<string>,
): ProviderOutcomes {
  const sorted = [...validations].sort((left, right) => (left.steward < right.steward ? -1 : 1));
  const allowed = sorted.filter(({ refusal }) => refusal === undefined);
  return {
    authorized: allowed.filter(({ steward }) => online.has(steward)),
    offline: allowed.filter(({ steward }) => !online.has(steward)).map(({ steward }) => steward),
    refused: sorted.flatMap(({ steward, refusal }) =>
      refusal === undefined ? [] : [{ provider: steward, code: refusal.code, detail: refusal.detail }],
    ),
  };
}
