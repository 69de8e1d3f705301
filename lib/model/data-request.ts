/** Requests: approval and data request, in the shapes that users of the prototype know. */
import { Type, type Static } from "@sinclair/typebox";
import { AppError } from "../errors.ts";
import { DocumentName, StewardName, User } from "./names.ts";

/** What an analyst switches on or off: `aggregate`, `anonymize`, `graph`, `allowPartial`, or an optional service's key. */
export const RequestOptions = Type.Record(Type.String(), Type.Union([Type.Boolean(), Type.String()]));
export type RequestOptions = Static<typeof RequestOptions>;

/**
 * A question over data. `algorithm` names one or more algorithms, separated by commas; `algorithmColumns` maps a group
 * column ("" or "*": no grouping; several separated by commas) to value columns separated by commas (decision 15).
 */
export const DataRequest = Type.Object({
  type: DocumentName,
  query: Type.String({ minLength: 1, maxLength: 100_000 }),
  algorithm: Type.Optional(Type.String({ maxLength: 1000 })),
  algorithmColumns: Type.Optional(Type.Record(Type.String(), Type.String())),
  /** Histogram bins and the like; see the algorithm's documentation. */
  algorithmParameters: Type.Optional(Type.Record(Type.String(), Type.Unknown())),
  /** `kind`, `x`, `y` of a picture; absent: by the data's shape. */
  graph: Type.Optional(Type.Record(Type.String(), Type.String())),
  options: Type.Optional(RequestOptions),
  user: Type.Optional(User),
  requestMetadata: Type.Optional(Type.Record(Type.String(), Type.Unknown())),
});
export type DataRequest = Static<typeof DataRequest>;

/** What an analyst asks of several stewards. */
export const RequestApproval = Type.Object({
  type: DocumentName,
  user: User,
  dataProviders: Type.Array(StewardName, { minItems: 1, maxItems: 100, uniqueItems: true }),
  /** New. Data sets that the request is about. Absent: all that each relation grants. */
  dataSets: Type.Optional(Type.Array(DocumentName, { minItems: 1, uniqueItems: true })),
  options: Type.Optional(RequestOptions),
  data_request: Type.Optional(DataRequest),
});
export type RequestApproval = Static<typeof RequestApproval>;

/** Options that ask for no microservice: a pooled answer without all providers, and the summaries that it is pooled from. */
const OWN_OPTIONS = ["allowPartial", "summary"];

/**
 * Fails with `bad_request`, and the known ones, for an option that is switched on and that nobody looks at: an `anonymise` must
 * not pass for `anonymize`.
 *
 * @param serviceKeys the options that ask for an optional microservice of the request type.
 */
export function checkOptions(options: RequestOptions | undefined, serviceKeys: readonly string[]): void {
  const known = [...new Set([...serviceKeys, ...OWN_OPTIONS])].sort();
  const unknown = Object.keys(options ?? {}).find((key) => isOptionOn(options, key) && !known.includes(key));
  if (unknown === undefined) return;
  throw new AppError("bad_request", `There is no option "${unknown}". Known: ${known.join(", ")}.`, {
    place: { pointer: `/options/${unknown}` },
    details: { known },
  });
}

/** Whether an option is switched on: `true` or `"true"`. */
export function isOptionOn(options: RequestOptions | undefined, key: string): boolean {
  const value = options?.[key];
  return value === true || value === "true";
}

/** The algorithms that a request's `algorithm` names, as it spells them; none where it asks for rows. */
export function algorithmNames(algorithm: string | undefined): readonly string[] {
  return (algorithm ?? "")
    .split(",")
    .map((name) => name.trim())
    .filter((name) => name !== "");
}
