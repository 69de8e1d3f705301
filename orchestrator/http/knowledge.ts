/**
 * The config API: documents by kind. `GET` one or all, `PUT`, `DELETE`, with the store's revision as `ETag` and `If-Match`
 * (RFC 9110, section 13). Writes need the admin key. Agreements speak of persons: the admin sees all of them, the bearer of a
 * token what concerns the bearer; everything else is open.
 */
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { AppError } from "../../lib/errors.ts";
import { nameOf, type DocumentKind, type DocumentOf, type Versioned } from "../../lib/knowledge/knowledge-base.ts";
import type { OnlineRecord } from "../../lib/messages.ts";
import type { Agreement } from "../../lib/model/agreement.ts";
import { KnowledgeAdmin } from "../knowledge-admin.ts";
import type { HttpContext } from "./context.ts";

/** Kind to its path under `/api/v1`. */
const PATHS = {
  archetypes: "archetypes",
  agreements: "policyEnforcer",
  requestTypes: "requestTypes",
  microservices: "microservices",
  datasets: "datasets",
  forcedServices: "forcedServices",
} as const satisfies Record<DocumentKind, string>;

type OnePath = { Params: { name: string } };

/** Adds the routes. */
export function addKnowledgeRoutes(server: FastifyInstance, context: HttpContext): void {
  const admin = new KnowledgeAdmin(context.orchestrator.knowledge, context.orchestrator.clock);
  for (const kind of Object.keys(PATHS) as DocumentKind[]) {
    const base = `/api/v1/${PATHS[kind]}`;
    server.get(base, async (request) => {
      const mayRead = await readerOf(kind, request, context);
      const { documents } = await context.orchestrator.knowledge.list(kind);
      return documents.map(({ document }) => mayRead(document));
    });
    server.put(base, (request, reply) => put(kind, undefined, request, reply, admin, context));
    const paths = kind === "agreements" ? [`${base}/:name`, `${base}/agreements/:name`] : [`${base}/:name`];
    for (const path of paths) {
      server.get<OnePath>(path, (request, reply) => getOne(kind, request, reply, context));
      server.put<OnePath>(path, (request, reply) => put(kind, request.params.name, request, reply, admin, context));
      server.delete<OnePath>(path, (request, reply) => remove(kind, request, reply, admin, context));
    }
  }
  server.get("/api/v1/policyEnforcer/agreements", async (_request, reply) =>
    reply.redirect("/api/v1/policyEnforcer", 308),
  );
  server.get("/api/v1/getAvailableProviders", async () => {
    const { documents } = await context.orchestrator.knowledge.online();
    return availableProviders(documents.map(({ document }) => document));
  });
}

async function getOne(
  kind: DocumentKind,
  request: FastifyRequest<OnePath>,
  reply: FastifyReply,
  context: HttpContext,
): Promise<FastifyReply> {
  const mayRead = await readerOf(kind, request, context);
  const found = await requireOne(kind, request.params.name, context);
  return reply.header("etag", etagOf(found.revision)).send(mayRead(found.document));
}

async function put(
  kind: DocumentKind,
  name: string | undefined,
  request: FastifyRequest,
  reply: FastifyReply,
  admin: KnowledgeAdmin,
  { callers }: HttpContext,
): Promise<FastifyReply> {
  callers.requireAdmin(request);
  const document = request.body;
  if (name !== undefined) requireSameName(kind, name, document);
  const { revision, isNew } = await admin.put(kind, document, conditionOf(request));
  request.log.info({ kind, revision }, "document stored");
  return reply
    .code(isNew ? 201 : 200)
    .header("etag", etagOf(revision))
    .send(document);
}

async function remove(
  kind: DocumentKind,
  request: FastifyRequest<OnePath>,
  reply: FastifyReply,
  admin: KnowledgeAdmin,
  { callers }: HttpContext,
): Promise<FastifyReply> {
  callers.requireAdmin(request);
  const { name } = request.params;
  if (!(await admin.delete(kind, name, conditionOf(request)))) throw unknownDocument(kind, name, []);
  request.log.info({ kind }, "document deleted");
  return reply.code(204).send();
}

async function requireOne(
  kind: DocumentKind,
  name: string,
  { orchestrator }: HttpContext,
): Promise<Versioned<unknown>> {
  const { documents } = await orchestrator.knowledge.list(kind);
  const found = documents.find(({ document }) => nameOf(kind, document) === name);
  if (found !== undefined) return found;
  // Names of stewards with agreements are no secret: they are online for all to see.
  throw unknownDocument(
    kind,
    name,
    documents.map(({ document }) => nameOf(kind, document)),
  );
}

/** What of a document this caller may see. */
async function readerOf(
  kind: DocumentKind,
  request: FastifyRequest,
  { callers }: HttpContext,
): Promise<(document: unknown) => unknown> {
  if (kind !== "agreements" || callers.isAdmin(request)) return (document) => document;
  const { sub } = await callers.ofToken(request);
  return (document) => onlyRelationOf(document as Agreement, sub);
}

function onlyRelationOf(agreement: Agreement, userName: string): Agreement {
  const relations = Object.entries(agreement.relations).filter(([name]) => name === userName);
  return { ...agreement, relations: Object.fromEntries(relations) };
}

/** The revision that `If-Match` demands; 0 (none may be there) for `If-None-Match: *`. */
function conditionOf(request: FastifyRequest): number | undefined {
  const { "if-match": ifMatch, "if-none-match": ifNoneMatch } = request.headers;
  if (ifNoneMatch === "*") return 0;
  if (ifMatch === undefined || ifMatch === "*") return undefined;
  const revision = /^"([1-9]\d{0,15})"$/.exec(ifMatch)?.[1];
  if (revision === undefined) {
    throw new AppError("bad_request", `If-Match takes one ETag of this API, such as "42", not ${ifMatch}.`);
  }
  return Number(revision);
}

function requireSameName<Kind extends DocumentKind>(kind: Kind, name: string, document: unknown): void {
  if (typeof document !== "object" || document === null) return;
  const own = nameOf(kind, document as DocumentOf<Kind>);
  if (own === name) return;
  const pointer = kind === "forcedServices" ? "/data_steward" : "/name";
  throw new AppError("bad_request", `The path names "${name}", the document "${String(own)}".`, { place: { pointer } });
}

function etagOf(revision: number): string {
  return `"${String(revision)}"`;
}

function unknownDocument(kind: DocumentKind, name: string, known: readonly string[]): AppError {
  return new AppError("not_found", `There is no "${name}" among the ${kind}.`, {
    details: { kind, ...(known.length === 0 ? {} : { known }) },
  });
}

/** By party; of several instances the one that is online the longest. */
function availableProviders(instances: readonly OnlineRecord[]): Record<string, unknown> {
  const byParty = new Map<string, OnlineRecord>();
  for (const record of instances) {
    const other = byParty.get(record.name);
    if (other === undefined || record.activeSince < other.activeSince) byParty.set(record.name, record);
  }
  return Object.fromEntries(
    [...byParty.values()]
      .sort((left, right) => (left.name < right.name ? -1 : 1))
      .map(({ name, activeSince, routingKey, dns }) => [name, { name, activeSince, routingKey, dns }]),
  );
}
