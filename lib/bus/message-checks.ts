/** What every adapter checks of its arguments before anything is sent, and the port's defaults. */

import { AppError } from "../errors.ts";
import {
  MAX_MESSAGE_BYTES,
  MAX_PREFETCH,
  type ConsumeOptions,
  type OutgoingMessage,
  type QueueOptions,
} from "./message-bus.ts";
import { checkQueueName } from "./queues.ts";

/** Queue options with the port's defaults filled in; undefined is what its kind of queue does not have. */
export interface QueueProperties {
  readonly kind: "service" | "run";
  readonly expiresMs: number | undefined;
  readonly maxDeliveries: number | undefined;
}

const DEFAULT_EXPIRES_MS = 600_000;
const DEFAULT_MAX_DELIVERIES = 5;
const DEFAULT_PREFETCH = 16;

/** The queue's properties, or `invalid_argument`. */
export function queueProperties(queue: string, options: QueueOptions): QueueProperties {
  checkQueueName(queue);
  if (options.kind === "service" && options.expiresMs !== undefined) {
    throw new AppError("invalid_argument", `Queue "${queue}": expiresMs is for run queues; a service queue lives on.`);
  }
  if (options.kind === "run" && options.maxDeliveries !== undefined) {
    throw new AppError(
      "invalid_argument",
      `Queue "${queue}": maxDeliveries is for service queues; a run queue does not count, its run's deadline is the limit.`,
    );
  }
  return options.kind === "run"
    ? {
        kind: "run",
        expiresMs: atLeastOne("expiresMs", options.expiresMs ?? DEFAULT_EXPIRES_MS),
        maxDeliveries: undefined,
      }
    : {
        kind: "service",
        expiresMs: undefined,
        maxDeliveries: atLeastOne("maxDeliveries", options.maxDeliveries ?? DEFAULT_MAX_DELIVERIES),
      };
}

/** The consumer's prefetch, or `invalid_argument`. */
export function prefetchOf(options: ConsumeOptions | undefined): number {
  return atLeastOne("prefetch", options?.prefetch ?? DEFAULT_PREFETCH, MAX_PREFETCH);
}

/** `message_too_large` for a body over the limit, `invalid_argument` for a name that AMQP could not carry. */
export function checkOutgoing(queue: string, message: OutgoingMessage): void {
  checkQueueName(queue);
  if (message.body.byteLength > MAX_MESSAGE_BYTES) {
    throw new AppError(
      "message_too_large",
      `A message of type "${message.type}" to "${queue}" has ${message.body.byteLength} bytes; the limit is ${MAX_MESSAGE_BYTES}. Send it in chunks.`,
      { details: { limit: MAX_MESSAGE_BYTES } },
    );
  }
  for (const name of ["type", "correlationId", "replyTo", "messageId"] as const) {
    const bytes = Buffer.byteLength(message[name] ?? "");
    if (bytes > 255)
      throw new AppError("invalid_argument", `A message's ${name} has at most 255 bytes; this one has ${bytes}.`);
  }
}

function atLeastOne(name: string, value: number, most = 0x7fff_ffff): number {
  if (Number.isSafeInteger(value) && value >= 1 && value <= most) return value;
  throw new AppError("invalid_argument", `${name} is a whole number from 1 to ${most}, not ${value}.`);
}
