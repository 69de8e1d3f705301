/** What the embedded bus promises beyond the port's contract: its file, its locks, and other processes. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import Database from "better-sqlite3";
import { openEmbeddedBus, type EmbeddedBusOptions } from "../../../lib/bus/embedded.ts";
import { QueueTables } from "../../../lib/bus/embedded-tables.ts";
import type { MessageBus, Settlement } from "../../../lib/bus/message-bus.ts";
import { openMessageBus } from "../../../lib/bus/open.ts";
import { systemClock, type Clock } from "../../../lib/clock.ts";
import { accept, message, nameOf, newGate, newQueue, take, withCode } from "../../support/bus.ts";
import { eventually } from "../../support/eventually.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

/** A bus that is closed at the latest when the test ends. */
async function openBus(context: TestContext, options: EmbeddedBusOptions): Promise<MessageBus> {
  const bus = await openEmbeddedBus(options);
  // Not waited for: hooks run in the order of registration, and handlers may wait for gates that open after this.
  context.after(() => void bus.close());
  return bus;
}

const CHUNK = Buffer.alloc(256 * 1024, 1);

test("the file and its folder are made, readable by their owner only", async (context) => {
  const path = join(await temporaryFolder(), "new", "bus.sqlite");
  const bus = await openBus(context, { path });
  await newQueue(bus);
  for (const file of [path, `${path}-wal`]) assert.equal(statSync(file).mode & 0o077, 0, file);
  await bus.close();
  assert.ok(!existsSync(`${path}-wal`), "the last one to close leaves one file");
});

test("a path that cannot be a file is unavailable, and so is a file that is no database", async () => {
  const path = join(await temporaryFolder(), "text");
  writeFileSync(path, "no database ".repeat(1000));
  await assert.rejects(openEmbeddedBus({ path }), withCode("unavailable"));
  await assert.rejects(openEmbeddedBus({ path: join(path, "bus.sqlite") }), withCode("unavailable"));
});

test("a file of another format is refused by name", async () => {
  const path = join(await temporaryFolder(), "bus.sqlite");
  const db = new Database(path);
  db.pragma("user_version = 99");
  db.close();
  await assert.rejects(openEmbeddedBus({ path }), (error) => {
    assert.match(String(error), /format 99/);
    return withCode("configuration_invalid")(error);
  });
});

test("four processes that make one new file at once all publish into it", async (context) => {
  const path = join(await temporaryFolder(), "bus.sqlite");
  const program = new URL("../../support/publishing-process.js", import.meta.url).pathname;
  const exits = Array.from({ length: 4 }, () =>
    once(spawn(process.execPath, [program, `embedded:${path}`, "shared", "50"], { stdio: "inherit" }), "exit"),
  );
  assert.deepEqual(
    (await Promise.all(exits)).map(([code]) => code as number),
    [0, 0, 0, 0],
  );
  const bus = await openBus(context, { path });
  const names = (await take(bus, "shared", 200)).map(nameOf);
  await bus.close();
  const ordersByProcess = new Map<string, number[]>();
  for (const name of names) {
    const [pid = "", index] = name.split("/");
    ordersByProcess.set(pid, [...(ordersByProcess.get(pid) ?? []), Number(index)]);
  }
  const inOrder = Array.from({ length: 50 }, (_, index) => index);
  assert.deepEqual([...ordersByProcess.values()], [inOrder, inOrder, inOrder, inOrder]);
});

test("the file does not grow with what goes through it", async (context) => {
  const path = join(await temporaryFolder(), "bus.sqlite");
  const bus = await openBus(context, { path });
  const queue = await newQueue(bus);
  let received = 0;
  const consumer = await bus.consume(queue, async () => {
    received += 1;
    return "accept";
  });
  for (let sent = 0; sent < 256; sent += 8) {
    await Promise.all(Array.from({ length: 8 }, () => bus.publish(queue, { type: "frame", body: CHUNK })));
    await eventually(() => received === sent + 8, { intervalMs: 1 });
  }
  await consumer.close();
  const megabytes = (statSync(path).size + statSync(`${path}-wal`).size) / 2 ** 20;
  await bus.close();
  assert.ok(megabytes < 40, `64 MiB went through; file and log have ${megabytes.toFixed(1)} MiB`);
});

test("what a burst left free can be given back to the file system", async (context) => {
  const path = join(await temporaryFolder(), "bus.sqlite");
  const bus = await openBus(context, { path });
  const queue = await newQueue(bus);
  await Promise.all(Array.from({ length: 40 }, () => bus.publish(queue, { type: "frame", body: CHUNK })));
  await bus.deleteQueue(queue);
  await bus.close();
  const before = statSync(path).size;
  const db = new Database(path);
  const tables = new QueueTables(db);
  assert.ok(tables.freeBytes() > 10e6);
  tables.shrink(10_000);
  db.close();
  assert.ok(statSync(path).size < before / 10);
});

test("a full file is unavailable to publishers, loses nothing confirmed, and leaves room to settle", async (context) => {
  const path = join(await temporaryFolder(), "bus.sqlite");
  const bus = await openMessageBus(`embedded:${path}?maxBytes=${String(4 * 2 ** 20)}`);
  context.after(() => bus.close());
  const queue = await newQueue(bus);
  const outcomes = await Promise.allSettled(
    Array.from({ length: 30 }, (_, index) => bus.publish(queue, { type: "frame", body: CHUNK, messageId: `${index}` })),
  );
  const refused = outcomes.filter((outcome) => outcome.status === "rejected");
  for (const { reason } of refused) {
    assert.ok(withCode("unavailable")(reason));
    assert.match(String(reason), /full.*maxBytes/);
  }
  const confirmed = [...outcomes.keys()].filter((index) => outcomes[index]?.status === "fulfilled");
  assert.ok(confirmed.length >= 10 && refused.length > 0, `${confirmed.length} confirmed`);
  const received = await take(bus, queue, confirmed.length);
  assert.deepEqual(
    received.map(({ messageId }) => Number(messageId)),
    confirmed,
  );
  await bus.publish(queue, message("there is room again"));
  assert.deepEqual(await bus.queueStatus(queue), { ready: 1, consumers: 0 });
  await bus.close();
});

test("while another process holds the lock a call waits without blocking this one, up to its deadline", async (context) => {
  const path = join(await temporaryFolder(), "bus.sqlite");
  const bus = await openBus(context, { path, deadlineMs: 1000 });
  const queue = await newQueue(bus);
  const holder = new Database(path);
  holder.exec("BEGIN IMMEDIATE");
  let ticks = 0;
  const ticker = setInterval(() => (ticks += 1), 5);
  context.after(() => clearInterval(ticker));
  await assert.rejects(bus.publish(queue, message("too late")), withCode("unavailable"));
  clearInterval(ticker);
  assert.ok(ticks > 10, `${ticks} ticks of the event loop while waiting`);
  const inTime = bus.publish(queue, message("in time"));
  holder.exec("COMMIT");
  holder.close();
  await inTime;
  assert.deepEqual((await take(bus, queue, 1)).map(nameOf), ["in time"]);
  await bus.close();
});

test("a bus that others took for dead loses what it held, and goes on under a new name", async (context) => {
  const path = join(await temporaryFolder(), "bus.sqlite");
  const bus = await openBus(context, { path });
  const queue = await newQueue(bus);
  const gates = [newGate(context), newGate(context)];
  const counts: number[] = [];
  const consumer = await bus.consume(queue, async ({ redeliveryCount }): Promise<Settlement> => {
    counts.push(redeliveryCount);
    await gates[redeliveryCount]?.opened;
    return redeliveryCount === 0 ? "reject" : "accept";
  });
  await bus.publish(queue, message("disputed"));
  await eventually(() => counts.length === 1);

  const other = new Database(path);
  const tables = new QueueTables(other);
  for (const { id } of tables.instances()) tables.removeInstance(id, Date.now());
  await eventually(() => counts.length === 2, { describe: "the message to come again" });
  gates[0]?.open();
  // A later call is stored after the first handler's settlement.
  await newQueue(bus);
  assert.deepEqual(await bus.queueStatus(queue), { ready: 0, consumers: 1 });
  gates[1]?.open();
  await consumer.close();
  assert.deepEqual(counts, [0, 1]);
  assert.deepEqual(await bus.deadLetters(10), [], "the first handler's word came too late");
  await bus.close();
  assert.deepEqual(tables.instances(), []);
  other.close();
});

test("consumers of a bus that stays out of reach are told that it is unavailable", async (context) => {
  const path = join(await temporaryFolder(), "bus.sqlite");
  let aheadMs = 0;
  const clock: Clock = { now: () => Date.now() + aheadMs, sleep: (ms, signal) => systemClock.sleep(ms, signal) };
  const bus = await openBus(context, { path, clock });
  const queue = await newQueue(bus);
  const lost: unknown[] = [];
  await bus.consume(queue, accept, { onLost: (error) => lost.push(error) });
  const holder = new Database(path);
  holder.exec("BEGIN IMMEDIATE");
  // Minutes pass while the lock is held.
  const minutes = setInterval(() => (aheadMs += 11_000), 50);
  context.after(() => clearInterval(minutes));
  await eventually(() => lost.length > 0, { describe: "the consumer to hear of it" });
  assert.ok(withCode("unavailable")(lost[0]));
  await assert.rejects(bus.ping(), withCode("unavailable"));
  await bus.close();
  assert.equal(lost.length, 1);
  holder.close();
});

test("dead letters are kept up to a bound of number and bytes; the oldest go", async (context) => {
  const path = join(await temporaryFolder(), "bus.sqlite");
  const bus = await openBus(context, { path });
  const queue = await newQueue(bus);
  for (const name of ["one", "two", "three", "four"]) await bus.publish(queue, message(name));
  await take(bus, queue, 4, 1, "reject");
  const db = new Database(path);
  const tables = new QueueTables(db);
  const names = (): string[] => tables.deadLetters(10).map((letter) => nameOf(letter.message));
  assert.ok(!tables.areDeadLettersOver(4, 15));
  tables.trimDeadLetters(4, 15);
  assert.deepEqual(names(), ["one", "two", "three", "four"]);
  tables.trimDeadLetters(3, 1000);
  assert.deepEqual(names(), ["two", "three", "four"]);
  assert.ok(tables.areDeadLettersOver(4, 9));
  tables.trimDeadLetters(4, 9);
  assert.deepEqual(names(), ["three", "four"]);
  db.close();
  await bus.close();
});
