/** Looking at the dead letters of RabbitMQ: they are taken unsettled, and fall back to their places with the channel. */

import type { Channel, ChannelModel, ConsumeMessage } from "amqplib";
import type { Clock } from "../clock.ts";
import { MAX_DEAD_LETTERS } from "./dead-letters.ts";
import type { DeadLetter } from "./message-bus.ts";
import { deadLetterOf } from "./rabbitmq-messages.ts";
import { DEAD_LETTER_QUEUE, withChannel } from "./rabbitmq-topology.ts";

/** A dead letter while it is held. */
export interface HeldDeadLetter {
  readonly letter: DeadLetter;
  /** Removes it. */
  forget(): void;
}

/** Somebody else may be looking at some: then no more come. */
const NO_MORE_AFTER_MS = 1000;

/** Does something with the oldest dead letters, at most `limit`, oldest first; afterwards all but the forgotten are back. */
export async function withDeadLetters<T>(
  model: ChannelModel,
  options: { readonly limit: number; readonly clock: Clock },
  work: (held: readonly HeldDeadLetter[]) => Promise<T>,
): Promise<T> {
  return withChannel(model, async (channel) => {
    const { messageCount } = await channel.checkQueue(DEAD_LETTER_QUEUE);
    const count = Math.min(options.limit, messageCount, MAX_DEAD_LETTERS);
    const messages = count < 1 ? [] : await take(channel, count, options.clock);
    return work(messages.map((message) => ({ letter: deadLetterOf(message), forget: () => channel.ack(message) })));
  });
}

async function take(channel: Channel, count: number, clock: Clock): Promise<ConsumeMessage[]> {
  const taken: ConsumeMessage[] = [];
  let isOver = false;
  let wake = (): void => undefined;
  channel.once("close", () => {
    isOver = true;
    wake();
  });
  await channel.prefetch(count);
  const { consumerTag } = await channel.consume(DEAD_LETTER_QUEUE, (message) => {
    if (message === null) isOver = true;
    else taken.push(message);
    wake();
  });
  while (taken.length < count && !isOver) {
    const before = taken.length;
    const stop = new AbortController();
    const next = new Promise<void>((resolve) => (wake = resolve));
    await Promise.race([next, clock.sleep(NO_MORE_AFTER_MS, stop.signal)]);
    stop.abort();
    if (taken.length === before) isOver = true;
  }
  await channel.cancel(consumerTag);
  return taken;
}
