/**
 * The key space of the knowledge store, spelled once. Each kind of document has a {@link KeyPattern} that makes its keys,
 * takes them apart again, and gives the prefixes to list and watch.
 */
import { AppError } from "../errors.ts";

/** The names in braces of a template: `"/a/{b}/{c}"` has `"b" | "c"`. */
type PartNames<Template extends string> = Template extends `${string}{${infer Name}}${infer Rest}`
  ? Name | PartNames<Rest>
  : never;

/** One kind of key. Parts are percent-encoded, so that any non-empty name may stand in any place. */
export interface KeyPattern<Name extends string> {
  readonly template: string;
  /** The key with these parts. Fails with `invalid_argument` when one is empty or not well-formed. */
  key(parts: Readonly<Record<Name, string>>): string;
  /**
   * What all keys with these leading parts start with; without parts, all keys of this kind (keys of other kinds may
   * start so too: {@link KeyPattern.parse} tells). The last part must be left open, else `invalid_argument`: `…/VU` is
   * also what `…/VUB` starts with.
   */
  prefix(leading?: Readonly<Partial<Record<Name, string>>>): string;
  /** The parts of a key, or undefined when it is of another kind. */
  parse(key: string): Readonly<Record<Name, string>> | undefined;
}

/** Who is online, one record per instance of an agent, under its lease. A party is online while one record lives. */
export const onlineKeys = keyPattern("/agents/online/{party}/{instanceId}");

/** Each instance of an agent that lives, under its lease: also one that is stopping, whose online record is gone already. */
export const agentInstanceKeys = keyPattern("/agents/instances/{party}/{instanceId}");

/** Each instance of the orchestrator that takes requests, under its lease. */
export const orchestratorOnlineKeys = keyPattern("/orchestrator/online/{instanceId}");

/** A party's jobs: the composition request, under the lease of its queue info. */
export const jobKeys = keyPattern("/agents/jobs/{party}/{userName}/{jobName}");

/** Holds the lease of a job: renewed by use. */
export const queueInfoKeys = keyPattern("/agents/jobs/{party}/queueInfo/{localJobName}");

/** Which instance of a party's agent runs a data request, under that instance's lease. */
export const agentRequestKeys = keyPattern("/agents/requests/{party}/{userName}/{requestId}");

/** Which instance of a data provider's agent provides a stream to a third party's run, under that instance's lease. */
export const providedStreamKeys = keyPattern("/agents/streams/{party}/{runName}");

/** State of one data request at the orchestrator. */
export const orchestratorRequestKeys = keyPattern("/orchestrator/requests/{userName}/{requestId}");

/** Which instance of the orchestrator keeps the answer of an asynchronous request. */
export const answerOwnerKeys = keyPattern("/orchestrator/answers/{userName}/{requestId}");

/** The orchestrator's plan for a job: who takes part, in which role. */
export const planKeys = keyPattern("/orchestrator/jobs/{jobName}");

/** What replicas of the orchestrator do one after the other. */
export const lockKeys = keyPattern("/orchestrator/locks/{name}");

/** How far the seeding of an empty store has come. */
export const seedKeys = keyPattern("/orchestrator/seed/{name}");

/** What `dynamos doctor` writes for trial, under a lease of a second, and deletes. */
export const doctorKeys = keyPattern("/doctor/{probe}");

/** Archetypes. */
export const archetypeKeys = keyPattern("/archetypes/{name}");

/** Request types. */
export const requestTypeKeys = keyPattern("/requestTypes/{name}");

/** Microservices' chain metadata. */
export const microserviceKeys = keyPattern("/microservices/{name}/chainMetadata");

/** Agreements, one per steward. */
export const agreementKeys = keyPattern("/policyEnforcer/agreements/{steward}");

/** Data sets. */
export const datasetKeys = keyPattern("/datasets/{name}");

/** The services that a steward forces into every chain. */
export const forcedServicesKeys = keyPattern("/forcedServices/{steward}");

type Segment<Name> =
  { readonly kind: "literal"; readonly text: string } | { readonly kind: "part"; readonly name: Name };

function keyPattern<const Template extends string>(template: Template): KeyPattern<PartNames<Template>> {
  type Name = PartNames<Template>;
  const segments = template.split("/").map((segment): Segment<Name> => {
    const name = /^\{(.*)\}$/.exec(segment)?.[1] as Name | undefined;
    return name === undefined ? { kind: "literal", text: segment } : { kind: "part", name };
  });
  const join = (some: readonly Segment<Name>[], parts: Readonly<Partial<Record<Name, string>>>): string =>
    some
      .map((segment) => (segment.kind === "literal" ? segment.text : encodePart(template, segment.name, parts)))
      .join("/");

  return {
    template,
    key: (parts) => join(segments, parts),
    prefix: (leading) => {
      const given = (leading ?? {}) as Readonly<Partial<Record<Name, string>>>;
      const open = segments.findIndex((segment) => segment.kind === "part" && given[segment.name] === undefined);
      if (open < 0) throw new AppError("invalid_argument", `All parts of ${template} are given: that is a key.`);
      return `${join(segments.slice(0, open), given)}/`;
    },
    parse: (key) => parseKey(segments, key),
  };
}

function parseKey<Name extends string>(
  segments: readonly Segment<Name>[],
  key: string,
): Readonly<Record<Name, string>> | undefined {
  const texts = key.split("/");
  if (texts.length !== segments.length) return undefined;
  const parts: Partial<Record<Name, string>> = {};
  for (const [index, segment] of segments.entries()) {
    const text = texts[index] ?? "";
    if (segment.kind === "literal") {
      if (text !== segment.text) return undefined;
      continue;
    }
    const part = decode(text);
    // Only what we would have written ourselves counts: that keeps the queue infos apart from the jobs of a user.
    if (part === undefined || encode(part) !== text) return undefined;
    parts[segment.name] = part;
  }
  return parts as Record<Name, string>;
}

function encodePart<Name extends string>(
  template: string,
  name: Name,
  parts: Readonly<Partial<Record<Name, string>>>,
): string {
  const text = encode(parts[name] ?? "");
  if (text !== undefined && text !== "") return text;
  const fault = text === "" ? "is empty" : "is not well-formed Unicode";
  throw new AppError("invalid_argument", `The part "${name}" of the key ${template} ${fault}.`);
}

/** Percent-encoding; undefined for lone surrogates, which have none. A user called `queueInfo` must not meet the literal. */
function encode(part: string): string | undefined {
  if (/\p{Surrogate}/u.test(part)) return undefined;
  const encoded = encodeURIComponent(part);
  return encoded === "queueInfo" ? "%71ueueInfo" : encoded;
}

function decode(text: string): string | undefined {
  if (text === "") return undefined;
  try {
    return decodeURIComponent(text);
  } catch (error) {
    if (error instanceof URIError) return undefined;
    throw error;
  }
}
