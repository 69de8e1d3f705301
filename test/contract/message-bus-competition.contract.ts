/** The part of the message bus contract about consumers that compete, and those that die. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import type { Consumer, Delivery, MessageBus, Settlement } from "../../lib/bus/message-bus.ts";
import {
  closeAll,
  message,
  nameOf,
  newGate,
  newQueue,
  nextDeadLetters,
  startHangingConsumer,
  take,
  untilGone,
  untilStatus,
} from "../support/bus.ts";
import { eventually } from "../support/eventually.ts";

/** How a suite gets at one adapter. */
export interface MessageBusUnderTest {
  /** What `openMessageBus` in any process opens this very bus with. */
  readonly url: string;
  /** A new handle on it; the suite closes it. */
  open(): Promise<MessageBus>;
  /** Stops and starts the server, where there is one. */
  restart?(): Promise<void>;
  stop(): Promise<void>;
}

/** Adds these tests to the suite; `get` gives two handles as they are when a test runs. */
export function testCompetingConsumers(
  get: () => { readonly underTest: MessageBusUnderTest; readonly bus: MessageBus; readonly otherBus: MessageBus },
): void {
  describe("competing and dying consumers", () => {
    test("competing consumers share the work, and no message is with two of them", async () => {
      const { bus, otherBus } = get();
      const queue = await newQueue(bus);
      const seen: string[][] = [[], []];
      const consumeInto = (on: MessageBus, list: string[]): Promise<Consumer> =>
        on.consume(
          queue,
          async (delivery) => {
            list.push(nameOf(delivery));
            // A quick one must not take all before the other has begun.
            await eventually(() => seen.every(({ length }) => length > 0), { intervalMs: 1 });
            return "accept";
          },
          { prefetch: 2 },
        );
      const consumers = [await consumeInto(bus, seen[0]!), await consumeInto(otherBus, seen[1]!)];
      const names = Array.from({ length: 400 }, (_, index) => `n${index}`);
      await Promise.all(names.map((each) => bus.publish(queue, message(each))));
      await eventually(() => seen.flat().length >= names.length);
      await closeAll(consumers);
      assert.deepEqual(seen.flat().sort(), [...names].sort());
      assert.ok(
        seen.every((list) => list.length > 0),
        "both took some",
      );
    });

    test("deliveries of a process killed in mid-handler come again at their old places, counted", async (context) => {
      const { underTest, bus, otherBus } = get();
      const queue = await newQueue(bus);
      for (const each of ["a", "b", "c"]) await bus.publish(queue, { ...message(each), messageId: each });
      const child = startHangingConsumer(context, underTest.url, queue, 2);
      assert.deepEqual(await child.nextDeliveries(2), [
        { messageId: "a", redeliveryCount: 0 },
        { messageId: "b", redeliveryCount: 0 },
      ]);
      await untilStatus(bus, queue, { ready: 1, consumers: 1 });
      const killedAt = Date.now();
      await child.kill();
      await eventually(async () => (await bus.queueStatus(queue))?.ready === 3, {
        describe: "recovery",
        timeoutMs: 20_000,
      });
      assert.ok(Date.now() - killedAt < 5000, "recovered within seconds");
      const received = await take(otherBus, queue, 3, 1);
      assert.deepEqual(
        received.map((delivery) => [delivery.messageId, delivery.redeliveryCount]),
        [
          ["a", 1],
          ["b", 1],
          ["c", 0],
        ],
      );
      await untilStatus(bus, queue, { ready: 0, consumers: 0 });
    });

    test("a message that kills its consumers becomes a dead letter", async (context) => {
      const { underTest, bus } = get();
      const queue = await newQueue(bus, { kind: "service", maxDeliveries: 2 });
      await bus.publish(queue, { ...message("killer"), messageId: "killer" });
      for (const redeliveryCount of [0, 1]) {
        const child = startHangingConsumer(context, underTest.url, queue, 1);
        assert.deepEqual(await child.nextDeliveries(1), [{ messageId: "killer", redeliveryCount }]);
        await child.kill();
      }
      const [letter] = await nextDeadLetters(bus, queue, 1);
      assert.equal(letter?.reason, "max_deliveries");
    });

    test("a dead process's run queue is unused from then on", async (context) => {
      const { underTest, bus } = get();
      const queue = await newQueue(bus, { kind: "run", expiresMs: 3000 });
      // Until the other process is there, a consumer of our own with its one slot taken keeps the queue in use.
      const gate = newGate(context);
      const keepersSlotTaken = newGate(context);
      const stall = async (): Promise<Settlement> => {
        keepersSlotTaken.open();
        return gate.opened.then(() => "accept");
      };
      const keeper = await bus.consume(queue, stall, { prefetch: 1 });
      await bus.publish(queue, message("for the keeper"));
      await keepersSlotTaken.opened;
      await bus.publish(queue, message("for the child"));
      const child = startHangingConsumer(context, underTest.url, queue, 1);
      await child.nextDeliveries(1);
      gate.open();
      await keeper.close();
      assert.equal((await bus.queueStatus(queue))?.consumers, 1);
      await child.kill();
      await untilGone(bus, queue);
    });

    test("every confirmed message is accepted exactly once, whatever is retried or thrown on the way", async () => {
      const { bus, otherBus } = get();
      const failures = fc.array(fc.constantFrom<Settlement | "throw">("retry", "throw"), { maxLength: 3 });
      await fc.assert(
        fc.asyncProperty(
          fc.array(failures, { minLength: 1, maxLength: 25 }),
          fc.array(fc.integer({ min: 1, max: 5 }), { minLength: 1, maxLength: 4 }),
          async (plans, prefetches) => {
            const queue = await newQueue(bus);
            const accepted: string[] = [];
            const inHand = new Set<string>();
            const handler = async (delivery: Delivery): Promise<Settlement> => {
              const { messageId, redeliveryCount } = delivery;
              assert.ok(!inHand.has(messageId), "with two handlers at once");
              inHand.add(messageId);
              await new Promise((resolve) => setImmediate(resolve));
              inHand.delete(messageId);
              const failure = plans[Number(messageId)]![redeliveryCount];
              if (failure === "throw") throw new Error("on purpose");
              if (failure === undefined) accepted.push(messageId);
              return failure ?? "accept";
            };
            const faults: unknown[] = [];
            const onHandlerError = (error: unknown): void => {
              if ((error as Error).message !== "on purpose") faults.push(error);
            };
            const consumers = await Promise.all(
              prefetches.map((prefetch, index) =>
                (index % 2 === 0 ? bus : otherBus).consume(queue, handler, { prefetch, onHandlerError }),
              ),
            );
            await Promise.all(plans.map((_, index) => bus.publish(queue, { ...message("x"), messageId: `${index}` })));
            await eventually(() => accepted.length >= plans.length, { intervalMs: 5 });
            await closeAll(consumers);
            assert.deepEqual(
              accepted.map(Number).sort((a, b) => a - b),
              [...plans.keys()],
            );
            assert.deepEqual(faults, []);
            await untilStatus(bus, queue, { ready: 0, consumers: 0 });
            await bus.deleteQueue(queue);
          },
        ),
        { numRuns: 15 },
      );
    });
  });
}
