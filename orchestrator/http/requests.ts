/**
 * The front door: approvals, data requests in one go, asynchronous ones.
 *
 * - `POST /api/v1/requestApproval`: an approval, with its tokens and endpoints; or, with `data_request`, the answer;
 * - `POST /api/v1/<requestType>`: a data request of an approved job, by token, under its plan as it is now;
 * - `kept-answers.ts` has `GET` and `DELETE /api/v1/requests/<id>`, the answer of an asynchronous request, or its end;
 * - `tokens.ts` has the tokens' routes, `knowledge.ts` and `chains.ts` the documents'.
 */
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { AppError } from "../../lib/errors.ts";
import { chooseEncoding, encodedBody, encodingHeaders } from "../../lib/http/content-encoding.ts";
import { fingerprintOf } from "../../lib/fingerprint.ts";
import { requestIdOf } from "../../lib/http/idempotency.ts";
import { parseApproval, parseDataRequest } from "../../lib/http/request-bodies.ts";
import { pieceStream } from "../../lib/http/piece-stream.ts";
import {
  algorithmNames,
  type DataRequest,
  type RequestApproval,
  type RequestOptions,
} from "../../lib/model/data-request.ts";
import type { User } from "../../lib/model/names.ts";
import type { VerifiedToken } from "../../lib/tokens.ts";
import { currentPlan } from "../current-plan.ts";
import type { DataRequestOrder } from "../data-request-order.ts";
import { answerDataRequest } from "../data-requests.ts";
import { endpointsOf } from "../endpoints.ts";
import type { PlanQuestion } from "../planning.ts";
import type { Plan } from "../plans.ts";
import { approveRequest, type JobSeed } from "../request-approval.ts";
import { approveOnce, noteRequest, type RequestName } from "../request-records.ts";
import type { HttpContext } from "./context.ts";
import { startAnswer } from "./kept-answers.ts";

/** Adds the routes. */
export function addRequestRoutes(server: FastifyInstance, context: HttpContext): void {
  for (const path of ["/api/v1/requestApproval", "/api/v1/requestapproval"]) {
    server.post(path, (request, reply) => requestApproval(request, reply, context));
  }
  server.post<{ Params: { requestType: string } }>("/api/v1/:requestType", (request, reply) =>
    dataRequest(request.params.requestType, request, reply, context),
  );
}

async function requestApproval(
  request: FastifyRequest,
  reply: FastifyReply,
  context: HttpContext,
): Promise<FastifyReply> {
  const approval = parseApproval(request.body);
  const user = context.callers.ofApproval(request, approval.user);
  const question = questionOf(approval, user, request);
  const { data_request: asked } = approval;
  const fingerprint = fingerprintOf("approval", { ...approval, user });
  const approve = (seed?: JobSeed): Promise<Plan> => approveRequest(question, context.orchestrator, seed);
  if (asked === undefined) return reply.send(await approvalAnswer(await approve(), context));
  const id = requestIdOf(request.headers["idempotency-key"]);
  const plan = id.isRepeatable
    ? await approvedOnce({ userName: user.userName, requestId: id.requestId, fingerprint }, approve, request, context)
    : await approve();
  const options = { ...approval.options, ...asked.options };
  return answer(
    { plan, request: { ...asked, options }, fingerprint, ...id },
    async () => {
      const { accessToken, refreshToken } = await context.tokens.issue(plan);
      return { auth: { accessToken, refreshToken } };
    },
    request,
    reply,
    context,
  );
}

/** A repeat finds the job of the first request, under its plan as it is now. */
async function approvedOnce(
  name: RequestName,
  approve: (seed: JobSeed) => Promise<Plan>,
  request: FastifyRequest,
  { orchestrator }: HttpContext,
): Promise<Plan> {
  const { jobName } = await approveOnce(name, approve, orchestrator, request.callerGone);
  return currentPlan(jobName, orchestrator, request.callerGone);
}

async function dataRequest(
  requestType: string,
  request: FastifyRequest,
  reply: FastifyReply,
  context: HttpContext,
): Promise<FastifyReply> {
  const caller = await context.callers.ofToken(request);
  if (caller.requestType !== requestType) {
    throw new AppError(
      "request_denied",
      `The token is for request type "${caller.requestType}", not "${requestType}".`,
    );
  }
  const asked = parseDataRequest(request.body, requestType);
  requireSameJobAndUser(asked, caller);
  const id = requestIdOf(request.headers["idempotency-key"]);
  const plan = await currentPlan(caller.job, context.orchestrator, request.callerGone);
  const fingerprint = fingerprintOf("request", caller.job, asked);
  if (id.isRepeatable) {
    await noteRequest({ userName: caller.sub, requestId: id.requestId, fingerprint }, plan, context.orchestrator);
  }
  return answer({ plan, request: asked, fingerprint, ...id }, () => Promise.resolve({}), request, reply, context);
}

/** What the body says of job and user must not contradict the token, which decides; agents demand the same. */
function requireSameJobAndUser({ requestMetadata, user }: DataRequest, { job, sub }: VerifiedToken): void {
  const named = requestMetadata?.["jobId"] ?? requestMetadata?.["job_id"];
  if (typeof named === "string" && named !== "" && named !== job) {
    throw new AppError("token_invalid", "The token is for another job than requestMetadata.jobId names.");
  }
  if (user !== undefined && user.userName !== sub) {
    throw new AppError("token_invalid", "The token is for another user than the body names.");
  }
}

/** Answers with the gathered results; at once, or later where the caller prefers that (RFC 7240, section 4.1). */
async function answer(
  {
    fingerprint,
    ...asked
  }: Pick<DataRequestOrder, "plan" | "request" | "requestId" | "isRepeatable"> & { readonly fingerprint: string },
  membersOfAccepted: () => Promise<Readonly<Record<string, unknown>>>,
  request: FastifyRequest,
  reply: FastifyReply,
  context: HttpContext,
): Promise<FastifyReply> {
  const order = {
    ...asked,
    trace: request.traceContext,
    accessTokenFor: (plan: Plan) => context.tokens.forAgents(plan),
  };
  const log = { dataRequest: order.requestId, archetype: order.plan.archetype };
  void reply.header("x-dynamos-request", order.requestId);
  if (prefersAsync(request)) {
    const name = { userName: order.plan.user.userName, requestId: order.requestId, fingerprint };
    const produce = (signal: AbortSignal): AsyncIterable<string | Uint8Array> =>
      answerDataRequest({ ...order, signal }, context.orchestrator);
    if (!(await startAnswer(name, order.plan.jobName, produce, { request, reply }, context))) return reply;
    request.log.info(log, "data request accepted");
    return accepted(order, await membersOfAccepted(), reply);
  }
  request.log.info(log, "data request");
  const pieces = answerDataRequest({ ...order, signal: request.callerGone }, context.orchestrator);
  const first = await pieces.next();
  const encoding = chooseEncoding(request.headers["accept-encoding"]);
  const body = pieceStream(first, pieces, reply.raw, context.orchestrator.limits.requestDeadlineMs);
  return reply
    .headers(encodingHeaders(encoding))
    .header("content-type", "application/json; charset=utf-8")
    .send(encodedBody(body, encoding));
}

function accepted(
  { plan, requestId }: Pick<DataRequestOrder, "plan" | "requestId">,
  members: Readonly<Record<string, unknown>>,
  reply: FastifyReply,
): FastifyReply {
  const location = `/api/v1/requests/${requestId}`;
  return reply
    .code(202)
    .header("location", location)
    .header("preference-applied", "respond-async")
    .header("retry-after", "1")
    .send({ status: "running", requestId, location, jobId: plan.jobName, archetype: plan.archetype, ...members });
}

function questionOf(approval: RequestApproval, user: User, request: FastifyRequest): PlanQuestion {
  const { data_request: asked } = approval;
  const algorithms = algorithmNames(asked?.algorithm);
  return {
    requestType: approval.type,
    user,
    candidates: [...approval.dataProviders].sort(),
    ...(approval.dataSets === undefined ? {} : { dataSets: [...approval.dataSets].sort() }),
    options: mergedOptions(approval.options, asked),
    ...(algorithms.length === 0 ? {} : { algorithms }),
    trace: request.traceContext,
    signal: request.callerGone,
  };
}

function mergedOptions(options: RequestOptions | undefined, asked: DataRequest | undefined): RequestOptions {
  return { ...options, ...asked?.options };
}

async function approvalAnswer(plan: Plan, { orchestrator, tokens }: HttpContext): Promise<unknown> {
  return {
    type: "requestApproved",
    user: plan.user,
    auth: await tokens.issue(plan),
    authorizedProviders: await endpointsOf(plan, orchestrator),
    jobId: plan.jobName,
    archetype: plan.archetype,
    dataProviders: plan.providers,
    ...(plan.computeProvider === undefined ? {} : { computeProvider: plan.computeProvider }),
    dataSets: plan.dataSets,
    refused: plan.refused,
    offline: plan.offline,
  };
}

function prefersAsync(request: FastifyRequest): boolean {
  const header = request.headers["prefer"];
  const text = Array.isArray(header) ? header.join(",") : (header ?? "");
  return text.split(/[,;]/).some((preference) => preference.trim().toLowerCase() === "respond-async");
}
