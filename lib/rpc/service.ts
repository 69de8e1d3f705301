/**
 * A protobuf-es service description as a grpc-js service definition, and the types of its handlers.
 *
 * Only the method kinds that `proto/` uses are here: client streaming. Another kind is one more branch of
 * {@link ServiceHandlers} and of `server.ts`.
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
import { AppError } from "../errors.ts";
import { frameBytes } from "./frame-bytes.ts";
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

/** One handler per method of a service. */
export type ServiceHandlers<Methods extends ServiceMethods> = {
  readonly [Name in keyof Methods]: Methods[Name] extends {
    methodKind: "client_streaming";
    input: infer Input extends DescMessage;
    output: infer Output extends DescMessage;
  }
    ? ClientStreamingHandler<Input, Output>
    : never;
};

/** A service with its handlers, their message types forgotten; made by {@link implement}. */
export interface Implementation {
  readonly service: DescService;
  readonly handlers: Readonly<Record<string, ClientStreamingHandler<DescMessage, DescMessage>>>;
}

/** Joins a service to handlers, typed by it. */
export function implement<Methods extends ServiceMethods>(
  service: GenService<Methods>,
  handlers: ServiceHandlers<Methods>,
): Implementation {
  return { service, handlers: handlers as Implementation["handlers"] };
}

/** One client-streaming method as grpc-js wants it: path, kind, and bytes both ways. */
export function methodDefinition<Input extends DescMessage, Output extends DescMessage>(
  method: DescService["methods"][number] & { readonly input: Input; readonly output: Output },
): MethodDefinition<MessageShape<Input>, MessageShape<Output>> {
  if (method.methodKind !== "client_streaming") {
    throw new AppError(
      "internal",
      `${method.parent.typeName}.${method.name} is ${method.methodKind}; lib/rpc offers client streaming.`,
    );
  }
  return {
    path: `/${method.parent.typeName}/${method.name}`,
    requestStream: true,
    responseStream: false,
    requestSerialize: (message) => asBuffer(serialize<Input>(method.input, message)),
    requestDeserialize: (bytes) => fromBinary<Input>(method.input, bytes),
    responseSerialize: (message) => asBuffer(toBinary<Output>(method.output, message)),
    responseDeserialize: (bytes) => fromBinary<Output>(method.output, bytes),
  };
}

function serialize<Desc extends DescMessage>(schema: Desc, message: MessageShape<Desc>): Uint8Array {
  return isMessage(message, FrameSchema) ? frameBytes(message) : toBinary<Desc>(schema, message);
}

/** A view, not a copy. */
function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
