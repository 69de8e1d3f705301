/** Validation of chain metadata before it is stored: every chain that a request could ask for must be one. Pure. */
import { AppError, toAppError } from "../errors.ts";
import type { Archetype, Role } from "../model/archetype.ts";
import type { Microservice } from "../model/microservice.ts";
import { optionalServiceKeys, type RequestType } from "../model/request-type.ts";
import { generateChain, type Chain } from "./chain.ts";
import { requireContainerNames } from "./container-name.ts";

/** The documents that chains are made from. */
export interface ChainMetadata {
  readonly requestTypes: readonly RequestType[];
  readonly microservices: readonly Microservice[];
  readonly archetypes: readonly Archetype[];
}

/** Optional services of one request type: 2^10 chains per archetype and role are tried. */
export const MAX_OPTIONAL_SERVICES = 10;

/** The roles that take part in a plan of this archetype. */
export function rolesOf(archetype: Archetype): readonly Role[] {
  return archetype.computeProvider === "dataProvider" ? ["all"] : ["dataProvider", "computeProvider"];
}

/**
 * Tries the chains of every request type, with every combination of its optional services, in every archetype and role,
 * and whether a data provider's chain may hand on to the third party's. The first fault is thrown as `chain_invalid`.
 */
export function validateChainMetadata(metadata: ChainMetadata): void {
  requireKnownNames(metadata);
  requireContainerNames(metadata.microservices.map(({ name }) => name));
  for (const requestType of byName(metadata.requestTypes)) {
    for (const options of optionCombinations(requestType)) {
      for (const archetype of byName(metadata.archetypes)) {
        const chains = rolesOf(archetype).map((role) =>
          chainWithOptions({ requestType, options, archetype: archetype.name, role, ...metadata }),
        );
        requireHandOver(chains, requestType, archetype);
      }
    }
  }
}

function requireKnownNames(metadata: ChainMetadata): void {
  const services = new Set(metadata.microservices.map(({ name }) => name));
  const archetypes = new Set(metadata.archetypes.map(({ name }) => name));
  for (const { name, allowedOutputs, invalidArchetypes } of byName(metadata.microservices)) {
    requireKnown(`Microservice "${name}"`, "allowedOutputs", allowedOutputs, services, "microservice");
    requireKnown(`Microservice "${name}"`, "invalidArchetypes", invalidArchetypes, archetypes, "archetype");
  }
  for (const requestType of byName(metadata.requestTypes)) {
    const subject = `Request type "${requestType.name}"`;
    requireKnown(subject, "requiredServices", requestType.requiredServices, services, "microservice");
    const optional = Object.keys(optionalServiceKeys(requestType));
    requireKnown(subject, "optionalServices", optional, services, "microservice");
    if (optional.length > MAX_OPTIONAL_SERVICES) {
      throw new AppError(
        "chain_invalid",
        `${subject} has ${String(optional.length)} optional services; at most ${String(MAX_OPTIONAL_SERVICES)} are allowed, since every combination is checked.`,
        { place: { pointer: "/optionalServices" } },
      );
    }
  }
}

function requireKnown(
  subject: string,
  member: string,
  names: readonly string[],
  known: ReadonlySet<string>,
  kind: string,
): void {
  const index = names.findIndex((name) => !known.has(name));
  if (index < 0) return;
  const name = names[index] ?? "";
  throw new AppError("chain_invalid", `${subject}: "${member}" names ${kind} "${name}", which does not exist.`, {
    place: { pointer: `/${member}/${member === "optionalServices" ? name : String(index)}` },
    details: { unknown: name, known: [...known].sort() },
  });
}

/** Every combination of option keys, switched on. */
function optionCombinations(requestType: RequestType): Readonly<Record<string, boolean>>[] {
  const keys = [...new Set(Object.values(optionalServiceKeys(requestType)))].sort();
  return Array.from({ length: 2 ** keys.length }, (_, bits) =>
    Object.fromEntries(keys.map((key, index) => [key, Math.floor(bits / 2 ** index) % 2 === 1])),
  );
}

function chainWithOptions(input: Parameters<typeof generateChain>[0]): Chain {
  try {
    return generateChain(input);
  } catch (thrown) {
    const error = toAppError(thrown);
    const on = Object.entries(input.options ?? {}).flatMap(([key, value]) => (value === true ? [key] : []));
    throw new AppError(error.code, `${error.message} (Options: ${on.length > 0 ? on.join(", ") : "none"}.)`, {
      cause: error,
      details: { ...error.details, options: on },
    });
  }
}

function requireHandOver(chains: readonly Chain[], requestType: RequestType, archetype: Archetype): void {
  const [providing, computing] = chains;
  const last = providing?.services.at(-1);
  const first = computing?.services[0];
  if (last === undefined || first === undefined || last.allowedOutputs.includes(first.name)) return;
  throw new AppError(
    "chain_invalid",
    `The services of request type "${requestType.name}" form no chain in archetype "${archetype.name}": "${last.name}" at the data provider may not hand on to "${first.name}" at the third party. Add it to "allowedOutputs".`,
    { details: { requestType: requestType.name, archetype: archetype.name, unconnected: [last.name, first.name] } },
  );
}

/** Sorted, so that of several faults always the same one is told. */
function byName<Document extends { readonly name: string }>(documents: readonly Document[]): Document[] {
  return [...documents].sort((left, right) => (left.name < right.name ? -1 : 1));
}
