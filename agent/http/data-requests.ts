/**
 * `POST /agent/v1/<requestType>/<steward>`: a data request and its streamed answer; `DELETE /agent/v1/requests/<id>` ends one.
 * Either may arrive at an instance of the agent that does not run the request: `passing-on.ts`.
 */
import { Type } from "@sinclair/typebox";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { AppError, toAppError } from "../../lib/errors.ts";
import { chooseEncoding, encodedBody, encodingHeaders, type ContentEncoding } from "../../lib/http/content-encoding.ts";
import { fingerprintOf } from "../../lib/fingerprint.ts";
import { requestIdOf } from "../../lib/http/idempotency.ts";
import { parseDataRequest } from "../../lib/http/request-bodies.ts";
import { bearerToken } from "../../lib/http/request-headers.ts";
import { pieceStream } from "../../lib/http/piece-stream.ts";
import type { DataRequest } from "../../lib/model/data-request.ts";
import type { TraceContext } from "../../lib/telemetry/trace-context.ts";
import { withSpan } from "../../lib/telemetry/tracing.ts";
import { authenticate, type Caller } from "../authorization.ts";
import type { AgentContext } from "../context.ts";
import { allowRequest, answerRequest, type AllowedQuestion, type CallerRequest } from "../data-requests.ts";
import { guardGrant } from "../grant-guard.ts";
import type { RequestName, Requests } from "../requests.ts";
import type { LiveRun } from "../runs/live-runs.ts";
import { ANSWER_MEDIA_TYPES, answerPieces, chooseFormat, type AnswerFormat } from "./answer-formats.ts";
import { cancelElsewhere, claimOrPassOn, type ClaimedHere } from "./passing-on.ts";

/** A caller that stalled, and whose run was ended for it, may still come back in this time and read why. */
const TOLD_OF_STALL_MS = 30_000;

interface DataRequestPath {
  readonly requestType: string;
  readonly steward: string;
}

type DataRequestCall = FastifyRequest<{ Params: DataRequestPath; Body: unknown }>;

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
    const { requestId } = requestIdOf(request.params.requestId);
    if (requests.cancel(caller.claims.sub, requestId, reason) || (await cancelElsewhere(context, request))) {
      return reply.code(204).send();
    }
    throw new AppError("not_found", "No request of this name is running here.");
  });
}

/** Resolves once the first piece of the answer is there, so that a failure before it becomes a problem document. */
async function answer(
  context: AgentContext,
  requests: Requests,
  request: DataRequestCall,
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
  const { requestId, isRepeatable } = requestIdOf(request.headers["idempotency-key"]);
  const deadlineMs = context.clock.now() + context.settings.DYNAMOS_REQUEST_DEADLINE_MS;
  const asked = { caller, request: question, requestId, deadlineMs, trace };
  request.callerGone.throwIfAborted();
  // Before anything is asked of the agreement, and until the last piece is out: an agreement that changes meanwhile ends this
  // answer, whether it comes from a run or is given again.
  const reading = context.live.enter({ requestId, jobName: caller.claims.job }, request.callerGone);
  reply.raw.once("close", () => reading.close());
  const allowed = await allowRequest(context, asked);
  const name = {
    user: caller.claims.sub,
    requestId,
    fingerprint: fingerprint(caller, question),
    decision: allowed.decision,
    isRepeatable,
  };
  const claim = isRepeatable ? await claimOrPassOn(context, request, reply, name, trace) : undefined;
  if (claim?.kind === "passedOn") {
    // Where the answer is made, it is ended too; here it would break off without a word.
    reading.close();
    return claim.reply;
  }
  guardGrant(context, reading, { ...allowed, caller });
  // A PNG is compressed already, and so are chunks of frames that compress.
  const encoding =
    format === "png" || format === "frames" ? "identity" : chooseEncoding(request.headers["accept-encoding"]);
  return answerHere(context, requests, { name, allowed, asked, format, encoding, reading, claim }, reply);
}

/** A question that this instance answers. */
interface QuestionHere {
  readonly name: RequestName;
  readonly allowed: AllowedQuestion;
  readonly asked: CallerRequest;
  readonly format: AnswerFormat;
  readonly encoding: ContentEncoding;
  readonly reading: LiveRun;
  /** Absent where nobody can ask again. */
  readonly claim: ClaimedHere | undefined;
}

async function answerHere(
  context: AgentContext,
  requests: Requests,
  { name, allowed, asked, format, encoding, reading, claim }: QuestionHere,
  reply: FastifyReply,
): Promise<FastifyReply> {
  const { job_name: jobName, archetype_id: archetype } = allowed.job.composition;
  const { requestId } = name;
  let frames;
  try {
    if (reading.signal.aborted) throw toAppError(reading.signal.reason).withParty(context.steward);
    reply.request.log.info({ dataRequest: requestId, archetype }, "data request");
    frames = requests.attachOrStart(name, (signal) => answerRequest(context, allowed, asked, signal), reading.signal);
  } finally {
    claim?.settle();
  }
  const heading = { requestId, jobName, archetype, provider: context.steward };
  const pieces = answerPieces(format, frames, heading);
  const first = await pieces.next().catch((error: unknown) => {
    throw toAppError(error).withParty(context.steward);
  });
  const stallMs = context.settings.DYNAMOS_STALL_TIMEOUT_MS + TOLD_OF_STALL_MS;
  return reply
    .headers(encodingHeaders(encoding))
    .header("content-type", ANSWER_MEDIA_TYPES[format])
    .header("x-dynamos-request", requestId)
    .send(encodedBody(pieceStream(first, pieces, reply.raw, stallMs), encoding));
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

function fingerprint(caller: Caller, question: DataRequest): string {
  const { query, algorithm, algorithmColumns, algorithmParameters, graph, options } = question;
  return fingerprintOf(caller.claims.job, query, algorithm, algorithmColumns, algorithmParameters, graph, options);
}
