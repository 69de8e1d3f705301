/** One consumer at RabbitMQ, on a channel of its own. */

import type { Channel, ConsumeMessage, Options } from "amqplib";
import type { Clock } from "../clock.ts";
import { AppError } from "../errors.ts";
import type { BusMetrics } from "./bus-metrics.ts";
import type { ConsumeOptions, Consumer, Delivery, DeliveryHandler, Settlement } from "./message-bus.ts";
import type { RabbitMqAddress } from "./rabbitmq-address.ts";
import type { RabbitMqConnection } from "./rabbitmq-connection.ts";
import { refusal, unreachable } from "./rabbitmq-errors.ts";
import { ageSeconds, deliveryOf, isExpiredOnArrival, queueKindOf } from "./rabbitmq-messages.ts";
import { endChannel, openChannel } from "./rabbitmq-topology.ts";
import { retryDelayMs } from "./retry-delay.ts";
import { within } from "./within.ts";

/** What a consumer works with. */
export interface ConsumerContext {
  readonly connection: RabbitMqConnection;
  readonly address: RabbitMqAddress;
  readonly clock: Clock;
  readonly metrics: BusMetrics;
  /** How long the broker may be away before the consumer gives up. */
  readonly unavailableAfterMs: number;
  /** Called once, when the consumer has ended, in whatever way. */
  readonly onEnd: (consumer: RabbitMqConsumer) => void;
}

/** A channel with its consumer; settling on a dead one is without effect, since the broker has taken its messages back. */
interface Line {
  readonly channel: Channel;
  readonly consumerTag: string;
  isOpen: boolean;
}

/**
 * Otherwise the broker lets a consumer of a deleted queue pass to another one that has its name by now. Quorum queues refuse
 * the argument; but these are service queues, which live on.
 */
const CANCEL_WITH_QUEUE = "x-cancel-on-ha-failover";
const RECOVER_PAUSE_MS = 100;
/** A broker that does not answer must not hold up closing. */
const CANCEL_TIMEOUT_MS = 5000;

/**
 * States: taking, with a line to the broker or (recovering) without; draining after `close`; ended. A line that breaks is
 * made anew until `unavailableAfterMs` have passed, or the broker refuses; then the consumer is lost.
 */
export class RabbitMqConsumer implements Consumer {
  readonly #context: ConsumerContext;
  readonly #queue: string;
  readonly #handler: DeliveryHandler;
  readonly #options: ConsumeOptions;
  readonly #prefetch: number;
  readonly #underWay = new Set<Promise<void>>();
  readonly #stop = new AbortController();
  #line: Line | undefined;
  #isQuorumQueue = false;
  #closed: Promise<void> | undefined;

  constructor(
    context: ConsumerContext,
    queue: string,
    handler: DeliveryHandler,
    options: ConsumeOptions,
    prefetch: number,
  ) {
    this.#context = context;
    this.#queue = queue;
    this.#handler = handler;
    this.#options = options;
    this.#prefetch = prefetch;
  }

  /** Begins; `not_found` without such a queue, `unavailable` when the broker does not answer by `untilMs`. */
  async start(untilMs: number): Promise<void> {
    const { clock, address } = this.#context;
    try {
      await within(clock, untilMs - clock.now(), this.#begin(untilMs), () =>
        unreachable(new Error("no answer in time"), address),
      );
    } catch (error) {
      this.#end();
      throw error;
    }
  }

  close(): Promise<void> {
    this.#closed ??= this.#drain();
    return this.#closed;
  }

  get #isTaking(): boolean {
    return !this.#stop.signal.aborted;
  }

  /** Makes a line, again while the connection breaks in between. */
  async #begin(untilMs: number): Promise<void> {
    const { connection, address, clock } = this.#context;
    while (this.#isTaking) {
      try {
        return await this.#openLine(await connection.use(untilMs));
      } catch (error) {
        const refused = refusal(error, address);
        if (refused?.message.includes(CANCEL_WITH_QUEUE) === true && !this.#isQuorumQueue) {
          this.#isQuorumQueue = true;
          continue;
        }
        if (refused !== undefined) throw refused;
        if (clock.now() + RECOVER_PAUSE_MS >= untilMs) throw unreachable(error, address);
        await this.#pause(RECOVER_PAUSE_MS);
      }
    }
  }

  async #openLine(model: Parameters<typeof openChannel>[0]): Promise<void> {
    const channel = await openChannel(model);
    let line: Line | undefined;
    let isOpen = true;
    channel.on("close", () => {
      isOpen = false;
      if (line !== undefined) this.#broke(line);
    });
    try {
      await channel.prefetch(this.#prefetch);
      // Deliveries may come with the answer itself.
      const early: (ConsumeMessage | null)[] = [];
      const take = (message: ConsumeMessage | null): void => {
        if (line === undefined) early.push(message);
        else this.#take(line, message);
      };
      const { consumerTag } = await channel.consume(this.#queue, take, this.#consumeOptions());
      line = { channel, consumerTag, isOpen };
      this.#line = line;
      for (const message of early) this.#take(line, message);
    } catch (error) {
      await endChannel(channel);
      throw error;
    }
    if (!this.#isTaking) await endChannel(channel);
    else if (!line.isOpen) this.#broke(line);
  }

  #consumeOptions(): Options.Consume {
    return this.#isQuorumQueue ? {} : { arguments: { [CANCEL_WITH_QUEUE]: true } };
  }

  #broke(line: Line): void {
    line.isOpen = false;
    if (this.#line !== line) return;
    this.#line = undefined;
    if (this.#isTaking) void this.#recover();
  }

  /** Ends with a line, or with the consumer. */
  async #recover(): Promise<void> {
    const { clock, unavailableAfterMs } = this.#context;
    try {
      await this.#pause(RECOVER_PAUSE_MS);
      await this.#begin(clock.now() + unavailableAfterMs);
    } catch (error) {
      this.#lose(error as Error);
    }
  }

  #take(line: Line, message: ConsumeMessage | null): void {
    if (message === null) {
      // The broker cancels a consumer whose queue is deleted.
      this.#lose(new AppError("not_found", `The queue "${this.#queue}" is gone: it was deleted.`));
      return;
    }
    if (!this.#isTaking) return this.#answer(line, message, "retry");
    if (isExpiredOnArrival(message)) {
      this.#context.metrics.deadLetter("expired");
      return this.#answer(line, message, "reject");
    }
    this.#measure(message);
    const work = this.#handle(line, message).finally(() => this.#underWay.delete(work));
    this.#underWay.add(work);
  }

  #measure(message: ConsumeMessage): void {
    const { metrics, clock } = this.#context;
    if (message.fields.redelivered) metrics.redelivered(queueKindOf(message));
    const age = ageSeconds(message, clock.now());
    if (age !== undefined) metrics.deliveryAge(age);
  }

  async #handle(line: Line, message: ConsumeMessage): Promise<void> {
    const delivery = deliveryOf(message);
    const settlement = await this.#decide(delivery);
    if (settlement === "retry") await this.#pause(retryDelayMs(delivery.redeliveryCount));
    if (settlement === "reject") this.#context.metrics.deadLetter("rejected");
    this.#answer(line, message, settlement);
  }

  async #decide(delivery: Delivery): Promise<Settlement> {
    try {
      return await this.#handler(delivery);
    } catch (error) {
      this.#options.onHandlerError?.(error, delivery);
      return "retry";
    }
  }

  #answer({ channel, isOpen }: Line, message: ConsumeMessage, settlement: Settlement): void {
    if (!isOpen) return;
    if (settlement === "accept") channel.ack(message);
    else channel.nack(message, false, settlement === "retry");
  }

  #lose(error: Error): void {
    if (!this.#isTaking) return;
    this.#end();
    const line = this.#line;
    // Handlers under way may still settle what they have; the channel goes when they are done.
    this.#closed ??= Promise.all(this.#underWay).then(() =>
      line === undefined ? undefined : endChannel(line.channel),
    );
    this.#options.onLost?.(error);
  }

  #end(): void {
    this.#stop.abort();
    this.#context.onEnd(this);
  }

  async #drain(): Promise<void> {
    this.#end();
    const line = this.#line;
    const isAnswered = line?.isOpen === true && (await this.#cancel(line));
    await Promise.all(this.#underWay);
    // The channel of a broker that does not answer goes with its connection.
    if (isAnswered && line.isOpen) await this.#patiently(endChannel(line.channel));
    this.#line = undefined;
  }

  async #cancel({ channel, consumerTag }: Line): Promise<boolean> {
    // A connection that breaks meanwhile has cancelled it as well.
    const cancelled = channel.cancel(consumerTag).then(
      () => undefined,
      () => undefined,
    );
    return this.#patiently(cancelled);
  }

  /** Whether it came to an end in time. */
  async #patiently(work: Promise<void>): Promise<boolean> {
    const stop = new AbortController();
    const tooLong = this.#context.clock.sleep(CANCEL_TIMEOUT_MS, stop.signal).then(() => false);
    const isDone = await Promise.race([work.then(() => true), tooLong]);
    stop.abort();
    return isDone;
  }

  /** Ends early with the consumer. */
  async #pause(ms: number): Promise<void> {
    const ended = (): void => undefined;
    await this.#context.clock.sleep(ms, this.#stop.signal).then(ended, ended);
  }
}
