/**
 * Grants: what one party's agreement allows one data request, as evaluated by that party's agent at that moment
 * (decision 12). Signed, it travels as part of the stream's first frame, and tells every microservice what exists.
 */
import { Type, type Static } from "@sinclair/typebox";
import { DataSet } from "./dataset.ts";
import { DocumentName, StewardName } from "./names.ts";

/** The claims of a signed grant (a JWS, EdDSA, signed with the steward's grant key). */
export const Grant = Type.Object({
  steward: StewardName,
  requestId: Type.String(),
  jobName: Type.String(),
  requestType: DocumentName,
  /** The granted data sets, with only the granted tables and columns in them. Empty at a third party. */
  dataSets: Type.Array(DataSet),
  minimumGroupSize: Type.Integer({ minimum: 1 }),
  /** Whether rows may leave without an algorithm. */
  rawRows: Type.Boolean(),
  /** Algorithms allowed; absent: all. */
  operations: Type.Optional(Type.Array(Type.String())),
  /** Revision of the agreement in the knowledge store. */
  agreementRevision: Type.Integer(),
  /** ms since the epoch; after it nothing may run under this grant. */
  deadlineMs: Type.Integer(),
  /** At a third party: the data providers, with the public keys (JWK) that their grants are signed with. */
  providers: Type.Optional(Type.Record(StewardName, Type.Array(Type.Record(Type.String(), Type.Unknown())))),
});
export type Grant = Static<typeof Grant>;
