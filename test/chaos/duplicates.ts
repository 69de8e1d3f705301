/**
 * Messages that come twice: a queue of the harness's own gets a copy of everything that is published, and a share of it is sent
 * again, some of it late, to the queue that it went to. The copies pass by the topic exchange, so they are not copied again.
 */
import { connect, type ChannelModel, type ConsumeMessage, type Options } from "amqplib";
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

/**
 * Sends messages again until it is closed, or until the broker goes away; resolves with how many that were. Undefined where there
 * is no broker just now: another fault has stopped it.
 */
export async function sendAgain(
  busUrl: string,
  { seed, share, laterMs }: Doubling,
): Promise<(() => Promise<number>) | undefined> {
  const random = new SeededRandom(seed);
  const connection = await connect(busUrl).catch((error: unknown) => {
    if (isBrokerAway(error)) return undefined;
    throw error;
  });
  if (connection === undefined) return undefined;
  let isClosed = false;
  // A broker that goes away meanwhile ends this, too; amqplib tells it by "close", and why by "error".
  connection.on("error", () => undefined).on("close", () => (isClosed = true));
  try {
    return await doubling(connection, { random, share, laterMs }, () => isClosed);
  } catch (error) {
    if (isClosed) return undefined;
    throw error;
  }
}

async function doubling(
  connection: ChannelModel,
  { random, share, laterMs }: Pick<Doubling, "share" | "laterMs"> & { readonly random: SeededRandom },
  isAway: () => boolean,
): Promise<() => Promise<number>> {
  const channel = await connection.createChannel();
  let isOver = false;
  channel.on("error", () => undefined).on("close", () => (isOver = true));
  const { queue } = await channel.assertQueue("", { exclusive: true });
  await channel.bindQueue(queue, EXCHANGE, "#");
  const timers = new Set<NodeJS.Timeout>();
  let sent = 0;
  const take = (message: ConsumeMessage | null): void => {
    if (message === null || !random.chance(share)) return;
    const timer = setTimeout(
      () => {
        timers.delete(timer);
        if (isOver || isAway()) return;
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
    isOver = true;
    for (const timer of timers) clearTimeout(timer);
    if (!isAway()) {
      await connection.close().catch((error: unknown) => {
        if (!isAway()) throw error;
      });
    }
    return sent;
  };
}

/** What a connection fails with while the broker is down, or still starting. */
function isBrokerAway(error: unknown): boolean {
  const { code, message } = error as NodeJS.ErrnoException;
  return code === "ECONNREFUSED" || code === "ECONNRESET" || /closed abruptly|Socket closed|handshake/i.test(message);
}
