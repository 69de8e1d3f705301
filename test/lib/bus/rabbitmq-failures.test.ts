/** What the bus keeps of its promises while RabbitMQ stops, dies, hangs, fills up or forgets everything. */
import assert from "node:assert/strict";
import { after, afterEach, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { MessageBus } from "../../../lib/bus/message-bus.ts";
import { openRabbitMqBus, type RabbitMqBusOptions } from "../../../lib/bus/rabbitmq.ts";
import type { AppError } from "../../../lib/errors.ts";
import { accept, message, nameOf, newGate, newQueue, take, withCode } from "../../support/bus.ts";
import { eventually } from "../../support/eventually.ts";
import { skipOwnRabbitMq, startOwnRabbitMq, type OwnRabbitMq, type VirtualHost } from "../../support/rabbitmq.ts";

/** Long enough for a broker to start again on a busy machine. */
const PATIENT_MS = 90_000;
/**
 * RabbitMQ 3.10 notes a new quorum queue's name on disk only after some seconds (ra's `names.dets`); killed before, it comes back with
 * a queue that finds no leader.
 */
const YOUNG_QUEUE_MS = 6000;

describe("the bus on a RabbitMQ that fails", { skip: skipOwnRabbitMq }, () => {
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

  async function openBus(options: Partial<RabbitMqBusOptions> = {}): Promise<MessageBus> {
    const bus = await openRabbitMqBus({ url: vhost.url, deadlineMs: PATIENT_MS, ...options });
    opened.push(bus);
    return bus;
  }

  /** The management's statistics, which know the connections, come every five seconds. */
  async function cutConnections(): Promise<void> {
    await eventually(async () => (await server.cutConnections(vhost)) > 0, { timeoutMs: 20_000 });
  }

  test("publishing while the broker is away waits for it; each caller within its own time", async () => {
    const patient = await openBus();
    const hasty = await openBus({ deadlineMs: 4000 });
    const queue = await newQueue(patient);
    await server.stop();
    const waiting = patient.publish(queue, message("waited"));
    await Promise.all([
      assert.rejects(hasty.publish(queue, message("too late")), withCode("unavailable")),
      assert.rejects(hasty.ping(), withCode("unavailable")),
      assert.rejects(hasty.consume(queue, accept), withCode("unavailable")),
    ]);
    await server.start();
    await waiting;
    assert.deepEqual((await take(patient, queue, 1)).map(nameOf), ["waited"]);
  });

  test("a message that was not confirmed when the connection broke is not sent again by itself", async () => {
    const bus = await openBus();
    const queue = await newQueue(bus);
    await bus.publish(queue, message("first"));
    await sleep(YOUNG_QUEUE_MS);
    await server.pause();
    const outcome = bus.publish(queue, message("in doubt")).then(
      () => undefined,
      (error: unknown) => error,
    );
    // Sent, as far as this process can tell, before the broker dies.
    await sleep(100);
    await server.kill();
    await server.start();
    const error = await outcome;
    assert.ok(withCode("unavailable")(error));
    assert.match(String(error), /may or may not/);
    await bus.publish(queue, message("next"));
    assert.deepEqual((await take(bus, queue, 2)).map(nameOf), ["first", "next"]);
  });

  test("a handler that was under way when the connection broke settles nothing; its message comes again", async (context) => {
    const bus = await openBus();
    for (const kind of ["service", "run"] as const) {
      const queue = await newQueue(bus, { kind });
      const gate = newGate(context);
      const counts: number[] = [];
      const consumer = await bus.consume(queue, async ({ redeliveryCount }) => {
        counts.push(redeliveryCount);
        if (redeliveryCount === 0) {
          await gate.opened;
          return "reject";
        }
        return "accept";
      });
      await bus.publish(queue, message("twice"));
      await eventually(() => counts.length === 1);
      await cutConnections();
      // Also where it does not come: closing waits for the handler.
      await eventually(() => counts.length === 2).finally(() => gate.open());
      await consumer.close();
      assert.deepEqual(counts, [0, 1]);
      assert.deepEqual(await bus.deadLetters(10), [], "the first handler's word came too late");
    }
  });

  test("a broker that lost its disk gets exchanges and service queues again; a run queue is told lost", async () => {
    const bus = await openBus();
    const serviceQueue = await newQueue(bus);
    const runQueue = await newQueue(bus, { kind: "run" });
    const seen: string[] = [];
    const losses: string[] = [];
    const onLostAt = (queue: string) => (error: Error) => losses.push(`${queue} ${(error as AppError).code}`);
    const handler = async (delivery: Parameters<typeof nameOf>[0]) => {
      seen.push(nameOf(delivery));
      return "accept" as const;
    };
    await bus.consume(serviceQueue, handler, { onLost: onLostAt("service") });
    await bus.consume(runQueue, handler, { onLost: onLostAt("run") });
    await server.kill();
    await server.start({ empty: true });
    // The virtual host is the operator's; it comes back later, and meanwhile the credentials are refused.
    await server.api("PUT", `/vhosts/${vhost.name}`, {});
    await server.api("PUT", `/permissions/${vhost.name}/tester`, { configure: ".*", write: ".*", read: ".*" });
    await bus.publish(serviceQueue, message("after the loss"));
    await eventually(() => seen.length === 1, { timeoutMs: 20_000 });
    await eventually(() => losses.length === 1, { timeoutMs: 20_000 });
    assert.deepEqual(seen, ["after the loss"]);
    assert.deepEqual(losses, ["run not_found"]);
    await assert.rejects(bus.publish(runQueue, message("nowhere")), withCode("not_found"));
  });

  test("a consumer whose broker stays away is told so once, as unavailable, and its bus still comes back", async () => {
    const bus = await openBus({ unavailableAfterMs: 1000 });
    const queue = await newQueue(bus);
    const lost: Error[] = [];
    const consumer = await bus.consume(queue, accept, { onLost: (error) => lost.push(error) });
    await server.stop();
    await eventually(() => lost.length > 0, { describe: "the consumer to hear of it" });
    assert.ok(withCode("unavailable")(lost[0]));
    await server.start();
    await consumer.close();
    await bus.ping();
    await bus.publish(queue, message("still works"));
    assert.deepEqual((await take(bus, queue, 1)).map(nameOf), ["still works"]);
    assert.equal(lost.length, 1);
  });

  test("while an alarm lasts publishing waits and consuming goes on; afterwards all is there, in order", async (context) => {
    const bus = await openBus({ deadlineMs: 5000 });
    const queue = await newQueue(bus);
    for (const name of ["a", "b", "c"]) await bus.publish(queue, message(name));
    await server.ctl("set_vm_memory_high_watermark", "0.00001");
    context.after(() => server.ctl("set_vm_memory_high_watermark", "absolute", "1GB"));
    // The broker looks at its memory every second, and blocks a connection that then publishes.
    await eventually(async () => (await server.ctl("eval", "rabbit_alarm:get_alarms().")).includes("memory"), {
      describe: "the alarm",
      timeoutMs: 20_000,
    });
    const onItsWay = bus.publish(queue, message("first"));
    await eventually(
      async () => {
        const connections = (await server.api("GET", `/vhosts/${vhost.name}/connections`)) as { state: string }[];
        return connections.some(({ state }) => state === "blocked");
      },
      { describe: "the connection to be blocked", timeoutMs: 20_000, intervalMs: 200 },
    );
    const names = Array.from({ length: 100 }, (_, index) => `n${index}`);
    let confirmed = 0;
    const publishing = Promise.all(names.map((name) => bus.publish(queue, message(name)).then(() => (confirmed += 1))));
    const hasty = assert.rejects(
      bus.publish(queue, { ...message("stale"), expiresAtMs: Date.now() + 7000 }),
      (error) => {
        assert.match(String(error), /takes no messages/);
        return withCode("unavailable")(error);
      },
    );
    assert.deepEqual((await take(bus, queue, 3, 1)).map(nameOf), ["a", "b", "c"]);
    // Longer than the deadline that counts when nothing is blocked.
    await hasty;
    assert.equal(confirmed, 0);
    await server.ctl("set_vm_memory_high_watermark", "absolute", "1GB");
    await Promise.all([onItsWay, publishing]);
    assert.deepEqual((await take(bus, queue, 1 + names.length, 1)).map(nameOf), ["first", ...names]);
  });

  test("closing does not wait for a broker that hangs", async () => {
    const bus = await openRabbitMqBus({ url: vhost.url, deadlineMs: 3000 });
    const queue = await newQueue(bus);
    await bus.consume(queue, accept);
    await server.pause();
    try {
      const outcome = assert.rejects(bus.publish(queue, message("x")), withCode("unavailable"));
      const start = performance.now();
      await bus.close();
      await outcome;
      assert.ok(performance.now() - start < 20_000);
      await assert.rejects(bus.publish(queue, message("x")), withCode("unavailable"));
    } finally {
      server.resume();
    }
  });
});
