/** Where agents answer data requests. */
import { inOrderOfChoice } from "./agent-instances.ts";
import type { OrchestratorContext } from "./context.ts";
import { answeringParties, type Plan } from "./plans.ts";

/** The path of a steward's data requests at its agent. */
export function dataRequestPath(requestType: string, steward: string): string {
  return `/agent/v1/${encodeURIComponent(requestType)}/${encodeURIComponent(steward.toLowerCase())}`;
}

/**
 * The endpoint of each party that is online, as an approval names them. Of several instances without a common address each job
 * gets one of its own.
 */
export async function endpointsOf(
  plan: Pick<Plan, "jobName" | "requestType" | "providers" | "computeProvider">,
  { knowledge }: OrchestratorContext,
): Promise<Record<string, string>> {
  const entries = await Promise.all(
    answeringParties(plan).map(async (party) => {
      const [chosen] = inOrderOfChoice(plan.jobName, await knowledge.onlineInstances(party));
      if (chosen === undefined) return [];
      return [[party, `${chosen.dns.replace(/\/+$/, "")}${dataRequestPath(plan.requestType, party)}`] as const];
    }),
  );
  return Object.fromEntries(entries.flat());
}
