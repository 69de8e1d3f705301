/**
 * The contract of the message bus port, sentence by sentence, as a suite that every adapter runs.
 *
 * Queue names are new in each test, so that one bus serves the whole suite.
 */
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { after, before, describe, test } from "node:test";
import {
  MAX_MESSAGE_BYTES,
  MAX_PREFETCH,
  type Delivery,
  type MessageBus,
  type OutgoingMessage,
  type Settlement,
} from "../../lib/bus/message-bus.ts";
import {
  accept,
  closeAll,
  deadLettersOf,
  message,
  nameOf,
  newGate,
  newQueue,
  nextDeadLetters,
  take,
  untilGone,
  untilStatus,
  withCode,
} from "../support/bus.ts";
import { eventually } from "../support/eventually.ts";
import { testCompetingConsumers, type MessageBusUnderTest } from "./message-bus-competition.contract.ts";

/** Runs the contract for the adapter that `start` starts. */
export function testMessageBusContract(name: string, start: () => Promise<MessageBusUnderTest>): void {
  describe(`The message bus contract, ${name}`, () => {
    let underTest: MessageBusUnderTest;
    /** Two handles, as two processes would have them. */
    let bus: MessageBus;
    let otherBus: MessageBus;

    before(async () => {
      underTest = await start();
      bus = await underTest.open();
      otherBus = await underTest.open();
    });
    after(async () => {
      await bus.close();
      await otherBus.close();
      await underTest.stop();
    });

    describe("declaring and deleting", { concurrency: true }, () => {
      test("declaring a queue again with the same properties changes nothing", async () => {
        for (const options of [
          { kind: "run", expiresMs: 60_000 },
          { kind: "service", maxDeliveries: 3 },
        ] as const) {
          const queue = await newQueue(bus, options);
          await bus.publish(queue, message("kept"));
          await otherBus.declareQueue(queue, options);
          assert.equal((await bus.queueStatus(queue))?.ready, 1);
        }
      });

      test("declaring a queue again with other properties is a conflict", async () => {
        const queue = await newQueue(bus, { kind: "service" });
        await assert.rejects(otherBus.declareQueue(queue, { kind: "run" }), withCode("conflict"));
        await assert.rejects(bus.declareQueue(queue, { kind: "service", maxDeliveries: 9 }), withCode("conflict"));
        const runQueue = await newQueue(bus, { kind: "run", expiresMs: 60_000 });
        await assert.rejects(bus.declareQueue(runQueue, { kind: "run", expiresMs: 5000 }), withCode("conflict"));
        // The refusals have broken nothing.
        await bus.declareQueue(queue, { kind: "service" });
        await bus.publish(queue, message("still works"));
      });

      test("queue names that cannot be binding keys, and options that make no sense, are refused", async () => {
        for (const queue of ["", "a.*", "#", "x".repeat(256)]) {
          await assert.rejects(bus.declareQueue(queue, { kind: "service" }), withCode("invalid_argument"));
        }
        await assert.rejects(bus.declareQueue("q", { kind: "service", expiresMs: 5 }), withCode("invalid_argument"));
        await assert.rejects(bus.declareQueue("q", { kind: "run", expiresMs: 0 }), withCode("invalid_argument"));
        const tooMany = { prefetch: MAX_PREFETCH + 1 };
        await assert.rejects(
          bus.consume("q", async () => "accept", tooMany),
          withCode("invalid_argument"),
        );
        await assert.rejects(bus.declareQueue("q", { kind: "run", maxDeliveries: 3 }), withCode("invalid_argument"));
        await assert.rejects(
          bus.declareQueue("q", { kind: "service", maxDeliveries: 0 }),
          withCode("invalid_argument"),
        );
      });

      test("deleting a queue deletes what it holds, and deleting a missing one is harmless", async () => {
        const queue = await newQueue(bus);
        await bus.publish(queue, message("gone"));
        await bus.deleteQueue(queue);
        await otherBus.deleteQueue(queue);
        assert.equal(await bus.queueStatus(queue), undefined);
        await bus.declareQueue(queue, { kind: "service" });
        assert.equal((await bus.queueStatus(queue))?.ready, 0);
      });

      for (const kind of ["service", "run"] as const) {
        const also = kind === "run" ? ", also when the queue is declared again at once" : "";
        test(`a consumer whose ${kind} queue is deleted is told so once${also}`, async () => {
          const queue = await newQueue(bus, { kind });
          const lost: Error[] = [];
          const consumer = await bus.consume(queue, accept, { onLost: (error) => lost.push(error) });
          await otherBus.deleteQueue(queue);
          if (kind === "run") await otherBus.declareQueue(queue, { kind });
          await eventually(() => lost.length > 0, { describe: "the consumer to hear of it" });
          await consumer.close();
          assert.equal(lost.length, 1);
          assert.ok(withCode("not_found")(lost[0]));
        });
      }

      test("a run queue without consumer goes away after its time, with what it holds", async () => {
        const queue = await newQueue(bus, { kind: "run", expiresMs: 3000 });
        await bus.publish(queue, message("gone"));
        await untilGone(bus, queue);
        assert.equal(await otherBus.queueStatus(queue), undefined);
      });

      test("a run queue with a consumer stays, and its time begins when the last consumer ends", async () => {
        const queue = await newQueue(bus, { kind: "run", expiresMs: 3000 });
        const consumer = await otherBus.consume(queue, accept);
        // When this one goes, the other would have gone long ago without its consumer.
        const shortLived = await newQueue(bus, { kind: "run", expiresMs: 4500 });
        await untilGone(bus, shortLived);
        assert.equal((await bus.queueStatus(queue))?.consumers, 1);
        await consumer.close();
        await untilGone(bus, queue);
      });
    });

    describe("publishing", () => {
      test("a message arrives with everything that it was sent with", async () => {
        const queue = await newQueue(bus);
        const sent: OutgoingMessage = {
          type: "sqlDataRequest",
          body: Uint8Array.from([0, 1, 127, 128, 255]),
          correlationId: "correlation",
          replyTo: "VU-in-1",
          messageId: "message",
          headers: { traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", note: "é" },
          expiresAtMs: Date.now() + 3_600_000,
        };
        await bus.publish(queue, sent);
        const [received] = await take(otherBus, queue, 1);
        assert.deepEqual({ ...received, body: Uint8Array.from(received!.body) }, { ...sent, redeliveryCount: 0 });
      });

      test("a message without id gets a new one, and what was not sent is not there", async () => {
        const queue = await newQueue(bus);
        await bus.publish(queue, { type: "credit", body: new Uint8Array() });
        await bus.publish(queue, { type: "credit", body: new Uint8Array() });
        const [first, second] = await take(bus, queue, 2);
        assert.notEqual(first!.messageId, second!.messageId);
        assert.deepEqual(Object.keys(first!).sort(), ["body", "headers", "messageId", "redeliveryCount", "type"]);
        assert.equal(first!.body.byteLength, 0);
      });

      test("publishing to a queue that nobody declared is not_found", async () => {
        await assert.rejects(bus.publish(`nobody-${randomUUID()}`, message("lost")), withCode("not_found"));
      });

      test("the largest message arrives whole; one byte more is refused, and nothing is stored", async () => {
        const queue = await newQueue(bus);
        const largest = new Uint8Array(MAX_MESSAGE_BYTES).map((_, index) => index * 31);
        await bus.publish(queue, { type: "frame", body: largest });
        const tooLarge = { type: "frame", body: new Uint8Array(MAX_MESSAGE_BYTES + 1) };
        await assert.rejects(bus.publish(queue, tooLarge), withCode("message_too_large"));
        assert.equal((await bus.queueStatus(queue))?.ready, 1);
        const [received] = await take(otherBus, queue, 1);
        assert.ok(Buffer.from(largest).equals(received!.body));
      });

      test("the order of one publisher is kept, also without waiting for one publish before the next", async () => {
        const queue = await newQueue(bus);
        const names = Array.from({ length: 300 }, (_, index) => `n${index}`);
        await Promise.all(names.map((each) => bus.publish(queue, message(each))));
        const received = await take(otherBus, queue, names.length, 1);
        assert.deepEqual(received.map(nameOf), names);
      });

      test("what was confirmed is there after everybody has closed and opened again", async () => {
        const queue = await newQueue(bus);
        await bus.publish(queue, message("kept"));
        await bus.close();
        await otherBus.close();
        await underTest.restart?.();
        bus = await underTest.open();
        otherBus = await underTest.open();
        assert.deepEqual((await take(bus, queue, 1)).map(nameOf), ["kept"]);
      });
    });

    describe("consuming", () => {
      test("consuming from a queue that nobody declared is not_found", async () => {
        await assert.rejects(bus.consume(`nobody-${randomUUID()}`, accept), withCode("not_found"));
      });

      test("an accepted message is forgotten", async () => {
        const queue = await newQueue(bus);
        await bus.publish(queue, message("done"));
        await take(otherBus, queue, 1);
        await untilStatus(bus, queue, { ready: 0, consumers: 0 });
      });

      test("messages published before and after the start of a consumer arrive, from either handle", async () => {
        const queue = await newQueue(bus);
        await bus.publish(queue, message("before"));
        const seen: string[] = [];
        const consumer = await bus.consume(queue, async (delivery) => {
          seen.push(nameOf(delivery));
          return "accept";
        });
        await otherBus.publish(queue, message("other"));
        await eventually(() => seen.length === 2);
        await bus.publish(queue, message("own"));
        await eventually(() => seen.length === 3);
        await consumer.close();
        assert.deepEqual(seen, ["before", "other", "own"]);
      });

      test("no more than prefetch deliveries are unsettled while handlers stall", async (context) => {
        const queue = await newQueue(bus);
        const gate = newGate(context);
        const started: string[] = [];
        const consumer = await otherBus.consume(
          queue,
          async (delivery) => {
            started.push(nameOf(delivery));
            await gate.opened;
            return "accept";
          },
          { prefetch: 3 },
        );
        const names = ["a", "b", "c", "d", "e", "f", "g"];
        for (const each of names) await bus.publish(queue, message(each));
        await eventually(() => started.length === 3);
        // A message that goes all the way through another queue shows that the consumer had its chance to take more.
        const yardstick = await newQueue(bus);
        await bus.publish(yardstick, message("yardstick"));
        await take(otherBus, yardstick, 1);
        await untilStatus(bus, queue, { ready: 4, consumers: 1 });
        assert.deepEqual(started, ["a", "b", "c"]);
        gate.open();
        await eventually(() => started.length === names.length);
        await consumer.close();
        assert.deepEqual(started, names);
      });

      test("a retried message comes again, counted, and to any consumer", async () => {
        const queue = await newQueue(bus);
        await bus.publish(queue, message("again"));
        const counts: number[] = [];
        const settleFor = async (delivery: Delivery): Promise<Settlement> => {
          counts.push(delivery.redeliveryCount);
          return counts.length < 4 ? "retry" : "accept";
        };
        const consumers = [await bus.consume(queue, settleFor), await otherBus.consume(queue, settleFor)];
        await eventually(() => counts.length === 4);
        await closeAll(consumers);
        assert.deepEqual(counts, [0, 1, 2, 3]);
        assert.equal((await bus.queueStatus(queue))?.ready, 0);
      });

      test("a handler that throws gets the message again, and what it threw is told", async () => {
        const queue = await newQueue(bus);
        await bus.publish(queue, message("hot"));
        const told: unknown[] = [];
        const counts: number[] = [];
        const consumer = await bus.consume(
          queue,
          async ({ redeliveryCount }) => {
            counts.push(redeliveryCount);
            if (redeliveryCount === 0) throw new Error("burnt");
            return "accept";
          },
          { onHandlerError: (error, delivery) => told.push([(error as Error).message, nameOf(delivery)]) },
        );
        await eventually(() => counts.length === 2);
        await consumer.close();
        assert.deepEqual(told, [["burnt", "hot"]]);
        assert.deepEqual(counts, [0, 1]);
      });

      test("a rejected message goes to the dead letters at once, whole", async () => {
        const queue = await newQueue(bus);
        await bus.publish(queue, { ...message("bad"), correlationId: "c", headers: { a: "b" } });
        await take(otherBus, queue, 1, 16, "reject");
        const [letter] = await nextDeadLetters(bus, queue, 1);
        assert.equal(letter?.reason, "rejected");
        assert.ok(letter.atMs !== undefined && Math.abs(letter.atMs - Date.now()) < 60_000);
        assert.equal(nameOf(letter.message), "bad");
        assert.equal(letter?.message.correlationId, "c");
        assert.equal(letter?.message.headers["a"], "b");
        await untilStatus(bus, queue, { ready: 0, consumers: 0 });
      });

      test("after maxDeliveries a message goes to the dead letters, and the others still come", async () => {
        const queue = await newQueue(bus, { kind: "service", maxDeliveries: 3 });
        await bus.publish(queue, message("poison"));
        await bus.publish(queue, message("good"));
        const seen: string[] = [];
        const consumer = await bus.consume(queue, async (delivery) => {
          seen.push(`${nameOf(delivery)}${delivery.redeliveryCount}`);
          return nameOf(delivery) === "poison" ? "retry" : "accept";
        });
        const [letter] = await nextDeadLetters(bus, queue, 1);
        await eventually(() => seen.includes("good0"));
        await consumer.close();
        assert.equal(letter?.reason, "max_deliveries");
        assert.deepEqual(seen.sort(), ["good0", "poison0", "poison1", "poison2"]);
      });

      test("dead letters are listed oldest first, no more than asked for, and stay", async () => {
        const queue = await newQueue(bus);
        for (const each of ["one", "two", "three"]) await bus.publish(queue, message(each));
        await take(bus, queue, 3, 1, "reject");
        assert.deepEqual(
          (await nextDeadLetters(otherBus, queue, 3)).map((letter) => nameOf(letter.message)),
          ["one", "two", "three"],
        );
        assert.equal((await deadLettersOf(bus, queue)).length, 3);
        assert.equal((await bus.deadLetters(1)).length, 1);
      });

      test("a run queue does not count: what is retried comes again and again, marked as delivered before", async () => {
        const queue = await newQueue(bus, { kind: "run" });
        await bus.publish(queue, message("again"));
        const counts: number[] = [];
        const consumer = await bus.consume(queue, async ({ redeliveryCount }) => {
          counts.push(redeliveryCount);
          return counts.length < 8 ? "retry" : "accept";
        });
        await eventually(() => counts.length === 8);
        await consumer.close();
        assert.deepEqual(counts, [0, 1, 1, 1, 1, 1, 1, 1]);
        assert.deepEqual(await deadLettersOf(bus, queue), []);
      });

      test("a retried message of a run queue that expires meanwhile is not delivered again", async () => {
        const queue = await newQueue(bus, { kind: "run" });
        let expiresAtMs = Number.POSITIVE_INFINITY;
        let deliveries = 0;
        const consumer = await bus.consume(queue, async () => {
          deliveries++;
          if (deliveries > 1) await eventually(() => Date.now() > expiresAtMs, { timeoutMs: 20_000 });
          return "retry";
        });
        expiresAtMs = Date.now() + 3000;
        await bus.publish(queue, { ...message("late"), expiresAtMs });
        const [letter] = await nextDeadLetters(bus, queue, 1);
        await consumer.close();
        assert.equal(letter?.reason, "expired");
        assert.equal(deliveries, 2, "it came again before, and not afterwards");
      });

      test("what had expired when it was sent is not delivered, even where somebody waits for messages", async () => {
        const queue = await newQueue(bus);
        const seen: string[] = [];
        const consumer = await bus.consume(queue, async (delivery) => {
          seen.push(nameOf(delivery));
          return "accept";
        });
        await bus.publish(queue, { ...message("dead on arrival"), expiresAtMs: Date.now() - 1000 });
        await bus.publish(queue, message("alive"));
        const [letter] = await nextDeadLetters(otherBus, queue, 1);
        await eventually(() => seen.length > 0);
        await consumer.close();
        assert.deepEqual(seen, ["alive"]);
        assert.equal(letter?.reason, "expired");
      });

      test("a dead letter is replayed to its queue, whole, with its id, and is none any more", async () => {
        const queue = await newQueue(bus);
        const sent = { ...message("second"), messageId: "m2", correlationId: "c", headers: { a: "b" } };
        for (const each of [message("first"), sent, message("third")]) await bus.publish(queue, each);
        await take(bus, queue, 3, 1, "reject");
        const letters = await nextDeadLetters(bus, queue, 3);
        const second = letters.find((letter) => letter.message.messageId === "m2");
        await otherBus.replayDeadLetter(second!.id);
        const [received] = await take(bus, queue, 1);
        assert.deepEqual({ ...received, body: nameOf(received!) }, { ...sent, body: "second", redeliveryCount: 0 });
        assert.deepEqual(
          (await nextDeadLetters(otherBus, queue, 2)).map((letter) => nameOf(letter.message)),
          ["first", "third"],
        );
        await assert.rejects(bus.replayDeadLetter(second!.id), withCode("not_found"));
      });

      test("an expired dead letter is replayed without an end; one that still has time keeps it", async () => {
        const queue = await newQueue(bus);
        const expiresAtMs = Date.now() + 3_600_000;
        await bus.publish(queue, { ...message("stale"), expiresAtMs: Date.now() - 1000 });
        await nextDeadLetters(bus, queue, 1);
        await bus.publish(queue, { ...message("refused"), expiresAtMs });
        await take(bus, queue, 1, 1, "reject");
        for (const letter of await nextDeadLetters(bus, queue, 2)) await bus.replayDeadLetter(letter.id);
        const received = await take(bus, queue, 2);
        assert.deepEqual(
          received.map((delivery) => [nameOf(delivery), delivery.expiresAtMs]),
          [
            ["stale", undefined],
            ["refused", expiresAtMs],
          ],
        );
      });

      test("a dead letter whose queue is gone cannot be replayed, and stays", async () => {
        const queue = await newQueue(bus);
        await bus.publish(queue, message("homeless"));
        await take(bus, queue, 1, 1, "reject");
        const [letter] = await nextDeadLetters(bus, queue, 1);
        await bus.deleteQueue(queue);
        await assert.rejects(bus.replayDeadLetter(letter!.id), withCode("not_found"));
        assert.equal((await nextDeadLetters(bus, queue, 1)).length, 1);
      });

      test("an expired message becomes a dead letter instead of being delivered", async () => {
        const queue = await newQueue(bus);
        await bus.publish(queue, { ...message("stale"), expiresAtMs: Date.now() + 100 });
        await bus.publish(queue, { ...message("dead on arrival"), expiresAtMs: Date.now() - 1000 });
        await bus.publish(queue, { ...message("fresh"), expiresAtMs: Date.now() + 60_000 });
        const letters = await nextDeadLetters(bus, queue, 2);
        assert.deepEqual(
          letters.map((letter) => letter.reason),
          ["expired", "expired"],
        );
        assert.deepEqual((await take(otherBus, queue, 1)).map(nameOf), ["fresh"]);
      });

      test("a message that expires while it is being handled can still be accepted", async () => {
        const queue = await newQueue(bus);
        let expiresAtMs = Number.POSITIVE_INFINITY;
        let isHandled = false;
        const consumer = await bus.consume(queue, async () => {
          await eventually(() => Date.now() > expiresAtMs + 1500, {
            timeoutMs: 20_000,
            describe: "some sweeps to pass",
          });
          isHandled = true;
          return "accept";
        });
        expiresAtMs = Date.now() + 4000;
        await bus.publish(queue, { ...message("slow"), expiresAtMs });
        await eventually(() => isHandled, { timeoutMs: 30_000, describe: "the message to be handled" });
        await consumer.close();
        assert.deepEqual(await deadLettersOf(bus, queue), []);
        assert.equal((await bus.queueStatus(queue))?.ready, 0);
      });
    });

    describe("closing", () => {
      test("closing a consumer waits for its handlers, stores their settlements, and takes nothing new", async (context) => {
        const queue = await newQueue(bus);
        const gate = newGate(context);
        const started: string[] = [];
        const consumer = await bus.consume(
          queue,
          async (delivery) => {
            started.push(nameOf(delivery));
            await gate.opened;
            return "accept";
          },
          { prefetch: 1 },
        );
        await bus.publish(queue, message("first"));
        await bus.publish(queue, message("second"));
        await eventually(() => started.length === 1);
        let isClosed = false;
        const closed = consumer.close().then(() => (isClosed = true));
        await bus.ping();
        await new Promise((resolve) => setImmediate(resolve));
        assert.equal(isClosed, false);
        gate.open();
        await closed;
        assert.deepEqual(started, ["first"]);
        await untilStatus(bus, queue, { ready: 1, consumers: 0 });
      });

      test("closing a bus lets handlers end, publish included; afterwards every call is unavailable", async (context) => {
        const queue = await newQueue(bus);
        const results = await newQueue(bus);
        const closing = await underTest.open();
        const gate = newGate(context);
        const started = newGate(context);
        await closing.consume(queue, async () => {
          started.open();
          await gate.opened;
          await closing.publish(results, message("result"));
          return "accept";
        });
        await bus.publish(queue, message("work"));
        await started.opened;
        const closed = closing.close();
        gate.open();
        await closed;
        await closing.close();
        await untilStatus(bus, queue, { ready: 0, consumers: 0 });
        assert.equal((await bus.queueStatus(results))?.ready, 1);
        await assert.rejects(closing.ping(), withCode("unavailable"));
        await assert.rejects(closing.publish(results, message("late")), withCode("unavailable"));
        await assert.rejects(closing.consume(results, accept), withCode("unavailable"));
      });
    });

    testCompetingConsumers(() => ({ underTest, bus, otherBus }));
  });
}
