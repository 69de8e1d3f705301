/** Channels for short work: declaring, deleting, asking. */

import type { Channel, ChannelModel } from "amqplib";
import type { Clock } from "../clock.ts";
import type { RabbitMqAddress } from "./rabbitmq-address.ts";
import type { RabbitMqConnection } from "./rabbitmq-connection.ts";
import { refusal, unreachable } from "./rabbitmq-errors.ts";
import { endChannel, openChannel } from "./rabbitmq-topology.ts";
import { within } from "./within.ts";

interface Idle {
  readonly model: ChannelModel;
  readonly channel: Channel;
}

/** Enough that calls at the same time seldom wait for a channel to be opened. */
const MAX_IDLE = 8;
const RETRY_MS = 50;

/** Lends each piece of work a channel of its own, since a refusal closes the channel with all that happens on it. */
export class ChannelPool {
  readonly #connection: RabbitMqConnection;
  readonly #address: RabbitMqAddress;
  readonly #clock: Clock;
  readonly #deadlineMs: number;
  #idle: Idle[] = [];

  constructor(connection: RabbitMqConnection, address: RabbitMqAddress, clock: Clock, deadlineMs: number) {
    this.#connection = connection;
    this.#address = address;
    this.#clock = clock;
    this.#deadlineMs = deadlineMs;
  }

  /**
   * Does the work, which must bear being done twice: again when the connection broke, until the deadline (`unavailable`).
   * The broker's refusals are errors at once.
   */
  async run<T>(work: (channel: Channel) => Promise<T>): Promise<T> {
    const untilMs = this.#clock.now() + this.#deadlineMs;
    return within(this.#clock, this.#deadlineMs, this.#try(work, untilMs), () =>
      unreachable(new Error(`no answer within ${this.#deadlineMs} ms`), this.#address),
    );
  }

  async #try<T>(work: (channel: Channel) => Promise<T>, untilMs: number): Promise<T> {
    for (;;) {
      const model = await this.#connection.use(untilMs);
      try {
        return await this.#once(model, work);
      } catch (error) {
        const refused = refusal(error, this.#address);
        if (refused !== undefined) throw refused;
        if (this.#clock.now() >= untilMs) throw unreachable(error, this.#address);
        await this.#clock.sleep(RETRY_MS);
      }
    }
  }

  async #once<T>(model: ChannelModel, work: (channel: Channel) => Promise<T>): Promise<T> {
    const channel = this.#takeIdle(model) ?? (await openChannel(model));
    let isClosed = false;
    const onClose = (): void => void (isClosed = true);
    channel.once("close", onClose);
    try {
      const result = await work(channel);
      channel.off("close", onClose);
      if (this.#idle.length < MAX_IDLE) this.#idle.push({ model, channel });
      else await endChannel(channel);
      return result;
    } catch (error) {
      // The work's own fault leaves the channel open.
      if (!isClosed) void endChannel(channel);
      throw error;
    }
  }

  #takeIdle(model: ChannelModel): Channel | undefined {
    this.#idle = this.#idle.filter((idle) => idle.model === model);
    return this.#idle.pop()?.channel;
  }
}
