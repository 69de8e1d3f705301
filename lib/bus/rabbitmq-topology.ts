/**
 * What the bus has at RabbitMQ (decision 10): one topic exchange, a queue bound under its own name
 * for each of ours, and one bounded queue that gathers dead letters.
 */

import type { Channel, ChannelModel, Options } from "amqplib";
import { MAX_DEAD_LETTER_BYTES, MAX_DEAD_LETTERS } from "./dead-letters.ts";
import type { QueueProperties } from "./message-checks.ts";

/** Every message goes through it, with the queue's name as routing key. */
export const EXCHANGE = "topic_exchange";

/** A fanout: whatever became a dead letter, under whatever key. */
export const DEAD_LETTER_EXCHANGE = "dead-letter-exchange";

/** Where dead letters wait. */
export const DEAD_LETTER_QUEUE = "dead-letter-queue";

/**
 * Classic: looking at dead letters puts them back, which a quorum queue counts as failed deliveries, until it drops them.
 */
const DEAD_LETTER_QUEUE_OPTIONS: Options.AssertQueue = {
  durable: true,
  arguments: {
    "x-queue-type": "classic",
    "x-max-length": MAX_DEAD_LETTERS,
    "x-max-length-bytes": MAX_DEAD_LETTER_BYTES,
    "x-overflow": "drop-head",
  },
};

/** What a queue of ours is declared with; also what makes it the same queue when it is declared again. */
export function queueOptions({ expiresMs, maxDeliveries }: QueueProperties): Options.AssertQueue {
  const deadLetters = { "x-dead-letter-exchange": DEAD_LETTER_EXCHANGE };
  if (maxDeliveries === undefined) {
    return { durable: true, arguments: { "x-queue-type": "classic", "x-expires": expiresMs, ...deadLetters } };
  }
  return {
    durable: true,
    arguments: {
      "x-queue-type": "quorum",
      // The broker counts redeliveries: with n of them a message is delivered n + 1 times.
      "x-delivery-limit": maxDeliveries - 1,
      ...deadLetters,
      // A dead letter leaves its queue only when it has arrived; this strategy insists on reject-publish, which without a
      // length limit never happens.
      "x-dead-letter-strategy": "at-least-once",
      "x-overflow": "reject-publish",
    },
  };
}

/** Declares one queue and binds it under its name. */
export async function declareQueue(channel: Channel, queue: string, properties: QueueProperties): Promise<void> {
  await channel.assertQueue(queue, queueOptions(properties));
  await channel.bindQueue(queue, EXCHANGE, queue);
}

/**
 * Makes exchanges and dead letter queue where they are missing. Looking first, because a steward's user may look, but not
 * declare; and because an operator may have given the dead letter queue other bounds.
 */
export async function ensureExchanges(model: ChannelModel): Promise<void> {
  if (await areThere(model)) return;
  await withChannel(model, async (channel) => {
    await channel.assertExchange(EXCHANGE, "topic", { durable: true });
    await channel.assertExchange(DEAD_LETTER_EXCHANGE, "fanout", { durable: true });
    await channel.assertQueue(DEAD_LETTER_QUEUE, DEAD_LETTER_QUEUE_OPTIONS);
    await channel.bindQueue(DEAD_LETTER_QUEUE, DEAD_LETTER_EXCHANGE, "");
  });
}

async function areThere(model: ChannelModel): Promise<boolean> {
  try {
    await withChannel(model, async (channel) => {
      await channel.checkExchange(EXCHANGE);
      await channel.checkExchange(DEAD_LETTER_EXCHANGE);
      await channel.checkQueue(DEAD_LETTER_QUEUE);
    });
    return true;
  } catch (error) {
    if ((error as { code?: unknown }).code === 404) return false;
    throw error;
  }
}

/** Opens a channel for some work. A refusal closes it (AMQP has no milder one), and nothing else. */
export async function withChannel<T>(model: ChannelModel, work: (channel: Channel) => Promise<T>): Promise<T> {
  const channel = await openChannel(model);
  try {
    return await work(channel);
  } finally {
    await endChannel(channel);
  }
}

/** Opens a channel. */
export async function openChannel(model: ChannelModel): Promise<Channel> {
  const channel = await model.createChannel();
  // What is told here is told to whoever waits for an answer on the channel as well; unheard, it would end the process.
  channel.on("error", () => undefined);
  return channel;
}

/** Closes a channel; resolves also when it is closed, or its connection gone, already. */
export async function endChannel(channel: Channel): Promise<void> {
  await new Promise<void>((resolve) => {
    // amqplib forgets to answer when the connection goes meanwhile; but the channel is then closed.
    channel.once("close", resolve);
    const done = (): void => resolve();
    channel.close().then(done, done);
  });
}
