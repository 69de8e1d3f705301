/**
 * Handlers as grpc-js calls them, one function per kind of method.
 *
 * Back-pressure: a request stream is read message by message as the handler pulls, and a response stream is pulled as the
 * transport takes it. HTTP/2 flow control carries it to the other side.
 */
import { create, type DescMessage, type DescService } from "@bufbuild/protobuf";
import { Metadata } from "@grpc/grpc-js";
import type {
  handleBidiStreamingCall,
  handleClientStreamingCall,
  handleServerStreamingCall,
  handleUnaryCall,
  Server,
  ServerDuplexStream,
  ServerReadableStream,
  ServerUnaryCall,
  ServerWritableStream,
} from "@grpc/grpc-js";
import type { Clock } from "../clock.ts";
import { AppError } from "../errors.ts";
import { ACCEPT_COMPRESSION, DEFLATE_RAW } from "./chunk-compression.ts";
import { ACCEPT_FRAMES, separatedFrames } from "./frame-groups.ts";
import { FrameSchema } from "./gen/dynamos/v1/stream_pb.ts";
import { parseTraceContext } from "../telemetry/trace-context.ts";
import {
  methodDefinition,
  type BidiStreamingHandler,
  type CallContext,
  type ClientStreamingHandler,
  type Handler,
  type ServerStreamingHandler,
  type UnaryHandler,
} from "./service.ts";
import { toGrpcStatus } from "./status.ts";

/** Messages that a request stream holds ready before its handler asks for them. */
const READ_AHEAD = 1;

type AnyCall =
  | ServerUnaryCall<never, never>
  | ServerReadableStream<never, never>
  | ServerWritableStream<never, never>
  | ServerDuplexStream<never, never>;

/**
 * Registers one method with its handler, which is of the method's kind.
 *
 * @param acceptedFrames what a taker of frames says in `dynamos-accept-frames`.
 */
export function addMethod(
  server: Server,
  method: DescService["methods"][number],
  handler: Handler,
  clock: Clock,
  acceptedFrames: readonly string[],
): void {
  const definition = methodDefinition(method);
  const register = (
    func:
      | handleUnaryCall<never, never>
      | handleServerStreamingCall<never, never>
      | handleClientStreamingCall<never, never>
      | handleBidiStreamingCall<never, never>,
    type: "unary" | "serverStream" | "clientStream" | "bidi",
  ): void => {
    server.register(definition.path, func as never, definition.responseSerialize, definition.requestDeserialize, type);
  };
  switch (method.methodKind) {
    case "unary":
      return register(unary(handler as UnaryHandler<DescMessage, DescMessage>, method.output, clock), "unary");
    case "server_streaming":
      return register(
        serverStreaming(handler as ServerStreamingHandler<DescMessage, DescMessage>, method.output, clock),
        "serverStream",
      );
    case "client_streaming":
      return register(
        clientStreaming(handler as ClientStreamingHandler<DescMessage, DescMessage>, method, clock, acceptedFrames),
        "clientStream",
      );
    case "bidi_streaming":
      return register(
        bidiStreaming(handler as BidiStreamingHandler<DescMessage, DescMessage>, method.output, clock),
        "bidi",
      );
  }
}

function unary(
  handler: UnaryHandler<DescMessage, DescMessage>,
  output: DescMessage,
  clock: Clock,
): handleUnaryCall<never, never> {
  return (call, callback) => {
    const { context } = watch(call, clock);
    handler(call.request, context).then(
      (answer) => callback(null, create(output, answer) as never),
      (error: unknown) => callback(toGrpcStatus(error)),
    );
  };
}

function clientStreaming(
  handler: ClientStreamingHandler<DescMessage, DescMessage>,
  { input, output }: DescService["methods"][number],
  clock: Clock,
  acceptedFrames: readonly string[],
): handleClientStreamingCall<never, never> {
  return (call, callback) => {
    const takesFrames = input.typeName === FrameSchema.typeName;
    if (takesFrames) call.sendMetadata(acceptance(acceptedFrames));
    const { context, answered } = watch(call, clock, (reason) => call.destroy(reason));
    const requests = requestsOf(call);
    handler(takesFrames ? (separatedFrames(requests) as AsyncIterable<never>) : requests, context).then(
      (answer) => {
        answered();
        callback(null, create(output, answer) as never);
      },
      (error: unknown) => {
        answered();
        callback(toGrpcStatus(error));
      },
    );
  };
}

function serverStreaming(
  handler: ServerStreamingHandler<DescMessage, DescMessage>,
  output: DescMessage,
  clock: Clock,
): handleServerStreamingCall<never, never> {
  return (call) => {
    const { context, answered } = watch(call, clock);
    void send(call, handler(call.request, context), output, context.signal).finally(answered);
  };
}

function bidiStreaming(
  handler: BidiStreamingHandler<DescMessage, DescMessage>,
  output: DescMessage,
  clock: Clock,
): handleBidiStreamingCall<never, never> {
  return (call) => {
    const { context, answered } = watch(call, clock, (reason) => call.destroy(reason));
    void send(call, handler(requestsOf(call), context), output, context.signal).finally(answered);
  };
}

/**
 * Sends a stream of answers, then how it ended. A caller that has gone ends it: the handler, which knows the signal, ends its
 * stream, and is not waited for.
 */
async function send(
  call: ServerWritableStream<never, never> | ServerDuplexStream<never, never>,
  answers: AsyncIterable<unknown>,
  output: DescMessage,
  signal: AbortSignal,
): Promise<void> {
  const iterator = answers[Symbol.asyncIterator]();
  try {
    for (;;) {
      const next = await iterator.next();
      if (signal.aborted) break;
      if (next.done === true) {
        call.end();
        return;
      }
      if (!call.write(create(output, next.value as never) as never)) await drained(call, signal);
    }
    await iterator.return?.();
  } catch (error) {
    // After the caller has gone there is nobody to tell; the handler that cares has told its log.
    if (!signal.aborted) call.emit("error", toGrpcStatus(error));
  }
}

/** Resolves when the transport has taken what was written, or the caller has gone. */
function drained(call: NodeJS.EventEmitter, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      call.removeListener("drain", done);
      signal.removeEventListener("abort", done);
      resolve();
    };
    call.once("drain", done);
    signal.addEventListener("abort", done);
    if (signal.aborted) done();
  });
}

/** Said at once, so that it is known before the first chunk (`frame-sending.ts`). */
function acceptance(frames: readonly string[]): Metadata {
  const metadata = new Metadata();
  metadata.set(ACCEPT_COMPRESSION, DEFLATE_RAW);
  metadata.set(ACCEPT_FRAMES, frames.join(", "));
  return metadata;
}

/** A call's context; its signal is aborted, and `onGone` told why, when the caller goes away before the answer. */
function watch(
  call: AnyCall,
  clock: Clock,
  onGone?: (reason: AppError) => void,
): { readonly context: CallContext; readonly answered: () => void } {
  const aborting = new AbortController();
  let isAnswered = false;
  // grpc-js says "cancelled" also after an answer, and then only closes the stream.
  (call as NodeJS.EventEmitter).on("cancelled", () => {
    if (isAnswered) return;
    const reason = cancellation(deadlineOf(call), clock);
    aborting.abort(reason);
    onGone?.(reason);
  });
  const context: CallContext = {
    signal: aborting.signal,
    deadlineMs: deadlineOf(call),
    trace: parseTraceContext({ traceparent: textOf(call, "traceparent"), tracestate: textOf(call, "tracestate") }),
  };
  return { context, answered: () => (isAnswered = true) };
}

function requestsOf(call: ServerReadableStream<never, never> | ServerDuplexStream<never, never>): AsyncIterable<never> {
  readLittleAhead(call);
  return {
    // Leaving the iteration, also at its end, must not destroy the stream: the answer is still to come.
    [Symbol.asyncIterator]: () => call.iterator({ destroyOnReturn: false }) as AsyncIterator<never>,
  };
}

/**
 * Lowers a request stream's buffer from Node's 16 messages, which the caller could not feel, to {@link READ_AHEAD}. grpc-js
 * offers no setting for it; where the private field has gone, the stream only holds more.
 */
function readLittleAhead(call: unknown): void {
  const { _readableState: state } = call as { readonly _readableState?: { highWaterMark?: number } };
  if (state !== undefined) state.highWaterMark = READ_AHEAD;
}

function cancellation(deadlineMs: number | undefined, clock: Clock): AppError {
  // The timer of a deadline may fire a little early by the wall clock.
  if (deadlineMs !== undefined && deadlineMs - 50 <= clock.now()) {
    return new AppError("deadline_exceeded", "The call's deadline passed.");
  }
  return new AppError("cancelled", "The caller cancelled the call or went away.");
}

function deadlineOf(call: AnyCall): number | undefined {
  const deadline = call.getDeadline();
  const ms = deadline instanceof Date ? deadline.getTime() : deadline;
  return Number.isFinite(ms) ? ms : undefined;
}

function textOf(call: AnyCall, name: string): string | undefined {
  return call.metadata.get(name)[0]?.toString();
}
