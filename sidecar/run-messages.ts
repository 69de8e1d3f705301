/** The protobuf bodies of a run's messages on the bus, in and out. */
import {
  create,
  fromBinary,
  toBinary,
  type DescMessage,
  type MessageInitShape,
  type MessageShape,
} from "@bufbuild/protobuf";
import { MAX_MESSAGE_BYTES, type Delivery, type OutgoingMessage } from "../lib/bus/message-bus.ts";
import { MESSAGE_TYPES, type MessageType } from "../lib/bus/message-types.ts";
import { AppError } from "../lib/errors.ts";
import { frameBytes } from "../lib/rpc/frame-bytes.ts";
import type { Frame } from "../lib/rpc/gen/dynamos/v1/stream_pb.ts";
import { traceHeaders, type TraceContext } from "../lib/telemetry/trace-context.ts";

/**
 * Reads a body. Fails with `bad_request` for bytes that are not such a message, or are more than our own bus takes: other parties may
 * publish by other means, and what a body becomes in memory is many times as much.
 */
export function readBody<Desc extends DescMessage>(schema: Desc, delivery: Delivery): MessageShape<Desc> {
  if (delivery.body.byteLength > MAX_MESSAGE_BYTES) {
    const size = `${String(delivery.body.byteLength)} bytes; the limit is ${String(MAX_MESSAGE_BYTES)}`;
    throw new AppError("bad_request", `The body of a "${delivery.type}" message has ${size}.`);
  }
  try {
    return fromBinary(schema, delivery.body);
  } catch (cause) {
    throw new AppError("bad_request", `The body of a "${delivery.type}" message is no ${schema.typeName}.`, { cause });
  }
}

/** Makes a message with a frame in it; `target` as in {@link frameBytes}. */
export function outgoingFrame(
  frame: Frame,
  trace: TraceContext,
  target?: (bytes: number) => Uint8Array,
): OutgoingMessage {
  return { type: MESSAGE_TYPES.frame, body: frameBytes(frame, target), headers: traceHeaders(trace) };
}

/** Makes a message. */
export function outgoing<Desc extends DescMessage>(
  type: MessageType,
  schema: Desc,
  body: MessageInitShape<Desc>,
  trace?: TraceContext,
): OutgoingMessage {
  const message = { type, body: toBinary(schema, create(schema, body)) };
  return trace === undefined ? message : { ...message, headers: traceHeaders(trace) };
}
