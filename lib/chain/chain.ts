/**
 * Chains: which microservices a party runs for a request, and in which order (thesis, section 4.2).
 * Pure; the agent starts what this returns, the config API draws it and validates metadata with it (`metadata.ts`).
 */
import graphlib from "graphlib";
import { AppError } from "../errors.ts";
import type { Role } from "../model/archetype.ts";
import { isOptionOn, type RequestOptions } from "../model/data-request.ts";
import type { Microservice } from "../model/microservice.ts";
import { optionalServiceKeys, type RequestType } from "../model/request-type.ts";

/** What a chain is made from. */
export interface ChainInput {
  readonly requestType: RequestType;
  /** All microservices known, in any order. */
  readonly microservices: readonly Microservice[];
  /** The plan's archetype, by name. */
  readonly archetype: string;
  readonly role: Role;
  readonly options?: RequestOptions | undefined;
  /** Microservices that the steward forces for this request type. */
  readonly forced?: readonly string[];
}

/** One party's chain. */
export interface Chain {
  /** In the order of the data; never empty. */
  readonly services: readonly Microservice[];
  /** All allowed outputs among the chosen, as pairs of names; the path along `services` is a part of them. */
  readonly edges: readonly (readonly [from: string, to: string])[];
  /** Chosen, but left out because they exclude the archetype. */
  readonly excluded: readonly string[];
}

/**
 * The chain of one party: the request type's required services, the optional ones asked for and the forced ones, as far
 * as the role runs their label and they do not exclude the archetype, sorted topologically along `allowedOutputs`.
 *
 * `chain_invalid` when a service is unknown, when nothing remains, when the edges make a cycle, or when the order is not
 * one path in which each service hands on to the next; the message and `details` name the services.
 */
export function generateChain(input: ChainInput): Chain {
  const known = new Map(input.microservices.map((microservice) => [microservice.name, microservice]));
  const chosen = chosenNames(input).map((name) => {
    const microservice = known.get(name);
    if (microservice === undefined) throw unknownService(name, input, known);
    return microservice;
  });
  const withLabel = chosen.filter(({ label }) => input.role === "all" || label === input.role);
  const members = withLabel.filter(({ invalidArchetypes }) => !invalidArchetypes.includes(input.archetype));
  const excluded = withLabel.filter((service) => !members.includes(service)).map(({ name }) => name);
  if (members.length === 0) throw emptyChain(input, excluded);
  const graph = graphOf(members);
  const services = sortTopologically(graph, input).map((name) => known.get(name)!);
  requirePath(services, input, excluded);
  return { services, edges: edgesOf(graph), excluded };
}

/** The names that would be in a chain of role `all` if no archetype excluded any; sorted, each once. */
function chosenNames(input: ChainInput): string[] {
  const asked = Object.entries(optionalServiceKeys(input.requestType))
    .filter(([, optionKey]) => isOptionOn(input.options, optionKey))
    .map(([name]) => name);
  return [...new Set([...input.requestType.requiredServices, ...asked, ...(input.forced ?? [])])].sort();
}

function graphOf(members: readonly Microservice[]): graphlib.Graph {
  const graph = new graphlib.Graph({ directed: true });
  for (const { name } of members) graph.setNode(name);
  for (const { name, allowedOutputs } of members) {
    for (const output of [...allowedOutputs].sort()) if (graph.hasNode(output)) graph.setEdge(name, output);
  }
  return graph;
}

function sortTopologically(graph: graphlib.Graph, input: ChainInput): string[] {
  const cycles = graphlib.alg.findCycles(graph);
  if (cycles.length > 0) {
    const cycle = [...(cycles[0] ?? [])].reverse();
    const path = [...cycle, cycle[0]].join(" → ");
    throw chainInvalid(`they make a cycle: ${path}. Take one of these out of "allowedOutputs"`, input, { cycle });
  }
  return graphlib.alg.topsort(graph);
}

/** A topological order along which every neighbour is an edge is the only one, so a valid chain does not depend on ties. */
function requirePath(services: readonly Microservice[], input: ChainInput, excluded: readonly string[]): void {
  services.slice(1).forEach((next, index) => {
    const previous = services[index]!;
    if (previous.allowedOutputs.includes(next.name)) return;
    const gap = excluded.length > 0 ? ` (left out, because they exclude the archetype: ${excluded.join(", ")})` : "";
    throw chainInvalid(
      `"${previous.name}" and "${next.name}" are not connected${gap}: add "${next.name}" to the "allowedOutputs" of "${previous.name}", or take one of them out`,
      input,
      { unconnected: [previous.name, next.name], excluded },
    );
  });
}

function edgesOf(graph: graphlib.Graph): (readonly [string, string])[] {
  return graph
    .edges()
    .map(({ v, w }) => [v, w] as const)
    .sort(([v1, w1], [v2, w2]) => (`${v1} ${w1}` < `${v2} ${w2}` ? -1 : 1));
}

function unknownService(name: string, input: ChainInput, known: ReadonlyMap<string, Microservice>): AppError {
  return chainInvalid(`there is no microservice "${name}"`, input, { unknown: name, known: [...known.keys()].sort() });
}

function emptyChain(input: ChainInput, excluded: readonly string[]): AppError {
  const why =
    excluded.length > 0
      ? `every service of role ${input.role} excludes this archetype: ${excluded.join(", ")}`
      : `none of its services has the label of role ${input.role}`;
  return chainInvalid(why, input, { excluded });
}

function chainInvalid(what: string, input: ChainInput, details: Readonly<Record<string, unknown>>): AppError {
  const chain = `request type "${input.requestType.name}", archetype "${input.archetype}", role ${input.role}`;
  return new AppError("chain_invalid", `The services of ${chain} form no chain: ${what}.`, {
    details: { requestType: input.requestType.name, archetype: input.archetype, role: input.role, ...details },
  });
}
