/** One call of an agent's data request over HTTP, as a stream. */
import { request as httpRequest, type ClientRequest, type IncomingMessage } from "node:http";
import { request as httpsRequest } from "node:https";
import { AppError, ERROR_KINDS, isErrorCode, toAppError, type ErrorCode } from "../lib/errors.ts";
import type { DataRequest } from "../lib/model/data-request.ts";
import { traceHeaders, type TraceContext } from "../lib/telemetry/trace-context.ts";
import type { OrchestratorContext } from "./context.ts";
import { baseUrlsOf, dataRequestPath } from "./endpoints.ts";

/** What is asked of an agent. */
export interface AgentQuestion {
  readonly party: string;
  readonly request: DataRequest;
  readonly requestId: string;
  readonly accessToken: string;
  readonly trace: TraceContext;
  /** Ends the call. */
  readonly signal: AbortSignal;
}

/** Problem documents of agents are small; more is not read. */
const MAX_PROBLEM_BYTES = 256 * 1024;
const CONNECTION_ERRORS = new Set([
  "ECONNREFUSED",
  "ECONNRESET",
  "EHOSTUNREACH",
  "ENETUNREACH",
  "ENOTFOUND",
  "EPIPE",
  "ETIMEDOUT",
  "UND_ERR_CONNECT_TIMEOUT",
]);
/** A machine that has gone says nothing; the system itself would wait for minutes. */
const CONNECT_TIMEOUT_MS = 3_000;

/**
 * The agent's answer once its status is known to be good, its body unread. Another instance of the agent is asked where one
 * cannot be reached. Fails with the agent's own problem, with `agent_offline`, or with the signal's reason.
 */
export async function askAgent(question: AgentQuestion, context: OrchestratorContext): Promise<IncomingMessage> {
  const { party, request } = question;
  const baseUrls = await baseUrlsOf(party, context);
  let unreachable: unknown;
  for (const baseUrl of baseUrls) {
    try {
      const response = await post(new URL(dataRequestPath(request.type, party), `${baseUrl}/`), question);
      if (response.statusCode === 200) return response;
      throw await problemOf(response, party);
    } catch (thrown) {
      if (question.signal.aborted) throw toAppError(question.signal.reason);
      if (!isUnreachable(thrown)) throw toAppError(thrown).withParty(party);
      unreachable = thrown;
    }
  }
  throw new AppError("agent_offline", `The agent of ${party} cannot be reached.`, { party, cause: unreachable });
}

function post(url: URL, { request, requestId, accessToken, trace, signal }: AgentQuestion): Promise<IncomingMessage> {
  const body = Buffer.from(JSON.stringify(request));
  const send = url.protocol === "https:" ? httpsRequest : httpRequest;
  return new Promise((resolve, reject) => {
    const call = send(
      url,
      {
        method: "POST",
        signal,
        headers: {
          "content-type": "application/json",
          "content-length": body.length,
          accept: "application/json",
          authorization: `Bearer ${accessToken}`,
          "idempotency-key": requestId,
          ...traceHeaders(trace),
        },
      },
      resolve,
    );
    call.on("error", reject);
    limitConnecting(call, url.protocol === "https:" ? "secureConnect" : "connect");
    call.end(body);
  });
}

function limitConnecting(call: ClientRequest, connected: "connect" | "secureConnect"): void {
  call.once("socket", (socket) => {
    if (call.reusedSocket) return;
    const timer = setTimeout(() => {
      const error = new Error(`No connection within ${String(CONNECT_TIMEOUT_MS)} ms.`);
      call.destroy(Object.assign(error, { code: "ETIMEDOUT" }));
    }, CONNECT_TIMEOUT_MS);
    const stop = (): void => clearTimeout(timer);
    socket.once(connected, stop);
    call.once("close", stop);
  });
}

/** The error that a problem document stands for (RFC 9457); what is none is `job_failed`, with the status. */
async function problemOf(response: IncomingMessage, party: string): Promise<AppError> {
  const text = (await readAtMost(response, MAX_PROBLEM_BYTES))?.toString("utf8") ?? "";
  const problem = parseProblem(text);
  if (problem === undefined) {
    return new AppError("job_failed", `The agent of ${party} answered with status ${String(response.statusCode)}.`, {
      party,
    });
  }
  return errorOfProblem(problem).withParty(party);
}

/** An agent's problem document as the error that it was. */
export function errorOfProblem(problem: Readonly<Record<string, unknown>>): AppError {
  const {
    code,
    detail,
    party,
    retryable,
    type: _type,
    title: _title,
    status: _status,
    requestId: _id,
    ...details
  } = problem;
  const known: ErrorCode = typeof code === "string" && isErrorCode(code) ? code : "internal";
  return new AppError(known, typeof detail === "string" ? detail : ERROR_KINDS[known].title, {
    details,
    ...(typeof party === "string" ? { party } : {}),
    ...(typeof retryable === "boolean" ? { retryable } : {}),
  });
}

/** A body of at most so many bytes; undefined (and the rest unread) when it is larger. */
export async function readAtMost(response: IncomingMessage, maxBytes: number): Promise<Buffer | undefined> {
  const pieces: Buffer[] = [];
  let bytes = 0;
  for await (const piece of response as AsyncIterable<Buffer>) {
    bytes += piece.length;
    if (bytes > maxBytes) {
      response.destroy();
      return undefined;
    }
    pieces.push(piece);
  }
  return Buffer.concat(pieces);
}

function parseProblem(text: string): Readonly<Record<string, unknown>> | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null && "code" in value ? { ...value } : undefined;
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
}

function isUnreachable(thrown: unknown): boolean {
  return thrown instanceof Error && CONNECTION_ERRORS.has(String((thrown as NodeJS.ErrnoException).code));
}
