/** One outgoing HTTP call whose answer is a stream: for calls between services. */
import { request as httpRequest, type ClientRequest, type IncomingMessage } from "node:http";
import { Agent as HttpsAgent, request as httpsRequest } from "node:https";
import { tlsFault } from "../tls/tls-faults.ts";
import type { Trust } from "../tls/trust.ts";

/** What is called. */
export interface OutgoingCall {
  readonly method: "GET" | "POST" | "DELETE";
  readonly headers: Readonly<Record<string, string>>;
  /** JSON; absent: no body. */
  readonly body?: unknown;
  /** Ends the call, also while its answer is read. */
  readonly signal: AbortSignal;
  /** Whose certificates count, of `https` URLs. */
  readonly trust: Trust;
}

/** A machine that has gone says nothing; the system itself would wait for minutes. */
const CONNECT_TIMEOUT_MS = 3_000;
const CONNECTION_ERRORS = new Set([
  "ECONNREFUSED",
  "ECONNRESET",
  "EHOSTUNREACH",
  "ENETUNREACH",
  "ENOTFOUND",
  "EPIPE",
  "ETIMEDOUT",
]);

/**
 * Resolves with the answer's head, whatever its status, its body unread. Fails with Node's error (see {@link isUnreachable}), or
 * with `unavailable` that says what helps where the other side's certificate does not count here.
 */
export function callService(
  url: URL,
  { method, headers, body, signal, trust }: OutgoingCall,
): Promise<IncomingMessage> {
  const isSecure = url.protocol === "https:";
  const bytes = body === undefined ? undefined : Buffer.from(JSON.stringify(body));
  const content =
    bytes === undefined ? {} : { "content-type": "application/json", "content-length": String(bytes.length) };
  return new Promise((resolve, reject) => {
    const options = { method, signal, headers: { ...headers, ...content } };
    // A connection of its own: a kept one may be closed by the other side just as it is used.
    const call = isSecure
      ? httpsRequest(url, { ...options, agent: oneConnection(trust) }, resolve)
      : httpRequest(url, { ...options, agent: false }, resolve);
    call.on("error", (error) => reject(tlsFault(url, error) ?? error));
    limitConnecting(call, isSecure ? "secureConnect" : "connect");
    call.end(bytes);
  });
}

function oneConnection(trust: Trust): HttpsAgent {
  const secureContext = trust.secureContext();
  return new HttpsAgent(secureContext === undefined ? {} : { secureContext });
}

/** Whether an error of a call says that the other side is not there, or went away. */
export function isUnreachable(thrown: unknown): boolean {
  return thrown instanceof Error && CONNECTION_ERRORS.has(String((thrown as NodeJS.ErrnoException).code));
}

function limitConnecting(call: ClientRequest, connected: "connect" | "secureConnect"): void {
  call.once("socket", (socket) => {
    const timer = setTimeout(() => {
      const error = new Error(`No connection within ${String(CONNECT_TIMEOUT_MS)} ms.`);
      call.destroy(Object.assign(error, { code: "ETIMEDOUT" }));
    }, CONNECT_TIMEOUT_MS);
    const stop = (): void => clearTimeout(timer);
    socket.once(connected, stop);
    call.once("close", stop);
  });
}
