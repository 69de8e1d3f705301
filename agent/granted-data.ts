/** The data of one run: located for its chain, and held until it is over. */
import { AppError } from "../lib/errors.ts";
import type { Grant } from "../lib/model/grant.ts";
import type { AgentContext } from "./context.ts";
import type { HeldDataSet } from "./data-sources.ts";

/** Where granted data are, as the chain's first microservice is told: by data set. */
export type DataLocations = Readonly<Record<string, { readonly path: string; readonly contentHash: string }>>;

/** Data that stay where they are until they are released. */
export interface GrantedData {
  readonly locations: DataLocations;
  /** Releases every data set, and only then throws the first failure. */
  release(): Promise<void>;
}

/** For chains that read none. */
export const NO_DATA: GrantedData = { locations: {}, release: async () => undefined };

/**
 * Loads the granted data sets where they have changed, and holds them.
 *
 * @throws AppError `not_found` for an unknown data set; what `DataSources` throws.
 */
export async function holdGrantedData(
  { knowledge, data }: Pick<AgentContext, "knowledge" | "data">,
  grant: Grant,
  signal: AbortSignal,
): Promise<GrantedData> {
  const held: HeldDataSet[] = [];
  const release = async (): Promise<void> => {
    const outcomes = await Promise.allSettled(held.splice(0).map(async (dataSet) => dataSet.release()));
    for (const outcome of outcomes) if (outcome.status === "rejected") throw outcome.reason;
  };
  try {
    for (const { name } of grant.dataSets) {
      // The whole data set is loaded once; the grant narrows it in the query's world.
      const document = await knowledge.get("datasets", name);
      if (document === undefined) throw new AppError("not_found", `There is no data set "${name}".`);
      held.push(await data.open(document.document, signal));
    }
  } catch (error) {
    // Why there are no data is the first failure; what could not be tidied is looked for again when the next run ends.
    await Promise.allSettled([release()]);
    throw error;
  }
  const locations = held.map(({ name, path, contentHash }) => [name, { path, contentHash }] as const);
  return { locations: Object.fromEntries(locations), release };
}
