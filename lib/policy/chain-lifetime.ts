/** Which kind of chain serves a request. Pure. */
import type { Agreement } from "../model/agreement.ts";
import type { ChainLifetime } from "../model/chain-lifetime.ts";
import type { RequestType } from "../model/request-type.ts";
import { findRelation } from "./evaluate.ts";

/** What may say something about it. */
export interface ChainLifetimeSources {
  /** Of the party that runs the chain; a third party may have none. */
  readonly agreement: Agreement | undefined;
  readonly userName: string;
  /** The party's own configuration: `DYNAMOS_CHAIN_LIFETIME`. */
  readonly configured: ChainLifetime | undefined;
  readonly requestType: Pick<RequestType, "chainLifetime">;
}

/** The first that says something counts: relation, agreement, configuration, request type. Where none does: `perRequest`. */
export function chooseChainLifetime(sources: ChainLifetimeSources): ChainLifetime {
  const { agreement, userName, configured, requestType } = sources;
  const relation = agreement === undefined ? undefined : findRelation(agreement, userName);
  return relation?.chainLifetime ?? agreement?.chainLifetime ?? configured ?? requestType.chainLifetime ?? "perRequest";
}
