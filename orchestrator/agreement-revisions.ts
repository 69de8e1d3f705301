/** Which state of agreements and archetypes a plan stands on: compared before each use, so that a changed one counts at once. */
import { isDeepStrictEqual } from "node:util";
import type { Versioned } from "../lib/knowledge/knowledge-base.ts";
import { agreementKeys } from "../lib/knowledge/keys.ts";
import type { Archetype } from "../lib/model/archetype.ts";
import type { OrchestratorContext } from "./context.ts";
import type { Plan } from "./plans.ts";

/** The store revision of each steward's agreement; 0 where there is none. */
export async function agreementRevisions(
  stewards: readonly string[],
  { knowledge }: OrchestratorContext,
): Promise<Record<string, number>> {
  const entries = await Promise.all(
    stewards.map(async (steward) => {
      const stored = await knowledge.store.get(agreementKeys.key({ steward }));
      return [steward, stored?.revision ?? 0] as const;
    }),
  );
  return Object.fromEntries(entries);
}

/** The store revision of each archetype. */
export function revisionsByName(archetypes: readonly Versioned<Archetype>[]): Record<string, number> {
  return Object.fromEntries(archetypes.map(({ document, revision }) => [document.name, revision]));
}

/** Whether no agreement and no archetype that a plan was decided on has changed since. */
export async function standsOnCurrentDocuments(plan: Plan, context: OrchestratorContext): Promise<boolean> {
  const stewards = [...new Set([...plan.approved, ...Object.keys(plan.agreements)])];
  const [revisions, archetypes] = await Promise.all([
    agreementRevisions(stewards, context),
    context.knowledge.list("archetypes"),
  ]);
  return (
    stewards.every((steward) => revisions[steward] === (plan.agreements[steward] ?? 0)) &&
    isDeepStrictEqual(revisionsByName(archetypes.documents), plan.archetypes)
  );
}
