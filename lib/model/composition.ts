/** Composition requests: what each party of a plan is told (thesis, section 4.3). */
import { Type, type Static } from "@sinclair/typebox";
import { Role } from "./archetype.ts";
import { DocumentName, StewardName, User } from "./names.ts";

/** One party's part in a plan. Stored under `/agents/jobs/<NAME>/<userName>/<jobName>`. */
export const CompositionRequest = Type.Object({
  archetype_id: DocumentName,
  request_type: DocumentName,
  role: Role,
  user: User,
  data_providers: Type.Array(StewardName),
  /** The third party of the plan, where there is one. */
  compute_provider: Type.Optional(StewardName),
  /** Where a data provider's results go by default: the third party's queue, or the caller's agent's own. */
  destination_queue: Type.String(),
  job_name: Type.String(),
  local_job_name: Type.String(),
  /** New. Data sets that the approval covers. */
  data_sets: Type.Array(DocumentName),
  /** New. Lease that the job's records share at all parties; renewed by use at any of them. */
  lease_id: Type.Optional(Type.String()),
  /** New. Rises with every re-composition of the job; an older one is ignored. */
  plan_version: Type.Integer({ minimum: 1 }),
});
export type CompositionRequest = Static<typeof CompositionRequest>;
