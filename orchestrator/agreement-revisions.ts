/** Which state of the agreements a plan stands on: compared before each use, so that a changed agreement counts at once. */
import { agreementKeys } from "../lib/knowledge/keys.ts";
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

/** Whether no agreement that a plan was decided on has changed since. */
export async function standsOnCurrentAgreements(plan: Plan, context: OrchestratorContext): Promise<boolean> {
  const stewards = [...new Set([...plan.approved, ...Object.keys(plan.agreements)])];
  const revisions = await agreementRevisions(stewards, context);
  return stewards.every((steward) => revisions[steward] === (plan.agreements[steward] ?? 0));
}
