/** A process that publishes: `publishing-process.js <bus url> <queue> <count>`; declares the queue itself. */
import { openMessageBus } from "../../lib/bus/open.ts";

const [url = "", queue = "", count = "0"] = process.argv.slice(2);
const bus = await openMessageBus(url);
await bus.declareQueue(queue, { kind: "service" });
for (let index = 0; index < Number(count); index += 1) {
  await bus.publish(queue, { type: "frame", body: Buffer.from(`${process.pid}/${index}`) });
}
await bus.close();
