/**
 * Messages that come twice: a queue of the harness's own gets a copy of everything that is published, and a share of it is sent
 * again, some of it late, to the queue that it went to. The copies pass by the topic exchange, so they are not copied again.
 */
import { connect, type ChannelModel, type Channel, type ConsumeMessage, type Options } from "amqplib";
import { SeededRandom } from "../support/random.ts";

const EXCHANGE = "topic_exchange";

/** How much is sent again. */
export interface Doubling {
  readonly seed: number;
  /** Of all messages, 0 to 1. */
  readonly share: number;
  /** Up to so much later. */
  readonly laterMs: number;
}

/** Sends messages again until it is closed; resolves with how many that were. */
export async function sendAgain(busUrl: string, { seed, share, laterMs }: Doubling): Promise<() => Promise<number>> {
  const random = new SeededRandom(seed);
  const connection: ChannelModel = await connect(busUrl);
  // A broker that goes away meanwhile ends this, too.
  connection.on("error", () => undefined);
  const channel: Channel = await connection.createChannel();
  channel.on("error", () => undefined);
  const { queue } = await channel.assertQueue("", { exclusive: true });
  await channel.bindQueue(queue, EXCHANGE, "#");
  const timers = new Set<NodeJS.Timeout>();
  let sent = 0;
  let isClosed = false;
  const take = (message: ConsumeMessage | null): void => {
    if (message === null || !random.chance(share)) return;
    const timer = setTimeout(
      () => {
        timers.delete(timer);
        if (isClosed) return;
        const properties = message.properties as Options.Publish & { readonly deliveryMode?: number };
        const persistent = properties.deliveryMode === 2;
        channel.sendToQueue(message.fields.routingKey, message.content, { ...properties, persistent });
        sent += 1;
      },
      random.int(0, laterMs),
    );
    timers.add(timer);
  };
  await channel.consume(queue, take, { noAck: true });
  return async () => {
    isClosed = true;
    for (const timer of timers) clearTimeout(timer);
    await connection.close().catch(() => undefined);
    return sent;
  };
}
