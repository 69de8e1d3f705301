/** What a data request through the front door consists of. */
import { AppError } from "../lib/errors.ts";
import type { DataRequest } from "../lib/model/data-request.ts";
import type { TraceContext } from "../lib/telemetry/trace-context.ts";
import type { Plan } from "./plans.ts";

/** A data request for an approved job. */
export interface DataRequestOrder {
  readonly plan: Plan;
  readonly request: DataRequest;
  readonly requestId: string;
  /** A token for the agents' calls under this plan, which may be another than the approval's by now. */
  readonly accessTokenFor: (plan: Plan) => Promise<string>;
  readonly trace: TraceContext;
  /** Aborted when nobody waits for the answer any more. */
  readonly signal: AbortSignal;
  /** The caller chose the id and may ask again under it: then agents may finish though the caller went. */
  readonly isRepeatable: boolean;
}

/** Why a request is aborted whose caller wants no answer any more: in contrast to one who went, and may ask again. */
export class CancelledByCaller extends AppError {
  constructor() {
    super("cancelled", "The caller cancelled the request.");
  }
}
