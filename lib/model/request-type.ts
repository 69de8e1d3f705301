/** Request types and forced services: which microservices a kind of request runs. */
import { Type, type Static } from "@sinclair/typebox";
import { ChainLifetime } from "./chain-lifetime.ts";
import { DocumentName, StewardName } from "./names.ts";

/** A kind of request: its required microservices, and the optional ones with the option that asks for each. */
export const RequestType = Type.Object(
  {
    name: DocumentName,
    requiredServices: Type.Array(DocumentName, { minItems: 1, uniqueItems: true }),
    /** Microservice name to option key; a plain array is read as: the option's key is the service's name. */
    optionalServices: Type.Union([Type.Record(DocumentName, Type.String()), Type.Array(DocumentName)]),
    /** New. Chains that its requests run in, where neither the steward's agreement nor its agent's configuration says. Default `perRequest`. */
    chainLifetime: Type.Optional(ChainLifetime),
  },
  { additionalProperties: false },
);
export type RequestType = Static<typeof RequestType>;

/** Microservices that a steward runs whether the analyst asks or not, per request type. */
export const ForcedServices = Type.Object(
  { data_steward: StewardName, types: Type.Record(DocumentName, Type.Array(DocumentName, { uniqueItems: true })) },
  { additionalProperties: false },
);
export type ForcedServices = Static<typeof ForcedServices>;

/** The optional services as a map from microservice to option key, whichever form the document has. */
export function optionalServiceKeys(requestType: RequestType): Readonly<Record<string, string>> {
  const services = requestType.optionalServices;
  return Array.isArray(services) ? Object.fromEntries(services.map((name) => [name, name])) : services;
}
