/** Where agents answer data requests. */
import type { OrchestratorContext } from "./context.ts";

/** The path of a steward's data requests at its agent. */
export function dataRequestPath(requestType: string, steward: string): string {
  return `/agent/v1/${encodeURIComponent(requestType)}/${encodeURIComponent(steward.toLowerCase())}`;
}

/** Base URLs of the living instances of a party's agent, in order of instance; empty: it is offline. */
export async function baseUrlsOf(party: string, { knowledge }: OrchestratorContext): Promise<readonly string[]> {
  const instances = await knowledge.onlineInstances(party);
  return [...new Set(instances.map(({ dns }) => dns.replace(/\/+$/, "")))];
}

/** The endpoint of each party that is online, as an approval names them. */
export async function endpointsOf(
  parties: readonly string[],
  requestType: string,
  context: OrchestratorContext,
): Promise<Record<string, string>> {
  const entries = await Promise.all(
    parties.map(async (party) => {
      const [baseUrl] = await baseUrlsOf(party, context);
      return baseUrl === undefined ? [] : [[party, `${baseUrl}${dataRequestPath(requestType, party)}`] as const];
    }),
  );
  return Object.fromEntries(entries.flat());
}
