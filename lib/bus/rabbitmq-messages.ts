/** Our messages as AMQP's, and back. */

import { createHash, randomUUID } from "node:crypto";
import type { Message, Options } from "amqplib";
import type { DeadLetter, Delivery, MessageHeaders, OutgoingMessage } from "./message-bus.ts";

/**
 * Headers of our own. They are numbers: among our messages' headers, which are strings, they are told apart by that, and so
 * are most of the broker's.
 */
const EXPIRES_AT_HEADER = "x-dynamos-expires-at";
const PUBLISHED_AT_HEADER = "x-dynamos-published-at";
const SEQUENCE_HEADER = "x-dynamos-sequence";
/** The broker's headers that are strings, on dead letters. */
const BROKERS_HEADER = /^x-(first|last)-death-/;
/** RabbitMQ's longest time to live, in milliseconds. */
const MAX_EXPIRATION_MS = 2 ** 32 - 1;
/**
 * The broker hands a message without time on if somebody waits for it. Ours has expired: its consumer then sends it to the
 * dead letters.
 */
const EXPIRED = "0";

/** A message's properties: persistent, returned if it finds no queue, and under the sender's own name. */
export function publishOptions(
  message: OutgoingMessage,
  from: { readonly user: string; readonly now: number; readonly sequence: number },
): Options.Publish {
  const { type, correlationId, replyTo, expiresAtMs } = message;
  const leftMs = expiresAtMs === undefined ? undefined : Math.ceil(expiresAtMs - from.now);
  return {
    persistent: true,
    mandatory: true,
    type,
    messageId: message.messageId ?? randomUUID(),
    userId: from.user,
    timestamp: Math.floor(from.now / 1000),
    ...(correlationId === undefined ? {} : { correlationId }),
    ...(replyTo === undefined ? {} : { replyTo }),
    ...(leftMs === undefined ? {} : { expiration: String(Math.min(Math.max(leftMs, 0), MAX_EXPIRATION_MS)) }),
    headers: {
      ...message.headers,
      [PUBLISHED_AT_HEADER]: Math.floor(from.now),
      [SEQUENCE_HEADER]: from.sequence,
      ...(expiresAtMs === undefined ? {} : { [EXPIRES_AT_HEADER]: expiresAtMs }),
    },
  };
}

/** The body as amqplib takes it, without a copy. */
export function contentOf({ body }: OutgoingMessage): Buffer {
  return Buffer.from(body.buffer, body.byteOffset, body.byteLength);
}

/** Which of a publisher's messages was returned. */
export function sequenceOf(message: Message): number | undefined {
  return numberIn(message, SEQUENCE_HEADER);
}

/** Seconds since a message was published, by the clocks of both sides; undefined when the publisher did not say. */
export function ageSeconds(message: Message, now: number): number | undefined {
  const publishedAt = numberIn(message, PUBLISHED_AT_HEADER);
  return publishedAt === undefined ? undefined : Math.max(0, now - publishedAt) / 1000;
}

/** Whether a delivered message had expired when it was sent. */
export function isExpiredOnArrival(message: Message): boolean {
  return message.properties.expiration === EXPIRED;
}

/** Which kind of queue it came from, as far as its delivery tells: only quorum queues count. */
export function queueKindOf(message: Message): "service" | "run" {
  return numberIn(message, "x-delivery-count") === undefined ? "run" : "service";
}

/** A delivered message. */
export function deliveryOf(message: Message): Delivery {
  const redeliveryCount = numberIn(message, "x-delivery-count") ?? (message.fields.redelivered === true ? 1 : 0);
  return { ...envelopeOf(message), redeliveryCount };
}

/** A message of the dead letter queue. */
export function deadLetterOf(message: Message): DeadLetter {
  // The latest comes first.
  const [death] = (message.properties.headers?.["x-death"] ?? []) as readonly Death[];
  const envelope = { ...envelopeOf(message), redeliveryCount: 0 };
  const letter = {
    queue: death?.queue ?? String(message.fields.routingKey),
    reason: reasonOf(death),
    atMs: death?.time === undefined ? undefined : death.time.value * 1000,
    message: envelope,
  };
  return { id: identify(letter, message), ...letter };
}

interface Death {
  readonly queue: string;
  readonly reason: string;
  readonly time?: { readonly value: number };
  readonly "original-expiration"?: string;
}

function reasonOf(death: Death | undefined): DeadLetter["reason"] {
  if (death?.reason === "delivery_limit") return "max_deliveries";
  return death?.reason === "expired" || death?.["original-expiration"] === EXPIRED ? "expired" : "rejected";
}

/** The broker numbers no dead letters: the name is made of what tells them apart. */
function identify(letter: Omit<DeadLetter, "id">, message: Message): string {
  const parts = [letter.queue, letter.reason, letter.atMs, letter.message.messageId, sequenceOf(message)];
  return createHash("sha256").update(JSON.stringify(parts)).digest("hex").slice(0, 16);
}

function envelopeOf(message: Message): Omit<Delivery, "redeliveryCount"> {
  const { type, messageId, correlationId, replyTo } = message.properties as unknown as Record<
    string,
    string | undefined
  >;
  const expiresAtMs = numberIn(message, EXPIRES_AT_HEADER);
  return {
    type: type ?? "",
    body: message.content,
    messageId: messageId ?? randomUUID(),
    headers: headersOf(message),
    ...(correlationId === undefined ? {} : { correlationId }),
    ...(replyTo === undefined ? {} : { replyTo }),
    ...(expiresAtMs === undefined ? {} : { expiresAtMs }),
  };
}

function headersOf(message: Message): MessageHeaders {
  const given = Object.entries(message.properties.headers ?? {});
  return Object.fromEntries(
    given.filter((entry): entry is [string, string] => typeof entry[1] === "string" && !BROKERS_HEADER.test(entry[0])),
  );
}

function numberIn(message: Message, header: string): number | undefined {
  const value = (message.properties.headers as Record<string, unknown> | undefined)?.[header];
  return typeof value === "number" ? value : undefined;
}
