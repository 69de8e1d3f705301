/**
 * A process that takes messages and never decides: `hanging-consumer.js <bus url> <queue> <prefetch>`. It writes one
 * line of JSON per delivery. Tests kill it in the middle of its handlers; it also ends with the process that started it.
 */
import { openMessageBus } from "../../lib/bus/open.ts";

process.stdin.resume().once("close", () => process.exit());

const [url = "", queue = "", prefetch = "1"] = process.argv.slice(2);
const bus = await openMessageBus(url);
await bus.consume(
  queue,
  (delivery) => {
    console.log(JSON.stringify({ messageId: delivery.messageId, redeliveryCount: delivery.redeliveryCount }));
    return new Promise(() => undefined);
  },
  { prefetch: Number(prefetch) },
);
