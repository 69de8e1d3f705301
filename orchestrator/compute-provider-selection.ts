/** Which third party: one that all data providers accept, that does not refuse itself, and that is online. Pure. */
import { Type } from "@sinclair/typebox";
import { Value } from "@sinclair/typebox/value";
import type { StewardValidation } from "../lib/messages.ts";
import { Relation } from "../lib/model/agreement.ts";

/** What is known of possible third parties. */
export interface ThirdParties {
  /** Their own agreements' answers; a party without an agreement of its own objects to nothing. */
  readonly validations: readonly StewardValidation[];
  /** Names of all parties that are online. */
  readonly online: ReadonlySet<string>;
}

/** A third party, or why there is none. */
export type ComputeProviderChoice =
  | { readonly kind: "chosen"; readonly name: string }
  /** Acceptable ones exist, but none is online. */
  | { readonly kind: "offline"; readonly reason: string; readonly accepted: readonly string[] }
  | { readonly kind: "none"; readonly reason: string };

/** The third parties that every data provider accepts, by name; a data provider of the plan is no third party in it. */
export function acceptedComputeProviders(providers: readonly StewardValidation[]): string[] {
  const [first, ...others] = providers;
  const stewards = new Set(providers.map(({ steward }) => steward));
  return [...new Set(first?.allowedComputeProviders ?? [])]
    .filter((name) => !stewards.has(name))
    .filter((name) => others.every(({ allowedComputeProviders }) => allowedComputeProviders.includes(name)))
    .sort();
}

/** As much of an agreement as tells whom it may name: one with many users is not checked whole for it. */
const NamingAgreement = Type.Object({
  computeProviders: Relation.properties.allowedComputeProviders,
  relations: Type.Record(Type.String(), Type.Unknown()),
});

/** The third parties that a stored agreement names for a user, whatever else it says; none where it is malformed. */
export function namedComputeProviders(agreement: unknown, userName: string): readonly string[] {
  if (!Value.Check(NamingAgreement, agreement) || !Object.hasOwn(agreement.relations, userName)) return [];
  const relation = agreement.relations[userName];
  if (!Value.Check(Relation, relation)) return [];
  return agreement.computeProviders.filter((name) => relation.allowedComputeProviders.includes(name));
}

/** The first by name that may compute for this archetype and is online. */
export function selectComputeProvider(
  archetype: string,
  providers: readonly StewardValidation[],
  { validations, online }: ThirdParties,
): ComputeProviderChoice {
  const accepted = acceptedComputeProviders(providers);
  if (accepted.length === 0) {
    const each = providers.map(
      ({ steward, allowedComputeProviders }) =>
        `${steward} accepts ${[...allowedComputeProviders].sort().join(", ") || "none"}`,
    );
    return { kind: "none", reason: `no third party is accepted by all (${each.sort().join("; ")})` };
  }
  const willing = accepted.filter((name) => doesNotObject(name, archetype, validations));
  if (willing.length === 0) {
    return { kind: "none", reason: `the own agreements of ${accepted.join(", ")} do not allow it` };
  }
  const chosen = willing.find((name) => online.has(name));
  if (chosen !== undefined) return { kind: "chosen", name: chosen };
  return { kind: "offline", reason: `none of ${willing.join(", ")} is online`, accepted: willing };
}

function doesNotObject(name: string, archetype: string, validations: readonly StewardValidation[]): boolean {
  const own = validations.find(({ steward }) => steward === name);
  if (own === undefined || own.refusal?.code === "no_agreement") return true;
  return own.refusal === undefined && own.allowedArchetypes.includes(archetype);
}
