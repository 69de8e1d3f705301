/** `POST /agent/v1/<requestType>/<steward>`: a data request and its streamed answer; `DELETE /agent/v1/requests/<id>` ends one. */
import { createHash, randomUUID } from "node:crypto";
import { Type } from "@sinclair/typebox";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { AppError } from "../../lib/errors.ts";
import { pieceStream } from "../../lib/http/piece-stream.ts";
import type { DataRequest } from "../../lib/model/data-request.ts";
import { readParts } from "../../lib/rpc/frames.ts";
import type { TraceContext } from "../../lib/telemetry/trace-context.ts";
import { withSpan } from "../../lib/telemetry/tracing.ts";
import { authenticate, type Caller } from "../authorization.ts";
import type { AgentContext } from "../context.ts";
import { answerRequest, findAnsweredJob } from "../data-requests.ts";
import type { Requests } from "../requests.ts";
import { ANSWER_MEDIA_TYPES, answerPieces, chooseFormat } from "./answer-formats.ts";
import { parseDataRequest } from "./data-request-body.ts";

/** A caller that stalled, and whose run was ended for it, may still come back in this time and read why. */
const TOLD_OF_STALL_MS = 30_000;

interface DataRequestPath {
  readonly requestType: string;
  readonly steward: string;
}

/** Adds the routes. */
export function addDataRequestRoutes(server: FastifyInstance, context: AgentContext, requests: Requests): void {
  server.post<{ Params: DataRequestPath; Body: unknown }>(
    "/agent/v1/:requestType/:steward",
    { schema: { params: Type.Object({ requestType: Type.String(), steward: Type.String() }) } },
    (request, reply) =>
      withSpan("data request", request.traceContext, { "dynamos.steward": context.steward }, (span) =>
        answer(context, requests, request, reply, span),
      ),
  );
  server.delete<{ Params: { requestId: string } }>("/agent/v1/requests/:requestId", async (request, reply) => {
    const caller = await authenticate(context, bearerToken(request));
    const reason = new AppError("cancelled", "The caller cancelled the request.");
    if (!requests.cancel(caller.claims.sub, requestIdOf(request.params.requestId), reason)) {
      throw new AppError("not_found", "No request of this name is running here.");
    }
    return reply.code(204).send();
  });
}

/** Resolves once the first piece of the answer is there, so that a failure before it becomes a problem document. */
async function answer(
  context: AgentContext,
  requests: Requests,
  request: FastifyRequest<{ Params: DataRequestPath; Body: unknown }>,
  reply: FastifyReply,
  trace: TraceContext,
): Promise<FastifyReply> {
  const { requestType, steward } = request.params;
  if (steward.toLowerCase() !== context.steward.toLowerCase()) {
    throw new AppError("not_found", `This is the agent of ${context.steward}, not of "${steward}".`);
  }
  const caller = await authenticate(context, bearerToken(request));
  const question = parseDataRequest(request.body, requestType);
  requireSameJobAndUser(question, caller);
  const format = chooseFormat(request.headers.accept);
  const key = idempotencyKey(request);
  const requestId = key === undefined ? randomUUID() : requestIdOf(key);
  const asked = { caller, request: question, requestId, trace };
  const job = await findAnsweredJob(context, asked);
  request.log.info({ dataRequest: requestId, archetype: job.composition.archetype_id }, "data request");
  const frames = requests.attachOrStart(
    { user: caller.claims.sub, requestId, fingerprint: fingerprint(caller, question), isRepeatable: key !== undefined },
    (signal) => answerRequest(context, job, asked, signal),
    request.callerGone,
  );
  const heading = {
    requestId,
    jobName: job.composition.job_name,
    archetype: job.composition.archetype_id,
    provider: context.steward,
  };
  const pieces = answerPieces(format, readParts(frames, context.steward), heading);
  const first = await pieces.next();
  return reply
    .header("content-type", ANSWER_MEDIA_TYPES[format])
    .header("x-dynamos-request", requestId)
    .send(pieceStream(first, pieces, reply.raw, context.settings.DYNAMOS_STALL_TIMEOUT_MS + TOLD_OF_STALL_MS));
}

/** The token of an Authorization header (RFC 6750), or undefined. */
export function bearerToken(request: FastifyRequest): string | undefined {
  return /^Bearer +(\S+)$/i.exec(request.headers.authorization ?? "")?.[1];
}

/** What the body says of job and user must not contradict the token, which decides. */
function requireSameJobAndUser(question: DataRequest, { claims }: Caller): void {
  const jobId = question.requestMetadata?.["jobId"] ?? question.requestMetadata?.["job_id"];
  if (typeof jobId === "string" && jobId !== "" && jobId !== claims.job) {
    throw new AppError("token_invalid", "The token is for another job than requestMetadata.jobId names.");
  }
  if (question.user !== undefined && question.user.userName !== claims.sub) {
    throw new AppError("token_invalid", "The token is for another user than the body names.");
  }
}

function idempotencyKey(request: FastifyRequest): string | undefined {
  const header = request.headers["idempotency-key"];
  if (header === undefined) return undefined;
  if (typeof header !== "string" || !/^[\x21-\x7e]{1,128}$/.test(header)) {
    throw new AppError("bad_request", "Idempotency-Key has 1 to 128 visible ASCII characters without spaces.");
  }
  return header;
}

/** A key that is a UUID is the request's id; any other becomes one by its hash, since ids name queues and jobs. */
function requestIdOf(key: string): string {
  if (/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(key)) return key.toLowerCase();
  const hex = createHash("sha256").update(key).digest("hex");
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-5${hex.slice(13, 16)}-8${hex.slice(17, 20)}-${hex.slice(20, 32)}`;
}

function fingerprint(caller: Caller, question: DataRequest): string {
  const { query, algorithm, algorithmColumns, algorithmParameters, graph, options } = question;
  const relevant = [caller.claims.job, query, algorithm, algorithmColumns, algorithmParameters, graph, options];
  return createHash("sha256").update(JSON.stringify(relevant)).digest("hex");
}
