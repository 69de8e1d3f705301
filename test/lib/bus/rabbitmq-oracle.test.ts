/** Messages under way while RabbitMQ stops, dies, hangs or drops its connections, and a judge of what came of them. */
import assert from "node:assert/strict";
import { after, afterEach, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { MessageBus } from "../../../lib/bus/message-bus.ts";
import { openRabbitMqBus } from "../../../lib/bus/rabbitmq.ts";
import { message, newQueue, withCode } from "../../support/bus.ts";
import { eventually } from "../../support/eventually.ts";
import { skipOwnRabbitMq, startOwnRabbitMq, type OwnRabbitMq, type VirtualHost } from "../../support/rabbitmq.ts";

/** Long enough for a broker to start again on a busy machine. */
const PATIENT_MS = 90_000;
/**
 * RabbitMQ 3.10 notes a new quorum queue's name on disk only after some seconds (ra's `names.dets`); killed before, it comes back with
 * a queue that finds no leader.
 */
const YOUNG_QUEUE_MS = 6000;

describe("messages under way while RabbitMQ fails", { skip: skipOwnRabbitMq }, () => {
  let server: OwnRabbitMq;
  let vhost: VirtualHost;
  before(async () => {
    server = await startOwnRabbitMq();
    vhost = await server.vhost();
  });
  const opened: MessageBus[] = [];
  afterEach(async () => {
    await Promise.all(opened.splice(0).map((bus) => bus.close()));
  });
  after(() => server.close());

  async function openBus(): Promise<MessageBus> {
    const bus = await openRabbitMqBus({ url: vhost.url, deadlineMs: PATIENT_MS });
    opened.push(bus);
    return bus;
  }

  /** The management's statistics, which know the connections, come every five seconds. */
  async function cutConnections(): Promise<void> {
    await eventually(async () => (await server.cutConnections(vhost)) > 0, { timeoutMs: 20_000 });
  }

  const faults: readonly (readonly [string, () => Promise<unknown>])[] = [
    ["is stopped and started", () => server.restart()],
    ["is killed and started", () => server.kill().then(() => server.start())],
    ["has its connections cut", cutConnections],
    [
      "hangs for seconds",
      async () => {
        await server.pause();
        await sleep(3000);
        server.resume();
      },
    ],
  ];
  for (const [fault, inject] of faults) {
    for (const kind of ["service", "run"] as const) {
      test(`nothing confirmed is lost when the broker ${fault} (${kind} queue)`, async (context) => {
        const publisher = await openBus();
        const receiver = await openBus();
        const queue = await newQueue(publisher, { kind });
        const outcomes = new Map<string, "confirmed" | "unknown">();
        const received: { readonly id: string; readonly redeliveryCount: number }[] = [];
        const lost: Error[] = [];
        const consumer = await receiver.consume(
          queue,
          async ({ messageId, redeliveryCount }) => {
            received.push({ id: messageId, redeliveryCount });
            return "accept";
          },
          { onLost: (error) => lost.push(error), prefetch: 8 },
        );
        const stop = new AbortController();
        // Before the buses are closed: publishing on a closed one fails at once, and this loop would not let anybody else run.
        context.after(() => stop.abort());
        const publishing = Promise.all(
          Array.from({ length: 8 }, async (_, lane) => {
            for (let index = 0; !stop.signal.aborted; index += 1) {
              const messageId = `${lane}/${index}`;
              outcomes.set(
                messageId,
                await publisher.publish(queue, { ...message("x"), messageId }).then(
                  () => "confirmed",
                  (error: unknown) => {
                    assert.ok(withCode("unavailable")(error));
                    return "unknown";
                  },
                ),
              );
            }
          }),
        );
        const untilMoreThan = (count: number): Promise<unknown> =>
          eventually(() => received.length > count, { timeoutMs: PATIENT_MS, describe: `more than ${count} messages` });
        const young = sleep(YOUNG_QUEUE_MS);
        await untilMoreThan(200);
        await young;
        await inject();
        await untilMoreThan(received.length + 200);
        stop.abort();
        await publishing;
        const confirmed = [...outcomes].filter(([, outcome]) => outcome === "confirmed").map(([id]) => id);
        await eventually(
          () => {
            const seen = new Set(received.map(({ id }) => id));
            return confirmed.every((id) => seen.has(id));
          },
          { describe: "all that was confirmed" },
        );
        await consumer.close();
        assert.deepEqual(lost, []);
        assert.ok(
          received.every(({ id }) => outcomes.has(id)),
          "nothing came that was not sent",
        );
        const times = new Map<string, number>();
        for (const { id, redeliveryCount } of received) {
          times.set(id, (times.get(id) ?? 0) + 1);
          if (times.get(id) !== 1) assert.ok(redeliveryCount > 0, `${id} came again unmarked`);
        }
        assert.equal((await publisher.queueStatus(queue))?.ready, 0);
        await publisher.deleteQueue(queue);
      });
    }
  }
});
