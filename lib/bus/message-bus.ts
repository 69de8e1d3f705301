/**
 * Port 2: the message bus. Named durable queues; publishing is confirmed; a message is settled only after its work.
 *
 * Its model is AMQP 0-9-1 as RabbitMQ runs it: every message goes through one topic exchange with the queue's name as
 * routing key, so publishing to a name that nobody declared is an error to the publisher, never silence.
 * `test/contract/message-bus.contract.ts` checks each sentence below for every adapter.
 */

/** Headers are strings: trace context (W3C), ids. */
export type MessageHeaders = Readonly<Record<string, string>>;

/** A message to send. */
export interface OutgoingMessage {
  /** One of the message types of `lib/bus/message-types.ts`. */
  readonly type: string;
  /**
   * At most {@link MAX_MESSAGE_BYTES}; more fails with `message_too_large` before anything is sent. Not to be changed
   * until the publish has resolved.
   */
  readonly body: Uint8Array;
  /** Ties an answer to its question. */
  readonly correlationId?: string;
  /** The queue that an answer goes to. */
  readonly replyTo?: string;
  /** Names the message for those who must not do its work twice. Default: a new UUID. */
  readonly messageId?: string;
  readonly headers?: MessageHeaders;
  /**
   * Absolute time (ms since the epoch) after which nobody waits for it: then, instead of being delivered, it becomes a
   * dead letter (`expired`). A delivery under way when it expires is not disturbed.
   */
  readonly expiresAtMs?: number;
}

/** A message as it arrives. */
export interface Delivery extends OutgoingMessage {
  readonly messageId: string;
  readonly headers: MessageHeaders;
  /**
   * How often it was delivered before, without being settled. 0 at first. In a run queue, which counts nothing, 1 stands
   * for once or more.
   */
  readonly redeliveryCount: number;
}

/** What becomes of a delivery. */
export type Settlement =
  /** Done; the queue forgets it. */
  | "accept"
  /**
   * Deliver again, to any consumer, from its old place in the queue; the adapter may first wait up to 1 s, during which
   * later messages may pass it. After `maxDeliveries` a service queue's message goes to the dead letters; a run queue's
   * comes again until it expires, or the queue does.
   */
  | "retry"
  /** Cannot be done by anybody: to the dead letters at once. */
  | "reject";

/** A declared queue's properties. Declaring again with the same properties changes nothing; with others: `conflict`. */
export interface QueueOptions {
  /**
   * `service`: lives on (quorum queue on RabbitMQ). `run`: belongs to one run or instance, and goes away after
   * `expiresMs` without consumer or renewed declaration, with all it holds (classic durable queue on RabbitMQ).
   */
  readonly kind: "service" | "run";
  /** For run queues only (`invalid_argument` otherwise); default 600,000. */
  readonly expiresMs?: number;
  /**
   * For service queues only (`invalid_argument` otherwise): deliveries, the first included, before a message becomes a
   * dead letter. Default 5.
   */
  readonly maxDeliveries?: number;
}

/** How a consumer takes messages. */
export interface ConsumeOptions {
  /** Unsettled deliveries at a time: the consumer's back-pressure. Default 16, at most {@link MAX_PREFETCH}. */
  readonly prefetch?: number;
  /**
   * Called once if the consumer ends without `close`: the queue is gone (`not_found`), or the bus has been out of reach
   * for a minute (`unavailable`), or refuses it now (`access_refused`, `conflict`). A shorter absence is healed in silence: the
   * consumer then goes on, and what it had not settled is delivered again.
   */
  readonly onLost?: (error: Error) => void;
  /** Called with what the handler threw, before the delivery is settled as `retry`: for the log. */
  readonly onHandlerError?: (error: unknown, delivery: Delivery) => void;
}

/**
 * Decides one delivery. A throw settles as `retry`. Handlers of one consumer run concurrently up to `prefetch`, started
 * in queue order. No message is with two handlers at once, as long as the bus hears from the first one's process; after
 * that the message is free again, and what the first handler decides has no effect.
 */
export type DeliveryHandler = (delivery: Delivery) => Promise<Settlement>;

/** A running consumer. */
export interface Consumer {
  /** No new deliveries; resolves when the handlers under way have settled. */
  close(): Promise<void>;
}

/** A queue's figures. */
export interface QueueStatus {
  /** Messages waiting (those about to be retried included), not counting those delivered and unsettled. */
  readonly ready: number;
  readonly consumers: number;
}

/** A dead letter: the message, whence it came, and why. */
export interface DeadLetter {
  /** Names it for {@link MessageBus.replayDeadLetter}. */
  readonly id: string;
  readonly queue: string;
  readonly reason: "rejected" | "max_deliveries" | "expired";
  /** When it became one (ms since the epoch, by the bus's clock, to the second at least); undefined where that is not known. */
  readonly atMs: number | undefined;
  readonly message: Delivery;
}

/** Most deliveries that a consumer may have unsettled: AMQP counts them in 16 bits. */
export const MAX_PREFETCH = 65_535;

/** Largest message body: 1 MiB. Rows travel in chunks far below it. */
export const MAX_MESSAGE_BYTES = 1024 * 1024;

/**
 * Every call fails with `unavailable` when the bus cannot be reached before its deadline (default 10 s), or was closed.
 * Queue names have 1 to 255 bytes, without `*` and `#` (`invalid_argument`): they are binding keys.
 */
export interface MessageBus {
  /** Makes sure that the queue exists and is bound under its name. */
  declareQueue(queue: string, options: QueueOptions): Promise<void>;
  /**
   * Deletes it with all it holds. Consumers are told by `onLost`; those of a service queue that is declared again at once may
   * go on with the new one instead. Deleting a missing queue is harmless.
   */
  deleteQueue(queue: string): Promise<void>;
  /**
   * Resolves once the message is durable in the queue. No such queue: `not_found`. Order per publisher and queue is kept,
   * also without waiting for one publish before the next. After `unavailable` the message may or may not be in the queue.
   */
  publish(queue: string, message: OutgoingMessage): Promise<void>;
  /** Starts consuming. No such queue: `not_found`. A consumer that dies leaves its deliveries to the others, counted. */
  consume(queue: string, handler: DeliveryHandler, options?: ConsumeOptions): Promise<Consumer>;
  /** Figures, perhaps a moment old, or undefined when there is no such queue. Asking may count as using a run queue, which then expires later. */
  queueStatus(queue: string): Promise<QueueStatus | undefined>;
  /** Dead letters, oldest first, at most `limit`; they stay. The bus bounds what it keeps: then the oldest go. */
  deadLetters(limit: number): Promise<readonly DeadLetter[]>;
  /**
   * Publishes a dead letter to the queue whence it came, with its `messageId` and, where that has not passed, its
   * `expiresAtMs`; then forgets it. Both or, when it is interrupted in between, the message twice: never lost. No such dead
   * letter, or no such queue any more: `not_found`, and it stays.
   */
  replayDeadLetter(id: string): Promise<void>;
  /** Cheap proof that the bus answers; fails with `unavailable`. */
  ping(): Promise<void>;
  /** Closes consumers (their handlers may end), awaits publishes under way, and disconnects. Closing again is harmless. */
  close(): Promise<void>;
}
