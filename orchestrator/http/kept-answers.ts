/**
 * Asynchronous requests: `GET` and `DELETE /api/v1/requests/<id>` at any replica, whichever runs the request or keeps its
 * answer (`answer-owners.ts`). What this process has, or its state folder, is looked at first.
 */
import type { Readable } from "node:stream";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { AppError, toAppError } from "../../lib/errors.ts";
import { chooseEncoding, encodedBody, encodingHeaders } from "../../lib/http/content-encoding.ts";
import { requestIdOf } from "../../lib/http/idempotency.ts";
import { findAnswer, forgetAnswer, takeAnswer } from "../answer-owners.ts";
import type { OrchestratorContext } from "../context.ts";
import { CancelledByCaller } from "../data-request-order.ts";
import { cancelAtParties } from "../data-requests.ts";
import type { RequestName } from "../request-records.ts";
import type { HttpContext } from "./context.ts";
import { forwardTo, isForwarded } from "./forwarding.ts";

type OneRequest = FastifyRequest<{ Params: { id: string } }>;

/** Adds the routes. */
export function addKeptAnswerRoutes(server: FastifyInstance, context: HttpContext): void {
  server.get("/api/v1/requests/:id", (request: OneRequest, reply) => keptAnswer(request, reply, context));
  server.delete("/api/v1/requests/:id", (request: OneRequest, reply) => removeAnswer(request, reply, context));
}

/**
 * Runs an asynchronous request here, unless it belongs to another replica that lives: then that one answers the same call.
 * Whether it runs here. Fails as `KeptAnswers.start` does.
 */
export async function startAnswer(
  name: RequestName,
  jobName: string,
  produce: (signal: AbortSignal) => AsyncIterable<string | Uint8Array>,
  { request, reply }: { readonly request: FastifyRequest; readonly reply: FastifyReply },
  { answers, orchestrator }: HttpContext,
): Promise<boolean> {
  if (await isAnsweredByOwner(name, jobName, request, reply, orchestrator)) return false;
  try {
    await answers.start(name, produce);
    return true;
  } catch (thrown) {
    // Another replica may have room.
    if (toAppError(thrown).code === "rate_limited") await forgetAnswer(name.userName, name.requestId, orchestrator);
    throw thrown;
  }
}

async function isAnsweredByOwner(
  name: RequestName,
  jobName: string,
  request: FastifyRequest,
  reply: FastifyReply,
  orchestrator: OrchestratorContext,
): Promise<boolean> {
  let unreachable: string | undefined;
  for (;;) {
    const place = await takeAnswer(name, jobName, orchestrator, unreachable);
    if (place.kind === "here") return false;
    if (isForwarded(request)) {
      throw new AppError("unavailable", "This request belongs to another replica by now. Try again.");
    }
    if (await forwardTo(place.replica, request, reply, orchestrator)) return true;
    unreachable = place.replica.instance;
  }
}

async function keptAnswer(request: OneRequest, reply: FastifyReply, context: HttpContext): Promise<FastifyReply> {
  const { sub } = await context.callers.ofToken(request);
  const { requestId } = requestIdOf(request.params.id);
  const found = await context.answers.find(sub, requestId);
  switch (found?.state) {
    case "running":
      return reply.code(202).header("retry-after", "1").send({ status: "running", requestId });
    case "failed":
      throw found.error;
    case "done":
      return sendKept(found, request, reply);
    case undefined:
      return answerFromElsewhere(sub, requestId, request, reply, context);
  }
}

function sendKept(
  { body, bytes }: { readonly body: Readable; readonly bytes: number },
  request: OneRequest,
  reply: FastifyReply,
): FastifyReply {
  const encoding = chooseEncoding(request.headers["accept-encoding"]);
  if (encoding === "identity") void reply.header("content-length", bytes);
  return reply
    .headers(encodingHeaders(encoding))
    .header("content-type", "application/json; charset=utf-8")
    .send(encodedBody(body, encoding));
}

async function answerFromElsewhere(
  userName: string,
  requestId: string,
  request: OneRequest,
  reply: FastifyReply,
  { orchestrator }: HttpContext,
): Promise<FastifyReply> {
  const place = await findAnswer(userName, requestId, orchestrator);
  const { id } = request.params;
  switch (place.kind) {
    case "here":
    case "unknown":
      throw unknownRequest(id);
    case "lost":
      throw lostAnswer(id);
    case "elsewhere":
      // Another process may be at the owner's address by now.
      if (isForwarded(request)) throw lostAnswer(id);
      if (!(await forwardTo(place.replica, request, reply, orchestrator))) throw lostAnswer(id);
      return reply;
  }
}

async function removeAnswer(request: OneRequest, reply: FastifyReply, context: HttpContext): Promise<FastifyReply> {
  const { orchestrator } = context;
  const { sub } = await context.callers.ofToken(request);
  const { requestId } = requestIdOf(request.params.id);
  const wasHere = await context.answers.remove(sub, requestId, new CancelledByCaller());
  const place = await findAnswer(sub, requestId, orchestrator);
  if (!wasHere) {
    if (place.kind === "here" || place.kind === "unknown") throw unknownRequest(request.params.id);
    if (place.kind === "elsewhere" && !isForwarded(request)) {
      if (await forwardTo(place.replica, request, reply, orchestrator)) return reply;
    }
    await cancelLost(place.jobName, requestId, orchestrator);
  }
  await forgetAnswer(sub, requestId, orchestrator);
  return reply.code(204).send();
}

/** The parties may be at work yet for a replica that died. */
async function cancelLost(jobName: string, requestId: string, orchestrator: OrchestratorContext): Promise<void> {
  try {
    cancelAtParties((await orchestrator.plans.get(jobName)).document, requestId, orchestrator);
  } catch (thrown) {
    if (toAppError(thrown).code !== "job_unknown") throw thrown;
  }
}

function unknownRequest(id: string): AppError {
  return new AppError(
    "not_found",
    `There is no asynchronous request "${id}" of yours, or its answer was kept no longer.`,
  );
}

function lostAnswer(id: string): AppError {
  return new AppError(
    "unavailable",
    `The replica that ran request "${id}" is gone, and its answer with it. Post the request again under the same Idempotency-Key (${id}).`,
    { party: "orchestrator" },
  );
}
