/** Publishes with confirms, in order, over one channel that is opened anew when it breaks. */

import { IllegalOperationError, type ConfirmChannel, type Message } from "amqplib";
import type { Clock } from "../clock.ts";
import { AppError } from "../errors.ts";
import type { BusMetrics } from "./bus-metrics.ts";
import type { OutgoingMessage } from "./message-bus.ts";
import type { RabbitMqAddress } from "./rabbitmq-address.ts";
import { closedError, type RabbitMqConnection } from "./rabbitmq-connection.ts";
import { accessRefused, refusal, refusedTopic, unreachable } from "./rabbitmq-errors.ts";
import { contentOf, publishOptions, sequenceOf } from "./rabbitmq-messages.ts";
import { endChannel, EXCHANGE } from "./rabbitmq-topology.ts";

interface Pending {
  readonly sequence: number;
  readonly queue: string;
  readonly message: OutgoingMessage;
  readonly startedMs: number;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
  /** Whoever waited has been told. */
  isSettled: boolean;
  /** The broker found no queue for it; its confirm is still to come. */
  isReturned: boolean;
}

/** What is under way at the broker at a time; the rest waits here, in order, and is still certain not to be there. */
const MAX_UNCONFIRMED_BYTES = 8 * 1024 * 1024;
const MAX_UNCONFIRMED = 512;
/** How long a publish waits while the broker takes no messages at all. */
const MAX_BLOCKED_MS = 600_000;
const CHECK_MS = 200;
const REOPEN_PAUSE_MS = 50;
/** What amqplib says when the broker could not take a message. */
const NACKED = "message nacked";

/**
 * A message is waiting, then unconfirmed, then settled. Nothing is sent while the broker has blocked the connection. What
 * was unconfirmed when the connection broke is not sent again, since it may have arrived: its caller decides.
 */
export class RabbitMqPublisher {
  readonly #connection: RabbitMqConnection;
  readonly #address: RabbitMqAddress;
  readonly #clock: Clock;
  readonly #metrics: BusMetrics;
  readonly #deadlineMs: number;
  #waiting: Pending[] = [];
  /** In the order of sending. */
  readonly #unconfirmed = new Map<number, Pending>();
  #unconfirmedBytes = 0;
  #sequence = 0;
  #channel: ConfirmChannel | undefined;
  #isOpening = false;
  #isClosed = false;
  #unblockedAtMs = 0;
  #timer: NodeJS.Timeout | undefined;
  #onIdle: (() => void) | undefined;

  constructor(
    connection: RabbitMqConnection,
    options: {
      readonly address: RabbitMqAddress;
      readonly clock: Clock;
      readonly metrics: BusMetrics;
      /** How long a publish waits for its confirm, not counting the time that the broker blocks. */
      readonly deadlineMs: number;
    },
  ) {
    this.#connection = connection;
    this.#address = options.address;
    this.#clock = options.clock;
    this.#metrics = options.metrics;
    this.#deadlineMs = options.deadlineMs;
  }

  /** See the port. */
  publish(queue: string, message: OutgoingMessage): Promise<void> {
    if (this.#isClosed) return Promise.reject(closedError());
    return new Promise((resolve, reject) => {
      this.#sequence += 1;
      this.#waiting.push({
        sequence: this.#sequence,
        queue,
        message,
        startedMs: this.#clock.now(),
        resolve,
        reject,
        isSettled: false,
        isReturned: false,
      });
      this.#timer ??= setInterval(() => this.#checkDeadlines(), CHECK_MS);
      this.#pump();
    });
  }

  /** The broker blocked the connection, or takes messages again. */
  blockedChanged(isBlocked: boolean): void {
    if (isBlocked) return;
    this.#unblockedAtMs = this.#clock.now();
    this.#pump();
  }

  /** Waits for what is under way, each within its deadline and all within `ms`; then refuses everything. */
  async close(ms: number): Promise<void> {
    const stop = new AbortController();
    const idle = new Promise<void>((resolve) => (this.#onIdle = resolve));
    this.#noteIdle();
    await Promise.race([idle, this.#clock.sleep(ms, stop.signal)]);
    stop.abort();
    this.#isClosed = true;
    for (const pending of [...this.#unconfirmed.values(), ...this.#waiting]) this.#settle(pending, closedError());
    this.#waiting = [];
    clearInterval(this.#timer);
    if (this.#channel !== undefined) void endChannel(this.#channel);
  }

  /** Sends what may be sent. */
  #pump(): void {
    while (this.#waiting.length > 0 && !this.#connection.isBlocked && this.#hasRoom()) {
      const channel = this.#channel;
      if (channel === undefined) return this.#openSoon();
      const pending = this.#waiting.shift()!;
      if (!pending.isSettled) this.#send(channel, pending);
    }
  }

  #hasRoom(): boolean {
    return this.#unconfirmed.size < MAX_UNCONFIRMED && this.#unconfirmedBytes < MAX_UNCONFIRMED_BYTES;
  }

  #send(channel: ConfirmChannel, pending: Pending): void {
    const { sequence, queue, message } = pending;
    const { user } = this.#address;
    try {
      const options = publishOptions(message, { user, now: this.#clock.now(), sequence });
      channel.publish(EXCHANGE, queue, contentOf(message), options, (error: Error | null) =>
        this.#confirmed(channel, pending, error),
      );
    } catch (cause) {
      if (cause instanceof IllegalOperationError) {
        // The channel has ended, and will say so in a moment; this message is not sent yet.
        this.#leave(channel);
        this.#waiting.unshift(pending);
        return;
      }
      // amqplib refuses before it writes anything: a header or property that AMQP cannot carry.
      return this.#settle(
        pending,
        new AppError("invalid_argument", `A message of type "${message.type}" cannot be sent: ${String(cause)}.`, {
          cause,
        }),
      );
    }
    this.#unconfirmed.set(sequence, pending);
    this.#unconfirmedBytes += message.body.byteLength;
  }

  #confirmed(channel: ConfirmChannel, pending: Pending, error: Error | null): void {
    // amqplib fails what is unconfirmed on a channel that has ended before it tells the channel's own listeners.
    if (error !== null && error.message !== NACKED) this.#leave(channel);
    if (!this.#forget(pending)) return;
    if (error !== null) this.#settle(pending, this.#unknownOutcome(pending, error));
    else if (pending.isReturned) this.#settle(pending, noQueue(pending.queue));
    else this.#settle(pending);
    this.#pump();
  }

  #openSoon(): void {
    if (this.#isOpening) return;
    this.#isOpening = true;
    const done = (): void => {
      this.#isOpening = false;
      this.#pump();
    };
    this.#open().then(done, (error: unknown) => void this.#couldNotOpen(error).then(done));
  }

  /** The connection broke meanwhile, and is waited for again; or it was closed, or refuses. */
  async #couldNotOpen(error: unknown): Promise<void> {
    const refused = refusal(error, this.#address);
    if (refused === undefined) await this.#clock.sleep(REOPEN_PAUSE_MS);
    else for (const pending of this.#waiting.splice(0)) this.#settle(pending, refused);
  }

  async #open(): Promise<void> {
    const model = await this.#connection.use();
    const channel = await model.createConfirmChannel();
    channel.on("return", (message: Message) => this.#returned(message));
    channel.on("error", (error: Error) => this.#refused(channel, error));
    channel.on("close", () => this.#leave(channel));
    this.#channel = channel;
  }

  #leave(channel: ConfirmChannel): void {
    if (this.#channel === channel) this.#channel = undefined;
  }

  #returned(message: Message): void {
    const pending = this.#unconfirmed.get(sequenceOf(message) ?? 0);
    if (pending === undefined) return;
    this.#metrics.unroutable();
    pending.isReturned = true;
  }

  /**
   * The broker closes the channel over one message that it refuses, and looks at none after it: those are sent again, on
   * another channel. What came before it may have arrived; it fails when amqplib closes the channel.
   */
  #refused(channel: ConfirmChannel, error: Error): void {
    this.#leave(channel);
    const sent = [...this.#unconfirmed.values()];
    const topic = refusedTopic(error);
    const culprit = sent.findIndex((pending) => topic === undefined || pending.queue === topic);
    if (culprit < 0) return;
    for (const pending of sent.slice(culprit)) this.#forget(pending);
    const reason = refusal(error, this.#address) ?? unreachable(error, this.#address);
    this.#settle(
      sent[culprit]!,
      reason.code === "access_refused" ? reason : accessRefused(reason.message, this.#address, error),
    );
    this.#waiting.unshift(...sent.slice(culprit + 1).filter((pending) => !pending.isSettled));
    this.#pump();
  }

  /** Removes it from the unconfirmed; false when it is not there any more. */
  #forget(pending: Pending): boolean {
    if (!this.#unconfirmed.delete(pending.sequence)) return false;
    this.#unconfirmedBytes -= pending.message.body.byteLength;
    return true;
  }

  #settle(pending: Pending, error?: AppError): void {
    if (!pending.isSettled) {
      pending.isSettled = true;
      if (error === undefined) pending.resolve();
      else pending.reject(error);
    }
    this.#noteIdle();
  }

  #noteIdle(): void {
    if (this.#unconfirmed.size > 0 || this.#waiting.some((pending) => !pending.isSettled)) return;
    clearInterval(this.#timer);
    this.#timer = undefined;
    this.#onIdle?.();
  }

  #checkDeadlines(): void {
    const now = this.#clock.now();
    const isBlocked = this.#connection.isBlocked;
    for (const pending of this.#waiting) {
      if (now >= this.#deadlineOf(pending, isBlocked)) this.#settle(pending, this.#notSent(pending, isBlocked));
    }
    this.#waiting = this.#waiting.filter((pending) => !pending.isSettled);
    for (const pending of this.#unconfirmed.values()) {
      // It keeps its place among the unconfirmed until the broker's word comes, or the connection ends.
      if (now >= this.#deadlineOf(pending, isBlocked))
        this.#settle(pending, this.#unknownOutcome(pending, new Error("no confirm came in time")));
    }
    this.#noteIdle();
  }

  #deadlineOf({ startedMs, message }: Pending, isBlocked: boolean): number {
    if (isBlocked) return Math.min(startedMs + MAX_BLOCKED_MS, message.expiresAtMs ?? Number.POSITIVE_INFINITY);
    return Math.max(startedMs, this.#unblockedAtMs) + this.#deadlineMs;
  }

  #notSent({ queue }: Pending, isBlocked: boolean): AppError {
    const why = isBlocked
      ? "it takes no messages (memory or disk alarm: see rabbitmqctl status)"
      : `it could not be sent within ${this.#deadlineMs} ms`;
    return new AppError(
      "unavailable",
      `A message to "${queue}" was not sent to RabbitMQ at ${this.#address.label}: ${why}.`,
    );
  }

  #unknownOutcome({ queue }: Pending, cause: Error): AppError {
    return new AppError(
      "unavailable",
      `RabbitMQ at ${this.#address.label} did not confirm a message to "${queue}" (${cause.message}): it may or may not be ` +
        `in the queue.`,
      { cause },
    );
  }
}

function noQueue(queue: string): AppError {
  return new AppError("not_found", `There is no queue "${queue}": declare it first.`);
}
