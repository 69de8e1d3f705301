/** What a data request through the front door consists of. */
import type { DataRequest } from "../lib/model/data-request.ts";
import type { TraceContext } from "../lib/telemetry/trace-context.ts";
import type { Plan } from "./plans.ts";

/** A data request for an approved job. */
export interface DataRequestOrder {
  readonly plan: Plan;
  readonly request: DataRequest;
  readonly requestId: string;
  readonly accessToken: string;
  readonly trace: TraceContext;
  /** Aborted when nobody waits for the answer any more. */
  readonly signal: AbortSignal;
  /** The caller chose the id and may ask again under it: then agents may finish though the caller went. */
  readonly isRepeatable: boolean;
}
