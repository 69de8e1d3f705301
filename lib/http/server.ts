/**
 * HTTP set up once for every deployable: problem documents (RFC 9457), health and readiness, request ids, trace context,
 * body limits. Routes are added by the deployables.
 */
import { randomUUID } from "node:crypto";
import { STATUS_CODES, type IncomingMessage } from "node:http";
import type { Server as TlsServer } from "node:https";
import type { Socket } from "node:net";
import type { Duplex } from "node:stream";
import {
  fastify,
  LogController,
  type ConnectionError,
  type FastifyError,
  type FastifyInstance,
  type FastifyReply,
  type FastifyRequest,
} from "fastify";
import { systemClock, type Clock } from "../clock.ts";
import { jsonFaultPlace } from "../config/json-fault.ts";
import { AppError, isErrorCode, toAppError, toProblem } from "../errors.ts";
import { packageVersion } from "../package-root.ts";
import type { Logger } from "../telemetry/logger.ts";
import type { RunningMetrics } from "../telemetry/metrics.ts";
import { LOWEST_TLS } from "../tls/parts.ts";
import type { ServerCertificate } from "../tls/server-certificate.ts";
import { newTraceContext, parseTraceContext, type TraceContext } from "../telemetry/trace-context.ts";
import { measureAnswers } from "./http-metrics.ts";
import type { Readiness } from "./readiness.ts";
import { NOT_HERE_HEADER } from "./request-headers.ts";

declare module "fastify" {
  interface FastifyRequest {
    /** The caller's trace, or a new one: what the handler's span hangs on. */
    traceContext: TraceContext;
    /** Aborted when the caller's socket closes before the answer has ended. */
    callerGone: AbortSignal;
  }
}

/** How the server is set up. */
export interface HttpServerOptions {
  readonly logger: Logger;
  /** Larger bodies are refused with `message_too_large`. Default 1 MiB. */
  readonly maxBodyBytes?: number;
  /** A request must have arrived whole in this time. Default 30 s. */
  readonly requestTimeoutMs?: number;
  /** What `/ready` says it is: `orchestrator`, `agent-VU`. */
  readonly service?: string;
  /** Answers `/ready`: 200 when all that are required are ok, else 503. */
  readonly readiness: Readiness;
  /** Whose time `/ready` tells. Default: the machine's. */
  readonly clock?: Clock;
  /** Answers `/metrics`; absent: there is nothing. */
  readonly metrics?: RunningMetrics | undefined;
  /** With it HTTPS is served, and nothing else; renewed certificates count for new connections. */
  readonly certificate?: ServerCertificate | undefined;
}

const REQUEST_TIMEOUT_MS = 30_000;
const HANDSHAKE_TIMEOUT_MS = 10_000;
const SILENT_GRACE_MS = 500;
/** Of one part of a path: user names and keys, percent-encoded, are shorter. */
const MAX_PARAMETER_LENGTH = 1024;
const PROBLEM_TYPE = "application/problem+json";

/** Routes of probes and scrapes, which come every few seconds: their answers are logged at the level `debug`. */
const OPERATOR_ROUTES = new Set(["/health", "/ready", "/metrics"]);

/**
 * A fastify server without routes but `/health` (the process lives), `/ready` (its dependencies answer) and `/metrics`. None of
 * them tells anything of users, jobs or data, and none needs a token.
 */
export function createHttpServer(options: HttpServerOptions): FastifyInstance {
  const maxBodyBytes = options.maxBodyBytes ?? 1024 * 1024;
  const requestTimeoutMs = options.requestTimeoutMs ?? REQUEST_TIMEOUT_MS;
  let isClosing = false;
  const { certificate } = options;
  // Node takes the longer of both time-outs for the whole request, and looks at them at this interval.
  const timeouts = { headersTimeout: requestTimeoutMs, connectionsCheckingInterval: Math.ceil(requestTimeoutMs / 6) };
  const server = fastify({
    loggerInstance: options.logger,
    // One line per answer, written below: without the URL, which may carry a user's name.
    logController: new LogController({ disableRequestLogging: true }),
    bodyLimit: maxBodyBytes,
    genReqId: (request) => requestIdFrom(request.headers["x-request-id"]),
    requestIdHeader: false,
    // A URL that cannot be decoded, or that is too long, has no route, and so none of the hooks below.
    frameworkErrors: (error, _request, reply) => void sendProblem(reply, new AppError("bad_request", error.message)),
    routerOptions: { maxParamLength: MAX_PARAMETER_LENGTH },
    requestTimeout: requestTimeoutMs,
    ...(certificate === undefined ? { http: timeouts } : { https: { ...timeouts, ...tlsOptions(certificate) } }),
    clientErrorHandler: (error, socket) => refuseConnection(socket, clientError(error, requestTimeoutMs)),
    forceCloseConnections: "idle",
    // Answered below, as a problem document.
    return503OnClosing: false,
    ajv: { customOptions: { removeAdditional: false, coerceTypes: false, allErrors: true } },
  }) as unknown as FastifyInstance;
  // Without fastify's own for text/plain: a handler would find a string where it looks for an object.
  server.removeAllContentTypeParsers();
  server.addContentTypeParser("application/json", { parseAs: "string" }, (_request, body, done) => {
    try {
      done(null, parseJsonBody(body as string));
    } catch (error) {
      done(error as Error);
    }
  });
  server.decorateRequest("traceContext");
  server.decorateRequest("callerGone");
  server.addHook("onRequest", async (request, reply) => {
    request.traceContext = parseTraceContext(request.headers) ?? newTraceContext();
    request.callerGone = abortWhenGone(reply);
    void reply.header("x-request-id", request.id);
    if (!isClosing) return;
    void reply.header("connection", "close").header(NOT_HERE_HEADER, "stopping");
    throw new AppError("unavailable", "This is stopping and takes nothing new. Try again.", {
      details: { retryAfterSeconds: 1 },
    });
  });
  server.addHook("preClose", async () => {
    isClosing = true;
  });
  server.addHook("onResponse", async (request, reply) => {
    // A kept-alive connection whose answer ends while the server closes would hold it open until its time-out.
    if (isClosing) setImmediate(() => server.server.closeIdleConnections());
    // The route's pattern, not the URL: a URL may carry a user's name.
    const route = request.routeOptions.url;
    request.log[route !== undefined && OPERATOR_ROUTES.has(route) ? "debug" : "info"](
      {
        method: request.method,
        route,
        status: reply.statusCode,
        ms: Math.round(reply.elapsedTime),
      },
      "answered",
    );
  });
  server.setErrorHandler((error: FastifyError, request, reply) => {
    const known = fromFastifyError(error, maxBodyBytes);
    if (known.status >= 500) request.log.error({ error: known }, "request failed");
    return sendProblem(reply, known);
  });
  server.setNotFoundHandler((request, reply) =>
    sendProblem(
      reply,
      new AppError("not_found", `There is nothing at ${request.method} ${pathOf(request)}.`, {
        details: { instance: pathOf(request) },
      }),
    ),
  );
  if (certificate !== undefined) {
    certificate.onRenewed(() => (server.server as TlsServer).setSecureContext(tlsOptions(certificate)));
  }
  endSilentConnections(server);
  measureAnswers(server);
  addOperatorRoutes(server, options);
  return server;
}

function tlsOptions({ pair: { cert, key } }: ServerCertificate): object {
  return { cert, key, minVersion: LOWEST_TLS, handshakeTimeout: HANDSHAKE_TIMEOUT_MS };
}

/**
 * Lets the closing server end connections on which nothing has been asked: Node counts them as busy, and waits for them until
 * their time-outs. What is on its way on them has a moment to come.
 */
function endSilentConnections(server: FastifyInstance): void {
  const silent = new Map<string, Socket>();
  // With TLS a request names another socket than its connection did.
  const nameOf = ({ remoteAddress, remotePort }: Socket): string => `${String(remoteAddress)} ${String(remotePort)}`;
  server.server.on("connection", (socket: Socket) => {
    const name = nameOf(socket);
    silent.set(name, socket);
    socket.once("close", () => silent.delete(name));
  });
  server.server.on("request", ({ socket }: IncomingMessage) => silent.delete(nameOf(socket)));
  server.addHook("preClose", async () => {
    const end = (): void => {
      for (const socket of silent.values()) socket.destroy();
    };
    setTimeout(end, SILENT_GRACE_MS).unref();
  });
}

function addOperatorRoutes(
  server: FastifyInstance,
  { service, readiness, metrics, clock = systemClock }: HttpServerOptions,
): void {
  server.get("/health", async () => ({ status: "ok" }));
  server.get("/ready", async (_request, reply) => {
    const dependencies = await readiness();
    const isReady = dependencies.every(({ ok, required }) => ok || !required);
    return reply.code(isReady ? 200 : 503).send({
      status: isReady ? "ready" : "not ready",
      ...(service === undefined ? {} : { service }),
      version: packageVersion,
      // By this clock tokens and deadlines are judged here; a `Date` header has whole seconds only.
      time: new Date(clock.now()).toISOString(),
      dependencies,
    });
  });
  if (metrics === undefined) return;
  server.get("/metrics", async (_request, reply) =>
    reply.header("content-type", metrics.contentType).send(await metrics.scrape()),
  );
}

/** Answers with the problem document of an error. */
export function sendProblem(reply: FastifyReply, error: unknown): FastifyReply {
  const known = toAppError(error);
  if (known.code === "unauthenticated" || known.code.startsWith("token_"))
    void reply.header("www-authenticate", "Bearer");
  const retryAfterSeconds = known.details["retryAfterSeconds"];
  if (typeof retryAfterSeconds === "number") void reply.header("retry-after", String(retryAfterSeconds));
  const problem = toProblem(error);
  return reply
    .code(problem.status)
    .header("content-type", PROBLEM_TYPE)
    .send(JSON.stringify({ ...problem, requestId: reply.request.id }));
}

/** Answers what is no HTTP request, or never became a whole one, and closes the connection. */
function refuseConnection(socket: Duplex, error: AppError): void {
  const problem = toProblem(error);
  const body = JSON.stringify(problem);
  const head = [
    `HTTP/1.1 ${String(problem.status)} ${STATUS_CODES[problem.status] ?? ""}`,
    `Content-Type: ${PROBLEM_TYPE}`,
    `Content-Length: ${String(Buffer.byteLength(body))}`,
    "Connection: close",
  ];
  // The other side may be gone already; then nobody is left to tell.
  if (socket.writable) socket.write(`${head.join("\r\n")}\r\n\r\n${body}`);
  socket.destroy();
}

function clientError(error: ConnectionError, requestTimeoutMs: number): AppError {
  const detail =
    error.code === "ERR_HTTP_REQUEST_TIMEOUT"
      ? `The request did not arrive whole within ${String(requestTimeoutMs)} ms.`
      : `This is no HTTP request that can be read (${error.code}).`;
  return new AppError("bad_request", detail, { cause: error });
}

function requestIdFrom(header: string | string[] | undefined): string {
  return typeof header === "string" && /^[\w.:-]{1,128}$/.test(header) ? header : randomUUID();
}

function pathOf(request: FastifyRequest): string {
  return request.url.split("?")[0] ?? "/";
}

function abortWhenGone(reply: FastifyReply): AbortSignal {
  const gone = new AbortController();
  reply.raw.once("close", () => {
    if (!reply.raw.writableFinished) gone.abort(new AppError("cancelled", "The caller closed the connection."));
  });
  return gone.signal;
}

/** Fastify's own errors, translated at the edge. */
function fromFastifyError(error: FastifyError, maxBodyBytes: number): AppError {
  if (error instanceof AppError) return error;
  if (error.validation) {
    const faults = error.validation.map((fault) => ({
      pointer: fault.instancePath,
      message: faultMessage(fault.message, fault.params),
    }));
    const first = faults[0];
    const where = `${error.validationContext ?? "body"}${first?.pointer ?? ""}`;
    return new AppError("bad_request", `${where}: ${first?.message ?? error.message}.`, {
      details: { faults },
      ...(first ? { place: { pointer: first.pointer } } : {}),
    });
  }
  switch (error.code) {
    case "FST_ERR_CTP_BODY_TOO_LARGE":
      return new AppError("message_too_large", `The body is larger than ${String(maxBodyBytes)} bytes.`, {
        details: { limit: maxBodyBytes },
      });
    case "FST_ERR_CTP_INVALID_MEDIA_TYPE":
      return new AppError("unsupported_media_type", "Send the body as application/json.");
    default:
  }
  if (typeof error.statusCode === "number" && error.statusCode >= 400 && error.statusCode < 500) {
    return new AppError("bad_request", error.message);
  }
  return isErrorCode(error.code) ? new AppError(error.code, error.message, { cause: error }) : toAppError(error);
}

/** A JSON body; a fault is named with its line and column. What would change prototypes is refused. */
function parseJsonBody(text: string): unknown {
  if (text === "") throw new AppError("bad_request", "The body is empty; JSON is expected.");
  try {
    return JSON.parse(text, (name, value: unknown) => {
      if (name === "__proto__")
        throw new AppError("bad_request", 'A member is called "__proto__", which is not accepted.');
      return value;
    });
  } catch (error) {
    if (error instanceof AppError) throw error;
    // Its reviver walks the value by recursion.
    if (error instanceof RangeError) throw new AppError("bad_request", "The body is nested too deeply.");
    const { line, column } = jsonFaultPlace(text);
    throw new AppError("bad_request", `The body is not valid JSON at line ${String(line)}, column ${String(column)}.`, {
      place: { line, column },
    });
  }
}

function faultMessage(message: string | undefined, params: Record<string, unknown>): string {
  const extra = params["additionalProperty"];
  if (typeof extra === "string") return `has an unknown member "${extra}"`;
  return message ?? "is invalid";
}
