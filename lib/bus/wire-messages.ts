/** What the port's words are on the wire (`proto/dynamos/v1/messaging.proto`), in both directions; for sidecar and adapter. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import { AppError } from "../errors.ts";
import {
  DeadLetterReason,
  QueueKind,
  Settlement as WireSettlement,
  type BusMessage,
  type BusMessageSchema,
  type DeadLettersResponse,
  type DeadLettersResponseSchema,
  type DeclareQueueRequest,
  type DeclareQueueRequestSchema,
} from "../rpc/gen/dynamos/v1/messaging_pb.ts";
import type { DeadLetter, Delivery, OutgoingMessage, QueueOptions, Settlement } from "./message-bus.ts";

const KINDS = { service: QueueKind.SERVICE, run: QueueKind.RUN } as const;
const SETTLEMENTS = {
  accept: WireSettlement.ACCEPT,
  retry: WireSettlement.RETRY,
  reject: WireSettlement.REJECT,
} as const;
const REASONS = {
  rejected: DeadLetterReason.REJECTED,
  max_deliveries: DeadLetterReason.MAX_DELIVERIES,
  expired: DeadLetterReason.EXPIRED,
} as const;

/** A message in its wire form; the body is not copied. */
export function toWireMessage(message: OutgoingMessage | Delivery): MessageInitShape<typeof BusMessageSchema> {
  const { type, body, correlationId, replyTo, messageId, headers, expiresAtMs } = message;
  return {
    type,
    body,
    ...(correlationId === undefined ? {} : { correlationId }),
    ...(replyTo === undefined ? {} : { replyTo }),
    ...(messageId === undefined ? {} : { messageId }),
    ...(headers === undefined ? {} : { headers }),
    ...(expiresAtMs === undefined ? {} : { expiresAtMs: BigInt(Math.floor(expiresAtMs)) }),
    ...("redeliveryCount" in message ? { redeliveryCount: message.redeliveryCount } : {}),
  };
}

/** The message to send that a wire form stands for; its body is a view into what arrived. */
export function fromWireMessage(message: BusMessage | undefined): OutgoingMessage {
  if (message === undefined) throw malformed("a message");
  const { type, body, correlationId, replyTo, messageId, headers, expiresAtMs } = message;
  return {
    type,
    body,
    ...(correlationId === undefined ? {} : { correlationId }),
    ...(replyTo === undefined ? {} : { replyTo }),
    ...(messageId === undefined ? {} : { messageId }),
    ...(Object.keys(headers).length === 0 ? {} : { headers }),
    ...(expiresAtMs === undefined ? {} : { expiresAtMs: Number(expiresAtMs) }),
  };
}

/** The delivery that a wire form stands for. */
export function fromWireDelivery(message: BusMessage | undefined): Delivery {
  const { headers = {}, messageId = "", ...outgoing } = fromWireMessage(message);
  return { ...outgoing, headers, messageId, redeliveryCount: message?.redeliveryCount ?? 0 };
}

/** A declaration in its wire form. */
export function toWireDeclaration(
  queue: string,
  { kind, expiresMs, maxDeliveries }: QueueOptions,
): MessageInitShape<typeof DeclareQueueRequestSchema> {
  return {
    queue,
    kind: KINDS[kind],
    ...(expiresMs === undefined ? {} : { expiresMs }),
    ...(maxDeliveries === undefined ? {} : { maxDeliveries }),
  };
}

/** The declaration that a wire form stands for. */
export function fromWireDeclaration({ kind, expiresMs, maxDeliveries }: DeclareQueueRequest): QueueOptions {
  return {
    kind: keyOf(KINDS, kind, "a queue's kind"),
    ...(expiresMs === undefined ? {} : { expiresMs }),
    ...(maxDeliveries === undefined ? {} : { maxDeliveries }),
  };
}

/** A settlement's wire form. */
export function toWireSettlement(settlement: Settlement): WireSettlement {
  return SETTLEMENTS[settlement];
}

/** The settlement that a wire form stands for. */
export function fromWireSettlement(settlement: WireSettlement): Settlement {
  return keyOf(SETTLEMENTS, settlement, "a settlement");
}

/** A dead letter's wire form. */
export function toWireLetter(letter: DeadLetter): MessageInitShape<typeof DeadLettersResponseSchema> {
  const { id, queue, reason, atMs, message } = letter;
  return {
    id,
    queue,
    reason: REASONS[reason],
    ...(atMs === undefined ? {} : { atMs: BigInt(Math.floor(atMs)) }),
    message: toWireMessage(message),
  };
}

/** The dead letter that a wire form stands for. */
export function fromWireLetter(letter: DeadLettersResponse): DeadLetter {
  const { id, queue, reason, atMs, message } = letter;
  return {
    id,
    queue,
    reason: keyOf(REASONS, reason, "a dead letter's reason"),
    atMs: atMs === undefined ? undefined : Number(atMs),
    message: fromWireDelivery(message),
  };
}

function keyOf<Key extends string>(table: Readonly<Record<Key, number>>, value: number, what: string): Key {
  for (const key in table) if (table[key] === value) return key;
  throw malformed(what);
}

/** Client and sidecar are of one version; another program may not be. */
function malformed(what: string): AppError {
  return new AppError("bad_request", `The messaging sidecar's other side sent ${what} that has no meaning here.`);
}
