/** A request that arrives at one instance of the agent and is another one's: claimed here, passed on, or taken over. */
import type { FastifyReply, FastifyRequest } from "fastify";
import { AppError, toAppError } from "../../lib/errors.ts";
import { NOT_HERE_HEADER } from "../../lib/http/request-headers.ts";
import type { TraceContext } from "../../lib/telemetry/trace-context.ts";
import type { AgentContext } from "../context.ts";
import { forward, FORWARDED_HEADER, OWNER_HEADER, type ForwardedRequest } from "../replicas/forwarding.ts";
import type { ClaimedRequest, OwnClaim } from "../replicas/request-claims.ts";

/** Owners that cannot be reached one after the other; more is no chance. */
const MAX_OWNERS = 5;
const PASSED_HEADERS = ["authorization", "accept", "accept-encoding", "idempotency-key", "x-request-id"] as const;

/** The request is this instance's to answer; `settle` as {@link OwnClaim}'s. */
export type ClaimedHere = OwnClaim;

/** Another instance's answer is on its way to the caller. */
export interface PassedOn {
  readonly kind: "passedOn";
  readonly reply: FastifyReply;
}

type Call = Pick<FastifyRequest, "headers" | "url" | "body" | "callerGone" | "log">;

/**
 * Claims a request for this instance, or has the instance that runs it answer. One that cannot be reached before it said
 * anything loses the request to this one.
 *
 * @throws AppError `unavailable` where this instance is not registered, or the owner neither answers nor goes; `conflict` where
 * it was passed on to here, and is another's.
 */
export async function claimOrPassOn(
  context: AgentContext,
  request: Call,
  reply: FastifyReply,
  name: ClaimedRequest,
  trace: TraceContext,
): Promise<ClaimedHere | PassedOn> {
  const isForwarded = request.headers[FORWARDED_HEADER] !== undefined;
  if (isForwarded) requireOwner(context, request, reply);
  for (let owners = 0; owners < MAX_OWNERS; owners++) {
    const claim = await context.claims.take(name);
    if (claim.kind === "own") return claim;
    const { owner } = claim;
    if (isForwarded) throw notHere(reply, `This request is with instance ${owner.instance} of the agent by now.`);
    const passing = context.live.enterForeign(request.callerGone);
    const answer = await forward(context, owner, toForward(request, trace), passing.signal).catch((error: unknown) => {
      passing.close();
      throw error;
    });
    if (answer !== undefined) {
      context.metrics.requestsForwarded.add(1);
      request.log.info({ dataRequest: name.requestId, owner: owner.instance }, "passed on to another instance");
      reply.raw.once("close", () => passing.close());
      passing.signal.addEventListener("abort", () => answer.body.destroy(toAppError(passing.signal.reason)));
      return { kind: "passedOn", reply: reply.code(answer.status).headers(answer.headers).send(answer.body) };
    }
    passing.close();
    if (!(await context.claims.takeOver(name, claim))) continue;
    context.metrics.requestsTakenOver.add(1);
    request.log.warn({ dataRequest: name.requestId, owner: owner.instance }, "took over from another instance");
  }
  throw new AppError("unavailable", "The instances of the agent that this request was with could not be reached.", {
    details: { retryAfterSeconds: 1 },
  });
}

/** Has the other instances end a request that does not run here; whether one of them did. */
export async function cancelElsewhere(context: AgentContext, request: FastifyRequest): Promise<boolean> {
  if (request.headers[FORWARDED_HEADER] !== undefined) return false;
  const call: ForwardedRequest = { ...toForward(request, request.traceContext), method: "DELETE", body: undefined };
  for (const sibling of await context.siblings.living()) {
    const answer = await forward(context, sibling, call, request.callerGone);
    answer?.body.destroy();
    if (answer?.status === 204) return true;
  }
  return false;
}

/** The instance that a request was passed on to may be dead, and another one at its address. */
function requireOwner({ instance }: AgentContext, request: Call, reply: FastifyReply): void {
  if (request.headers[OWNER_HEADER] === instance) return;
  throw notHere(reply, `This is instance ${instance} of the agent, not the one that was meant.`);
}

function notHere(reply: FastifyReply, detail: string): AppError {
  void reply.header(NOT_HERE_HEADER, "moved");
  return new AppError("conflict", detail);
}

function toForward(request: Call, trace: TraceContext): ForwardedRequest {
  const headers = PASSED_HEADERS.flatMap((name) => {
    const value = request.headers[name];
    return typeof value === "string" ? [[name, value] as const] : [];
  });
  return { method: "POST", path: request.url, headers: Object.fromEntries(headers), body: request.body, trace };
}
