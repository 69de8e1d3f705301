/**
 * The message bus on RabbitMQ (docs/decisions/0012). Its parts:
 *
 * - `rabbitmq-address.ts` reads the URL and its files; `rabbitmq-connection.ts` connects, and again;
 * - `rabbitmq-topology.ts` has exchanges and queues; `rabbitmq-messages.ts` turns messages into AMQP's and back;
 * - `rabbitmq-publisher.ts` publishes with confirms; `rabbitmq-consumer.ts` runs handlers;
 * - `rabbitmq-channels.ts` lends channels for short work; `rabbitmq-dead-letters.ts` looks at dead letters;
 * - `rabbitmq-errors.ts` says what failed.
 *
 * State owned here: two connections, one to publish and one for everything else, since a broker that is short of memory or
 * disk blocks those that publish; and which service queues this process declared, for a broker that comes back without them.
 */

import type { ChannelModel } from "amqplib";
import { systemClock, type Clock } from "../clock.ts";
import { createBusMetrics, type BusMetrics } from "./bus-metrics.ts";
import { noDeadLetter, replayed } from "./dead-letters.ts";
import { checkOutgoing, prefetchOf, queueProperties, type QueueProperties } from "./message-checks.ts";
import type {
  ConsumeOptions,
  Consumer,
  DeadLetter,
  DeliveryHandler,
  MessageBus,
  OutgoingMessage,
  QueueOptions,
  QueueStatus,
} from "./message-bus.ts";
import { parseRabbitMqUrl, type RabbitMqAddress } from "./rabbitmq-address.ts";
import { ChannelPool } from "./rabbitmq-channels.ts";
import { closedError, RabbitMqConnection } from "./rabbitmq-connection.ts";
import { RabbitMqConsumer } from "./rabbitmq-consumer.ts";
import { withDeadLetters, type HeldDeadLetter } from "./rabbitmq-dead-letters.ts";
import { RabbitMqPublisher } from "./rabbitmq-publisher.ts";
import { declareQueue, ensureExchanges, EXCHANGE, withChannel } from "./rabbitmq-topology.ts";
import { AppError } from "../errors.ts";
import { checkQueueName } from "./queues.ts";
import { refusal, unreachable } from "./rabbitmq-errors.ts";
import { within } from "./within.ts";

/** How the bus on RabbitMQ is opened. */
export interface RabbitMqBusOptions {
  /** See {@link parseRabbitMqUrl}. */
  readonly url: string;
  readonly clock?: Clock;
  /** How long a call waits for the broker, in milliseconds. Default 10,000. */
  readonly deadlineMs?: number;
  /** How long the broker may be away before consumers are lost, in milliseconds. Default 60,000. */
  readonly unavailableAfterMs?: number;
  /** From 0 to 1; default `Math.random`. */
  readonly random?: () => number;
}

const DEFAULT_DEADLINE_MS = 10_000;
const DEFAULT_UNAVAILABLE_AFTER_MS = 60_000;
const MAX_DEADLINE_FOR_DEAD_LETTERS_MS = 60_000;

/**
 * Opens the bus on RabbitMQ. `unavailable` when no host answers in time, `access_refused` for credentials, virtual host or
 * permissions that do not suffice, `configuration_invalid` for a wrong URL, unreadable files or certificates.
 */
export async function openRabbitMqBus(options: RabbitMqBusOptions): Promise<MessageBus> {
  const bus = new RabbitMqBus(parseRabbitMqUrl(options.url), options);
  await bus.connect();
  return bus;
}

class RabbitMqBus implements MessageBus {
  readonly #address: RabbitMqAddress;
  readonly #clock: Clock;
  readonly #deadlineMs: number;
  readonly #unavailableAfterMs: number;
  readonly #metrics: BusMetrics = createBusMetrics();
  readonly #publishing: RabbitMqConnection;
  readonly #consuming: RabbitMqConnection;
  readonly #publisher: RabbitMqPublisher;
  readonly #channels: ChannelPool;
  readonly #consumers = new Set<RabbitMqConsumer>();
  /** Service queues that this process declared. */
  readonly #declared = new Map<string, QueueProperties>();
  #closing: Promise<void> | undefined;
  #isClosed = false;

  constructor(address: RabbitMqAddress, options: RabbitMqBusOptions) {
    const { clock = systemClock, deadlineMs = DEFAULT_DEADLINE_MS, random = Math.random } = options;
    const metrics = this.#metrics;
    const common = { address, clock, metrics, random, setUp: (model: ChannelModel) => this.#setUp(model) };
    this.#address = address;
    this.#clock = clock;
    this.#deadlineMs = deadlineMs;
    this.#unavailableAfterMs = options.unavailableAfterMs ?? DEFAULT_UNAVAILABLE_AFTER_MS;
    this.#publishing = new RabbitMqConnection({
      ...common,
      name: "dynamos: publishes",
      onBlockedChange: (isBlocked) => this.#publisher.blockedChanged(isBlocked),
    });
    this.#consuming = new RabbitMqConnection({ ...common, name: "dynamos: consumes" });
    this.#publisher = new RabbitMqPublisher(this.#publishing, { address, clock, metrics, deadlineMs });
    this.#channels = new ChannelPool(this.#consuming, address, clock, deadlineMs);
  }

  /** Connects for the first time. */
  async connect(): Promise<void> {
    const untilMs = this.#clock.now() + this.#deadlineMs;
    try {
      await Promise.all([this.#publishing.start(untilMs), this.#consuming.start(untilMs)]);
    } catch (error) {
      await this.#disconnect();
      throw error;
    }
  }

  async declareQueue(queue: string, options: QueueOptions): Promise<void> {
    const properties = queueProperties(queue, options);
    await this.#channels.run((channel) => declareQueue(channel, queue, properties));
    if (properties.kind === "service") this.#declared.set(queue, properties);
  }

  async deleteQueue(queue: string): Promise<void> {
    checkQueueName(queue);
    this.#declared.delete(queue);
    await this.#channels.run((channel) => channel.deleteQueue(queue));
  }

  async publish(queue: string, message: OutgoingMessage): Promise<void> {
    checkOutgoing(queue, message);
    await this.#publisher.publish(queue, message);
  }

  async consume(queue: string, handler: DeliveryHandler, options: ConsumeOptions = {}): Promise<Consumer> {
    const prefetch = prefetchOf(options);
    checkQueueName(queue);
    if (this.#isClosed) throw closedError();
    // Everything else still works while closing: handlers that are under way publish what they came to.
    if (this.#closing !== undefined) throw new AppError("unavailable", "This message bus is being closed.");
    const context = {
      connection: this.#consuming,
      address: this.#address,
      clock: this.#clock,
      metrics: this.#metrics,
      unavailableAfterMs: this.#unavailableAfterMs,
      onEnd: (ended: RabbitMqConsumer) => void this.#consumers.delete(ended),
    };
    const consumer = new RabbitMqConsumer(context, queue, handler, options, prefetch);
    this.#consumers.add(consumer);
    await consumer.start(this.#clock.now() + this.#deadlineMs);
    return consumer;
  }

  async queueStatus(queue: string): Promise<QueueStatus | undefined> {
    checkQueueName(queue);
    try {
      const { messageCount, consumerCount } = await this.#channels.run((channel) => channel.checkQueue(queue));
      return { ready: messageCount, consumers: consumerCount };
    } catch (error) {
      if (error instanceof AppError && error.code === "not_found") return undefined;
      throw error;
    }
  }

  async deadLetters(limit: number): Promise<readonly DeadLetter[]> {
    return this.#withDeadLetters(limit, async (held) => held.map(({ letter }) => letter));
  }

  async replayDeadLetter(id: string): Promise<void> {
    await this.#withDeadLetters(Number.POSITIVE_INFINITY, async (held) => {
      const found = held.find(({ letter }) => letter.id === id);
      if (found === undefined) throw noDeadLetter(id);
      const { queue, message } = found.letter;
      await this.publish(queue, replayed(message, this.#clock.now()));
      found.forget();
    });
  }

  async ping(): Promise<void> {
    await this.#channels.run((channel) => channel.checkExchange(EXCHANGE));
  }

  close(): Promise<void> {
    this.#closing ??= this.#shutDown();
    return this.#closing;
  }

  /** Not in the pool, and not twice: a replay must not be repeated behind the caller's back. */
  async #withDeadLetters<T>(limit: number, work: (held: readonly HeldDeadLetter[]) => Promise<T>): Promise<T> {
    const clock = this.#clock;
    const model = await this.#consuming.use(this.#clock.now() + this.#deadlineMs);
    const looking = withDeadLetters(model, { limit, clock }, work);
    try {
      return await within(clock, MAX_DEADLINE_FOR_DEAD_LETTERS_MS, looking, () => new Error("it took too long"));
    } catch (error) {
      throw refusal(error, this.#address) ?? unreachable(error, this.#address);
    }
  }

  async #setUp(model: ChannelModel): Promise<void> {
    await ensureExchanges(model);
    for (const [queue, properties] of this.#declared) {
      await withChannel(model, (channel) => declareQueue(channel, queue, properties));
    }
  }

  async #shutDown(): Promise<void> {
    await Promise.all([...this.#consumers].map((consumer) => consumer.close()));
    await this.#publisher.close(this.#deadlineMs);
    await this.#disconnect();
  }

  async #disconnect(): Promise<void> {
    this.#isClosed = true;
    await Promise.all([this.#publishing.close(), this.#consuming.close()]);
  }
}
