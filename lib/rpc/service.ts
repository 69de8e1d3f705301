/**
 * A protobuf-es service description as a grpc-js service definition, and the types of its handlers.
 *
 * Handlers are functions from a message or an async iterable to a promise or an async iterable, as the method's kind says.
 */
import {
  fromBinary,
  isMessage,
  toBinary,
  type DescMessage,
  type DescMethod,
  type DescService,
  type MessageInitShape,
  type MessageShape,
} from "@bufbuild/protobuf";
import type { GenService } from "@bufbuild/protobuf/codegenv2";
import type { MethodDefinition } from "@grpc/grpc-js";
import { consumeResponseBytes, publishRequestBytes } from "./bus-message-bytes.ts";
import { frameBytes } from "./frame-bytes.ts";
import { ConsumeResponseSchema, PublishRequestSchema } from "./gen/dynamos/v1/messaging_pb.ts";
import { FrameSchema } from "./gen/dynamos/v1/stream_pb.ts";
import type { TraceContext } from "../telemetry/trace-context.ts";

/** The methods of a generated service, as protobuf-es describes them. */
export type ServiceMethods = Record<string, Pick<DescMethod, "input" | "output" | "methodKind">>;

/** What a handler knows of its call. */
export interface CallContext {
  /** Aborted, with an {@link AppError} as reason, when the caller cancels or goes away or the deadline passes. */
  readonly signal: AbortSignal;
  /** Absolute deadline of the call (ms since the epoch), when it has one. */
  readonly deadlineMs: number | undefined;
  /** The caller's span. */
  readonly trace: TraceContext | undefined;
}

/** Takes one request, and answers once. */
export type UnaryHandler<Input extends DescMessage, Output extends DescMessage> = (
  request: MessageShape<Input>,
  context: CallContext,
) => Promise<MessageInitShape<Output>>;

/** Takes one request, and answers with a stream, of which the next is asked for when the transport has taken the last ones. */
export type ServerStreamingHandler<Input extends DescMessage, Output extends DescMessage> = (
  request: MessageShape<Input>,
  context: CallContext,
) => AsyncIterable<MessageInitShape<Output>>;

/**
 * Takes a stream of requests, pulling each when it is ready for it, and answers once.
 *
 * A caller that cancels while its messages are still in the sockets may look, by Node's HTTP/2, like one whose stream ended:
 * streams need an end mark of their own, as frames have.
 */
export type ClientStreamingHandler<Input extends DescMessage, Output extends DescMessage> = (
  requests: AsyncIterable<MessageShape<Input>>,
  context: CallContext,
) => Promise<MessageInitShape<Output>>;

/** Takes a stream of requests, pulling each when it is ready for it, and answers with a stream. The call ends with the answers. */
export type BidiStreamingHandler<Input extends DescMessage, Output extends DescMessage> = (
  requests: AsyncIterable<MessageShape<Input>>,
  context: CallContext,
) => AsyncIterable<MessageInitShape<Output>>;

/** The handler of each kind of method. */
interface HandlerOfKind<Input extends DescMessage, Output extends DescMessage> {
  readonly unary: UnaryHandler<Input, Output>;
  readonly server_streaming: ServerStreamingHandler<Input, Output>;
  readonly client_streaming: ClientStreamingHandler<Input, Output>;
  readonly bidi_streaming: BidiStreamingHandler<Input, Output>;
}

/** Any handler, its message types forgotten. */
export type Handler = HandlerOfKind<DescMessage, DescMessage>[DescMethod["methodKind"]];

/** One handler per method of a service. */
export type ServiceHandlers<Methods extends ServiceMethods> = {
  readonly [Name in keyof Methods]: HandlerOfKind<
    Methods[Name]["input"],
    Methods[Name]["output"]
  >[Methods[Name]["methodKind"]];
};

/** A service with its handlers, their message types forgotten; made by {@link implement}. */
export interface Implementation {
  readonly service: DescService;
  readonly handlers: Readonly<Record<string, Handler>>;
}

/** Joins a service to handlers, typed by it. */
export function implement<Methods extends ServiceMethods>(
  service: GenService<Methods>,
  handlers: ServiceHandlers<Methods>,
): Implementation {
  return { service, handlers };
}

/** A method with its message types. */
export type Method<Input extends DescMessage, Output extends DescMessage> = DescService["methods"][number] & {
  readonly input: Input;
  readonly output: Output;
};

/** One method as grpc-js wants it: path, kind, and bytes both ways. */
export function methodDefinition<Input extends DescMessage, Output extends DescMessage>(
  method: Method<Input, Output>,
): MethodDefinition<MessageShape<Input>, MessageShape<Output>> {
  const kind = method.methodKind;
  return {
    path: `/${method.parent.typeName}/${method.name}`,
    requestStream: kind === "client_streaming" || kind === "bidi_streaming",
    responseStream: kind === "server_streaming" || kind === "bidi_streaming",
    requestSerialize: (message) => asBuffer(serialize<Input>(method.input, message)),
    requestDeserialize: (bytes) => fromBinary<Input>(method.input, bytes),
    responseSerialize: (message) => asBuffer(serialize<Output>(method.output, message)),
    responseDeserialize: (bytes) => fromBinary<Output>(method.output, bytes),
  };
}

function serialize<Desc extends DescMessage>(schema: Desc, message: MessageShape<Desc>): Uint8Array {
  if (isMessage(message, FrameSchema)) return frameBytes(message);
  if (isMessage(message, PublishRequestSchema)) return publishRequestBytes(message);
  if (isMessage(message, ConsumeResponseSchema)) return consumeResponseBytes(message);
  return toBinary<Desc>(schema, message);
}

/** A view, not a copy. */
function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
