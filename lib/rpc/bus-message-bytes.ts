/**
 * The bytes of what carries a bus message, without the copies that protobuf-es makes of a nested message's content: the body is
 * copied once, into place (as `frame-bytes.ts` does for frames).
 */
import { create, toBinary, type DescMessage } from "@bufbuild/protobuf";
import { lengthDelimited } from "./frame-bytes.ts";
import {
  BusDeliverySchema,
  BusMessageSchema,
  ConsumeResponseSchema,
  PublishRequestSchema,
  type BusMessage,
  type ConsumeResponse,
  type PublishRequest,
} from "./gen/dynamos/v1/messaging_pb.ts";

/** The same message as `toBinary(PublishRequestSchema, request)`. */
export function publishRequestBytes(request: PublishRequest): Uint8Array {
  const { number, queue, message } = request;
  if (message === undefined) return toBinary(PublishRequestSchema, request);
  const head = toBinary(PublishRequestSchema, create(PublishRequestSchema, { number, queue }));
  return Buffer.concat([head, ...nested(PublishRequestSchema, "message", messageParts(message))]);
}

/** The same message as `toBinary(ConsumeResponseSchema, response)`. */
export function consumeResponseBytes(response: ConsumeResponse): Uint8Array {
  const { body } = response;
  if (body.case !== "delivery" || body.value.message === undefined) return toBinary(ConsumeResponseSchema, response);
  const { number, message } = body.value;
  const head = toBinary(BusDeliverySchema, create(BusDeliverySchema, { number }));
  const delivery = [head, ...nested(BusDeliverySchema, "message", messageParts(message))];
  return Buffer.concat(nested(ConsumeResponseSchema, "delivery", delivery));
}

function messageParts(message: BusMessage): Uint8Array[] {
  const { body } = message;
  const rest = toBinary(BusMessageSchema, { ...message, body: new Uint8Array() });
  return body.byteLength === 0 ? [rest] : [rest, ...nested(BusMessageSchema, "body", [body])];
}

function nested(schema: DescMessage, field: string, content: readonly Uint8Array[]): Uint8Array[] {
  const number = schema.field[field]?.number ?? 0;
  return [
    ...lengthDelimited(
      number,
      content.reduce((sum, part) => sum + part.byteLength, 0),
    ),
    ...content,
  ];
}
