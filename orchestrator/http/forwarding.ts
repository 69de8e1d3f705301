/** A request about an asynchronous answer, passed on to the replica that has it; see `answer-owners.ts`. */
import type { IncomingMessage } from "node:http";
import type { FastifyReply, FastifyRequest } from "fastify";
import { AppError, toAppError } from "../../lib/errors.ts";
import { callService, isUnreachable } from "../../lib/http/outgoing.ts";
import type { OrchestratorOnlineRecord } from "../../lib/messages.ts";
import { traceHeaders } from "../../lib/telemetry/trace-context.ts";
import type { Trust } from "../../lib/tls/trust.ts";
import type { OrchestratorContext } from "../context.ts";

/** Says who passed a request on; its receiver never does. */
const FORWARDED_HEADER = "x-dynamos-forwarded";
/** Of the caller. */
const SENT_HEADERS = [
  "authorization",
  "accept",
  "accept-encoding",
  "prefer",
  "idempotency-key",
  "x-request-id",
] as const;
/** Of the owner. */
const PASSED_HEADERS = [
  "content-encoding",
  "content-length",
  "content-type",
  "location",
  "preference-applied",
  "retry-after",
  "vary",
  "www-authenticate",
  "x-dynamos-request",
] as const;

/** Whether another replica passed this request on: then it is to be answered here. */
export function isForwarded({ headers }: FastifyRequest): boolean {
  return headers[FORWARDED_HEADER] !== undefined;
}

/**
 * Answers as the owner does, its body streamed through under back-pressure. False where the owner cannot be reached: nobody has
 * seen anything of an answer then. An owner that dies in the middle breaks the answer off.
 */
export async function forwardTo(
  owner: OrchestratorOnlineRecord,
  request: FastifyRequest,
  reply: FastifyReply,
  { replicas, metrics, trust }: OrchestratorContext,
): Promise<boolean> {
  const answer = await callOwner(owner, request, { instance: replicas.instance, trust });
  if (answer === undefined) return false;
  metrics.forwarded.add(1);
  // Not the reply itself, which is a promise of its own end.
  void reply
    .code(answer.statusCode ?? 502)
    .headers(chosen(answer.headers, PASSED_HEADERS))
    .send(answer);
  return true;
}

async function callOwner(
  owner: OrchestratorOnlineRecord,
  request: FastifyRequest,
  { instance, trust }: { readonly instance: string; readonly trust: Trust },
): Promise<IncomingMessage | undefined> {
  try {
    return await callService(new URL(request.url, owner.url), {
      method: request.method as "GET" | "POST" | "DELETE",
      headers: {
        ...chosen(request.headers, SENT_HEADERS),
        ...traceHeaders(request.traceContext),
        [FORWARDED_HEADER]: instance,
      },
      ...(request.method === "POST" ? { body: request.body } : {}),
      signal: request.callerGone,
      trust,
    });
  } catch (thrown) {
    if (request.callerGone.aborted) throw toAppError(request.callerGone.reason);
    if (isUnreachable(thrown)) return undefined;
    if (thrown instanceof AppError) throw thrown;
    throw new AppError("unavailable", "The replica that has this request could not be asked.", { cause: thrown });
  }
}

function chosen(headers: Readonly<Record<string, unknown>>, names: readonly string[]): Record<string, string> {
  return Object.fromEntries(
    names.flatMap((name) => {
      const value = headers[name];
      return typeof value === "string" ? [[name, value] as const] : [];
    }),
  );
}
