/** What the bus through a sidecar promises beyond the port's contract: it heals when the sidecar goes, comes late, or stalls. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import Database from "better-sqlite3";
import type { MessageBus } from "../../../lib/bus/message-bus.ts";
import { openMessageBus } from "../../../lib/bus/open.ts";
import { openSidecarBus, type SidecarBusOptions } from "../../../lib/bus/sidecar.ts";
import { parseRpcAddress } from "../../../lib/rpc/address.ts";
import { accept, message, nameOf, newGate, newQueue, take, withCode } from "../../support/bus.ts";
import { eventually } from "../../support/eventually.ts";
import { startMessagingSidecar, type MessagingSidecar } from "../../support/messaging-sidecar.ts";
import { pauseProcess, resumeProcess } from "../../support/pause-process.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

/** A bus file, and where its sidecar listens; the test starts sidecars there, which end at the latest with the test. */
async function newPlace(context: TestContext) {
  const folder = await temporaryFolder();
  const file = join(folder, "bus.sqlite");
  const listen = `unix:${join(folder, "sidecar.sock")}`;
  return {
    file,
    url: `sidecar:${listen}`,
    start: async (settings: Readonly<Record<string, string>> = {}): Promise<MessagingSidecar> => {
      const sidecar = await startMessagingSidecar(`embedded:${file}`, listen, settings);
      context.after(() => void sidecar.end("SIGKILL"));
      return sidecar;
    },
    open: (options: Omit<SidecarBusOptions, "address"> = {}): Promise<MessageBus> =>
      openSidecarBus({ address: parseRpcAddress(listen), ...options }),
  };
}

test("a sidecar that is killed and started again: consumers go on, calls wait, and no confirmed message is lost", async (t) => {
  const place = await newPlace(t);
  let sidecar = await place.start();
  const bus = await place.open();
  const queue = await newQueue(bus);
  const seen = new Set<string>();
  const lost: Error[] = [];
  const consumer = await bus.consume(
    queue,
    async (delivery) => {
      seen.add(nameOf(delivery));
      return "accept";
    },
    { onLost: (error) => lost.push(error) },
  );
  const confirmed: string[] = [];
  const failures: unknown[] = [];
  let isOver = false;
  const publishing = (async () => {
    for (let index = 0; !isOver; index++) {
      await bus.publish(queue, message(`${index}`)).then(
        () => confirmed.push(`${index}`),
        (error: unknown) => failures.push(error),
      );
    }
  })();
  for (let kill = 0; kill < 3; kill++) {
    const before = seen.size;
    await eventually(() => seen.size > before + 20, { describe: "messages to flow" });
    await sidecar.end("SIGKILL");
    const status = bus.queueStatus(queue);
    sidecar = await place.start();
    assert.equal((await status)?.consumers !== undefined, true, "the call waited");
  }
  const before = seen.size;
  await eventually(() => seen.size > before + 20, { describe: "messages to flow again" });
  isOver = true;
  await publishing;
  await eventually(() => confirmed.every((name) => seen.has(name)), { describe: "all that was confirmed to arrive" });
  assert.ok(failures.length <= 3, `${failures.length} publishes failed; one may have been under way at each kill`);
  for (const failure of failures) withCode("unavailable")(failure);
  assert.deepEqual(lost, []);
  await consumer.close();
  await bus.close();
  assert.equal(await sidecar.end(), 0);
});

test("many publishes under way when the sidecar is killed fail or are confirmed, and those not sent yet arrive in order", async (t) => {
  const place = await newPlace(t);
  const sidecar = await place.start();
  const bus = await place.open();
  const queue = await newQueue(bus);
  const names = Array.from({ length: 400 }, (_, index) => `${index}`);
  const body = Buffer.alloc(256 * 1024);
  const outcomes = names.map((name) =>
    bus.publish(queue, { type: "frame", body, messageId: name }).then(
      () => "confirmed",
      (error: unknown) => (withCode("unavailable")(error) ? "unavailable" : ""),
    ),
  );
  await outcomes[50];
  await sidecar.end("SIGKILL");
  await place.start();
  const states = await Promise.all(outcomes);
  const failed = states.filter((state) => state === "unavailable").length;
  assert.ok(failed > 0 && failed < 300, `${failed} were under way`);
  const ids: number[] = [];
  const consumer = await bus.consume(queue, async ({ messageId }) => {
    ids.push(Number(messageId));
    return "accept";
  });
  const confirmed = names.filter((_, index) => states[index] === "confirmed").map(Number);
  await eventually(() => confirmed.every((name) => ids.includes(name)), {
    timeoutMs: 30_000,
    describe: "all that was confirmed to arrive",
  });
  await consumer.close();
  assert.deepEqual(
    ids,
    [...ids].sort((a, b) => a - b),
  );
  await bus.close();
});

test("what a client publishes without waiting is held back by the sidecar, which stays small", async (t) => {
  const place = await newPlace(t);
  const sidecar = await place.start();
  const bus = await place.open();
  const queue = await newQueue(bus);
  await bus.publish(queue, message("warm"));
  const body = Buffer.alloc(1024 * 1024);
  await Promise.all(Array.from({ length: 300 }, () => bus.publish(queue, { type: "frame", body })));
  const peak = Number(/^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${sidecar.pid}/status`, "utf8"))?.[1]) / 1024;
  assert.ok(peak < 200, `300 MiB went through a process that reached ${peak.toFixed(0)} MiB`);
  await bus.deleteQueue(queue);
  await bus.close();
});

test("a bus waits for a sidecar that starts after it, and says so when none comes", async (t) => {
  const place = await newPlace(t);
  await assert.rejects(place.open({ connectLimitMs: 200 }), (error) => {
    assert.match(String(error), /messaging sidecar at unix:.*200 ms/);
    return withCode("unavailable")(error);
  });
  const opening = openMessageBus(place.url);
  await place.start();
  const bus = await opening;
  await bus.ping();
  await bus.close();
});

test("calls fail with unavailable at their deadline while the sidecar is away, and a consumer that cannot come back is lost", async (t) => {
  const place = await newPlace(t);
  const sidecar = await place.start();
  const bus = await place.open({ deadlineMs: 2000, giveUpAfterMs: 3000 });
  const queue = await newQueue(bus);
  const lost: Error[] = [];
  const consumer = await bus.consume(queue, accept, { onLost: (error) => lost.push(error) });
  await sidecar.end("SIGKILL");
  await Promise.all([
    assert.rejects(bus.ping(), withCode("unavailable")),
    assert.rejects(bus.publish(queue, message("x")), withCode("unavailable")),
    assert.rejects(bus.consume(queue, accept), withCode("unavailable")),
    assert.rejects(bus.deadLetters(1), withCode("unavailable")),
    assert.rejects(bus.replayDeadLetter("1"), withCode("unavailable")),
  ]);
  await eventually(() => lost.length > 0, { describe: "the consumer to give up" });
  assert.equal(lost.length, 1);
  withCode("unavailable")(lost[0]);
  await consumer.close();
  await bus.close();
});

test("a sidecar that is frozen fails what was sent to it, and goes on when it is thawed", async (t) => {
  const place = await newPlace(t);
  const sidecar = await place.start();
  const bus = await place.open({ deadlineMs: 2000 });
  const queue = await newQueue(bus);
  const names: string[] = [];
  const consumer = await bus.consume(queue, async (delivery) => {
    names.push(nameOf(delivery));
    return "accept";
  });
  await pauseProcess(sidecar.pid);
  await assert.rejects(bus.publish(queue, message("into the ice")), withCode("unavailable"));
  resumeProcess(sidecar.pid);
  await eventually(() => bus.publish(queue, message("thawed")).then(() => true));
  await eventually(() => names.includes("thawed"));
  await consumer.close();
  await bus.close();
});

test("a message waits beyond the deadline as long as the sidecar says that the bus takes its time", async (t) => {
  const place = await newPlace(t);
  await place.start();
  const bus = await place.open({ deadlineMs: 4000 });
  const queue = await newQueue(bus);
  const holder = new Database(place.file);
  holder.exec("BEGIN IMMEDIATE");
  const startedAt = performance.now();
  const published = bus.publish(queue, message("patient"));
  let isPublished = false;
  void published.then(() => (isPublished = true));
  // Well beyond the deadline, within which a sign of life comes each second; and well before the sidecar itself gives up.
  await eventually(() => performance.now() - startedAt > 6000);
  assert.equal(isPublished, false);
  holder.exec("COMMIT");
  holder.close();
  await published;
  await bus.close();
});

test("handlers that still run when the sidecar goes keep their slots, and what they decide has no effect", async (t) => {
  const place = await newPlace(t);
  const sidecar = await place.start();
  const bus = await place.open();
  const queue = await newQueue(bus);
  for (const name of ["a", "b", "c"]) await bus.publish(queue, message(name));
  const gate = newGate(t);
  const seen: string[] = [];
  let running = 0;
  let most = 0;
  const consumer = await bus.consume(
    queue,
    async (delivery) => {
      seen.push(`${nameOf(delivery)}${delivery.redeliveryCount}`);
      most = Math.max(most, ++running);
      await gate.opened;
      running--;
      return "accept";
    },
    { prefetch: 2 },
  );
  await eventually(() => running === 2);
  await sidecar.end("SIGKILL");
  await place.start();
  await eventually(async () => {
    const status = await bus.queueStatus(queue);
    return status?.ready === 1 && status.consumers === 1;
  });
  assert.equal(running, 2);
  gate.open();
  await eventually(() => seen.length === 5);
  await consumer.close();
  assert.equal(most, 2);
  assert.deepEqual(seen, ["a0", "b0", "a1", "b1", "c0"]);
  assert.equal((await bus.queueStatus(queue))?.ready, 0);
  await bus.close();
});

test("a queue that was deleted while the sidecar was away is not_found to its consumer", async (t) => {
  const place = await newPlace(t);
  const sidecar = await place.start();
  const bus = await place.open();
  const queue = await newQueue(bus);
  const lost: Error[] = [];
  const consumer = await bus.consume(queue, accept, { onLost: (error) => lost.push(error) });
  await sidecar.end("SIGKILL");
  const direct = await openMessageBus(`embedded:${place.file}`);
  await direct.deleteQueue(queue);
  await direct.close();
  await place.start();
  await eventually(() => lost.length > 0);
  withCode("not_found")(lost[0]);
  await consumer.close();
  await bus.close();
});

test("a bus closes although its sidecar is away, and its consumers' handlers end first", async (t) => {
  const place = await newPlace(t);
  const sidecar = await place.start();
  const bus = await place.open();
  const queue = await newQueue(bus);
  await bus.publish(queue, message("held"));
  const gate = newGate(t);
  const started = newGate(t);
  let isHandled = false;
  await bus.consume(queue, async () => {
    started.open();
    await gate.opened;
    isHandled = true;
    return "accept";
  });
  await started.opened;
  await sidecar.end("SIGKILL");
  const closed = bus.close();
  gate.open();
  await closed;
  assert.ok(isHandled);
  await place.start();
  const direct = await openMessageBus(`embedded:${place.file}`);
  assert.deepEqual(
    (await take(direct, queue, 1)).map((delivery) => delivery.redeliveryCount),
    [1],
  );
  await direct.close();
});
