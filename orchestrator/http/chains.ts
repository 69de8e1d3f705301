/**
 * `GET /api/v1/chains/<requestType>[.dot|.svg]?archetype=&role=&options=a,b&steward=`: the chains that a request would run, as
 * JSON, Graphviz DOT or SVG (by ending, `format`, or `Accept`). Without a role: every role of the archetype.
 */
import { Type, type Static } from "@sinclair/typebox";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { generateChain } from "../../lib/chain/chain.ts";
import { chainsToDot, type TitledChain } from "../../lib/chain/dot.ts";
import { rolesOf } from "../../lib/chain/metadata.ts";
import { AppError } from "../../lib/errors.ts";
import type { Archetype, Role } from "../../lib/model/archetype.ts";
import type { ForcedServices, RequestType } from "../../lib/model/request-type.ts";
import { dotToSvg } from "../../lib/render/dot-svg.ts";
import { readDocuments } from "../knowledge-admin.ts";
import type { Documents } from "../knowledge-rules.ts";
import type { HttpContext } from "./context.ts";

const ChainQuery = Type.Object(
  {
    archetype: Type.Optional(Type.String()),
    role: Type.Optional(
      Type.Union([Type.Literal("all"), Type.Literal("dataProvider"), Type.Literal("computeProvider")]),
    ),
    options: Type.Optional(Type.String()),
    steward: Type.Optional(Type.String()),
    format: Type.Optional(Type.Union([Type.Literal("json"), Type.Literal("dot"), Type.Literal("svg")])),
  },
  { additionalProperties: false },
);
type ChainQuery = Static<typeof ChainQuery>;
type ChainRequest = FastifyRequest<{ Params: { requestType: string }; Querystring: ChainQuery }>;
type Format = NonNullable<ChainQuery["format"]>;

/** Adds the route. */
export function addChainRoutes(server: FastifyInstance, { orchestrator }: HttpContext): void {
  server.get<{ Params: { requestType: string }; Querystring: ChainQuery }>(
    "/api/v1/chains/:requestType",
    { schema: { querystring: ChainQuery } },
    async (request, reply) => {
      const { name, format } = nameAndFormat(request);
      const documents = await readDocuments(orchestrator.knowledge);
      const requestType = find("request type", name, documents.requestTypes);
      const archetype = chosenArchetype(request.query.archetype, documents);
      const chains = chainsOf(requestType, archetype, request.query, documents);
      return send(format, `${name}, ${archetype.name}`, chains, reply);
    },
  );
}

async function send(
  format: Format,
  title: string,
  chains: readonly (TitledChain & { readonly role: Role })[],
  reply: FastifyReply,
): Promise<FastifyReply> {
  switch (format) {
    case "dot":
      return reply.header("content-type", "text/vnd.graphviz; charset=utf-8").send(chainsToDot(title, chains));
    case "svg":
      return reply.header("content-type", "image/svg+xml").send(await dotToSvg(chainsToDot(title, chains)));
    case "json":
      return reply.send({
        title,
        chains: chains.map(({ role, chain }) => ({
          role,
          services: chain.services.map(({ name }) => name),
          edges: chain.edges,
          excluded: chain.excluded,
        })),
      });
  }
}

function chainsOf(requestType: RequestType, archetype: Archetype, query: ChainQuery, documents: Documents) {
  const options = Object.fromEntries(
    (query.options ?? "")
      .split(",")
      .map((key) => key.trim())
      .filter((key) => key !== "")
      .map((key) => [key, true]),
  );
  const forced = documents.forcedServices.find((document) => document.data_steward === query.steward);
  const roles = query.role === undefined ? rolesOf(archetype) : [query.role];
  return roles.map((role) => ({
    role,
    title: query.steward === undefined ? role : `${query.steward}: ${role}`,
    chain: generateChain({
      requestType,
      microservices: documents.microservices,
      archetype: archetype.name,
      role,
      options,
      forced: forcedFor(requestType.name, forced),
    }),
  }));
}

/** Request types have any name, so none of `Object.prototype` is found by accident. */
function forcedFor(requestType: string, forced: ForcedServices | undefined): readonly string[] {
  if (forced === undefined || !Object.hasOwn(forced.types, requestType)) return [];
  return forced.types[requestType] ?? [];
}

/** The archetype asked for, else the preferred one. */
function chosenArchetype(name: string | undefined, { archetypes }: Documents): Archetype {
  if (name !== undefined) return find("archetype", name, archetypes);
  const [preferred] = [...archetypes].sort(
    (left, right) => left.weight - right.weight || (left.name < right.name ? -1 : 1),
  );
  if (preferred === undefined) throw new AppError("not_found", "There are no archetypes.");
  return preferred;
}

function find<Document extends { readonly name: string }>(
  kind: string,
  name: string,
  documents: readonly Document[],
): Document {
  const found = documents.find((document) => document.name === name);
  if (found !== undefined) return found;
  throw new AppError("not_found", `There is no ${kind} "${name}".`, {
    details: { known: documents.map((document) => document.name).sort() },
  });
}

function nameAndFormat(request: ChainRequest): { readonly name: string; readonly format: Format } {
  const [, name = "", ending] = /^(.*?)(?:\.(dot|svg|json))?$/.exec(request.params.requestType) ?? [];
  const accept = request.headers.accept ?? "";
  const byAccept = accept.includes("image/svg+xml") ? "svg" : accept.includes("graphviz") ? "dot" : "json";
  return { name, format: request.query.format ?? (ending as Format | undefined) ?? byAccept };
}
