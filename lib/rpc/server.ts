/**
 * A gRPC server on localhost: typed handlers, the standard health service, and an end within a limit.
 *
 * Back-pressure: a request stream is read message by message as the handler pulls. HTTP/2 flow control carries it to the
 * caller.
 */
import { create, type DescMessage } from "@bufbuild/protobuf";
import { Server, ServerCredentials, type handleClientStreamingCall, type ServerReadableStream } from "@grpc/grpc-js";
import { systemClock, type Clock } from "../clock.ts";
import { AppError } from "../errors.ts";
import { parseTraceContext } from "../telemetry/trace-context.ts";
import { HealthService } from "./health.ts";
import { methodDefinition, type CallContext, type ClientStreamingHandler, type Implementation } from "./service.ts";
import { toGrpcStatus } from "./status.ts";

/** Largest message either side takes. Chunks are far smaller; a `Start` carries grants and the schema. */
export const MAX_RPC_MESSAGE_BYTES = 4 * 1024 * 1024;

/** Messages that a request stream holds ready before its handler asks for them. */
const READ_AHEAD = 1;

/** How a server is started. */
export interface RpcServerOptions {
  /** On 127.0.0.1; 0 takes a free one. */
  readonly port: number;
  readonly implementations: readonly Implementation[];
  readonly clock?: Clock;
}

/** A server that listens. */
export interface RpcServer {
  readonly port: number;
  /** Reports NOT_SERVING, takes no new calls, lets those under way end for up to `limitMs` (default 5,000), then cuts them off. */
  close(limitMs?: number): Promise<void>;
}

/** Starts a server; resolves once it serves. A port that is taken: `unavailable`. */
export async function startRpcServer(options: RpcServerOptions): Promise<RpcServer> {
  const clock = options.clock ?? systemClock;
  const server = new Server({
    "grpc.max_receive_message_length": MAX_RPC_MESSAGE_BYTES,
    "grpc.max_send_message_length": MAX_RPC_MESSAGE_BYTES,
  });
  const health = new HealthService(options.implementations.map(({ service }) => service.typeName));
  health.addTo(server);
  for (const { service, handlers } of options.implementations) {
    for (const method of service.methods) {
      const definition = methodDefinition(method);
      const handler = handlers[method.localName];
      if (handler === undefined) throw new AppError("internal", `${service.typeName}.${method.name} has no handler.`);
      server.register(
        definition.path,
        adapt(handler, method.output, clock),
        definition.responseSerialize,
        definition.requestDeserialize,
        "clientStream",
      );
    }
  }
  const port = await bind(server, options.port);
  return {
    port,
    close: async (limitMs = 5000) => {
      health.stop();
      await shutDown(server, limitMs);
    },
  };
}

function adapt<Input extends DescMessage, Output extends DescMessage>(
  handler: ClientStreamingHandler<Input, Output>,
  output: Output,
  clock: Clock,
): handleClientStreamingCall<never, never> {
  return (call, callback) => {
    readLittleAhead(call);
    const aborting = new AbortController();
    let isAnswered = false;
    // grpc-js says "cancelled" also after an answer, and then only closes the stream.
    call.on("cancelled", () => {
      if (isAnswered) return;
      const reason = cancellation(deadlineOf(call), clock);
      aborting.abort(reason);
      call.destroy(reason);
    });
    const context: CallContext = {
      signal: aborting.signal,
      deadlineMs: deadlineOf(call),
      trace: parseTraceContext(textMetadata(call)),
    };
    // Leaving the iteration, also at its end, must not destroy the stream: the answer is still to come.
    const requests = {
      [Symbol.asyncIterator]: () => call.iterator({ destroyOnReturn: false }) as AsyncIterator<never>,
    };
    handler(requests, context).then(
      (answer) => {
        isAnswered = true;
        callback(null, create(output, answer) as never);
      },
      (error: unknown) => {
        isAnswered = true;
        callback(toGrpcStatus(error));
      },
    );
  };
}

/**
 * Lowers a request stream's buffer from Node's 16 messages, which the caller could not feel, to {@link READ_AHEAD}. grpc-js
 * offers no setting for it; where the private field has gone, the stream only holds more.
 */
function readLittleAhead(call: ServerReadableStream<unknown, unknown>): void {
  const { _readableState: state } = call as unknown as { readonly _readableState?: { highWaterMark?: number } };
  if (state !== undefined) state.highWaterMark = READ_AHEAD;
}

function cancellation(deadlineMs: number | undefined, clock: Clock): AppError {
  // The timer of a deadline may fire a little early by the wall clock.
  if (deadlineMs !== undefined && deadlineMs - 50 <= clock.now()) {
    return new AppError("deadline_exceeded", "The call's deadline passed.");
  }
  return new AppError("cancelled", "The caller cancelled the call or went away.");
}

function deadlineOf(call: ServerReadableStream<unknown, unknown>): number | undefined {
  const deadline = call.getDeadline();
  const ms = deadline instanceof Date ? deadline.getTime() : deadline;
  return Number.isFinite(ms) ? ms : undefined;
}

function textMetadata(call: ServerReadableStream<unknown, unknown>): Record<string, string> {
  return Object.fromEntries(Object.entries(call.metadata.getMap()).map(([name, value]) => [name, value.toString()]));
}

function bind(server: Server, port: number): Promise<number> {
  return new Promise((resolve, reject) => {
    server.bindAsync(`127.0.0.1:${port}`, ServerCredentials.createInsecure(), (error, boundPort) => {
      if (error === null) resolve(boundPort);
      else reject(new AppError("unavailable", `Port ${port} on 127.0.0.1 cannot be listened on.`, { cause: error }));
    });
  });
}

async function shutDown(server: Server, limitMs: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const limit = new Promise<void>((resolve) => {
    timer = setTimeout(() => {
      server.forceShutdown();
      resolve();
    }, limitMs);
  });
  const ended = new Promise<void>((resolve, reject) => {
    server.tryShutdown((error) => (error ? reject(error) : resolve()));
  });
  try {
    await Promise.race([ended, limit]);
  } finally {
    clearTimeout(timer);
  }
}
