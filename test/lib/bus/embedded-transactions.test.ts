/** Work that was gathered into one transaction: what it waits for, and what becomes of each piece. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import Database from "better-sqlite3";
import { TransactionQueue } from "../../../lib/bus/embedded-transactions.ts";
import { systemClock } from "../../../lib/clock.ts";
import { AppError } from "../../../lib/errors.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

const KIB = 1024;
const DEADLINE_MS = 60_000;

/** A queue over a file with one table; time passes, and timers end, only when the test says so. */
async function openQueue(context: TestContext) {
  let nowMs = 1_000;
  context.mock.timers.enable({ apis: ["setTimeout"] });
  context.mock.method(performance, "now", () => nowMs);
  const path = join(await temporaryFolder(), "transactions.sqlite");
  const db = new Database(path, { timeout: 0 });
  db.pragma("journal_mode = WAL");
  db.pragma("foreign_keys = ON");
  db.exec(`CREATE TABLE piece (name TEXT PRIMARY KEY);
    CREATE TABLE part (piece TEXT REFERENCES piece (name) DEFERRABLE INITIALLY DEFERRED);`);
  const other = new Database(path, { timeout: 0 });
  context.after(() => [db, other].forEach((each) => each.close()));
  const queue = new TransactionQueue(db, systemClock, DEADLINE_MS);
  const write = (name: string): void => void db.prepare("INSERT INTO piece VALUES (?)").run(name);
  return {
    db,
    other,
    queue,
    write,
    run: (name: string, bytes = 10) => queue.run(() => write(name), { bytes }),
    /** What another process sees. */
    seen: () => other.prepare("SELECT name FROM piece ORDER BY rowid").pluck().all(),
    pass: (ms: number) => {
      nowMs += ms;
    },
    endTimers: (ms: number) => {
      nowMs += ms;
      context.mock.timers.tick(ms);
    },
  };
}

/** What is to happen at once has happened. */
async function turns(): Promise<void> {
  for (let turn = 0; turn < 5; turn++) await new Promise((resolve) => setImmediate(resolve));
}

test("a piece that comes just after a commit waits two milliseconds for others, and is confirmed once others see it", async (context) => {
  const { queue, write, run, seen, endTimers } = await openQueue(context);
  await run("first");
  const confirmed: string[] = [];
  const publish = async (name: string) => {
    await queue.run(() => {
      write(name);
      assert.deepEqual(seen(), ["first"], "one transaction for all");
    });
    assert.ok(seen().includes(name), "confirmed before its commit");
    confirmed.push(name);
  };
  const both = [publish("second"), publish("third")];
  await turns();
  assert.deepEqual(confirmed, []);
  endTimers(2);
  await Promise.all(both);
  assert.deepEqual(seen(), ["first", "second", "third"]);
});

test("a piece whose commit fails is not confirmed, and those gathered with it are", async (context) => {
  const { db, queue, run, seen, endTimers } = await openQueue(context);
  await run("first");
  const without = queue.run(() => void db.prepare("INSERT INTO part VALUES ('no such piece')").run());
  const refused = assert.rejects(without, { code: "unavailable" });
  const other = run("second");
  endTimers(2);
  await refused;
  await other;
  assert.deepEqual(seen(), ["first", "second"]);
});

test("the error of one piece leaves the others of its transaction alone", async (context) => {
  const { queue, write, run, seen, endTimers } = await openQueue(context);
  await run("first");
  let writes = 0;
  const before = queue.run(() => {
    write("second");
    writes += 1;
  });
  const failing = queue.run(() => {
    throw new AppError("not_found", "There is no such queue.");
  });
  const refused = assert.rejects(failing, { code: "not_found" });
  const after = run("third");
  endTimers(2);
  await Promise.all([before, refused, after]);
  assert.deepEqual(seen(), ["first", "second", "third"]);
  assert.equal(writes, 1, "the transaction was rolled back and done again");
});

test("a large piece behind a small one does not wait for the timer, and takes the small one along", async (context) => {
  const { run, seen } = await openQueue(context);
  await run("first");
  void run("small");
  await turns();
  assert.deepEqual(seen(), ["first"]);
  void run("chunk", 256 * KIB);
  void run("next chunk", 256 * KIB);
  await turns();
  assert.deepEqual(seen(), ["first", "small", "chunk", "next chunk"]);
});

test("pieces that are large together do not wait for the timer, and those after them wait anew", async (context) => {
  const { run, seen } = await openQueue(context);
  await run("first");
  void run("second", 40 * KIB);
  await turns();
  assert.deepEqual(seen(), ["first"]);
  void run("third", 40 * KIB);
  await turns();
  assert.deepEqual(seen(), ["first", "second", "third"]);
  void run("fourth", 40 * KIB);
  await turns();
  assert.deepEqual(seen(), ["first", "second", "third"]);
});

test("a piece that comes when the time is over does not wait for a timer that is late", async (context) => {
  const { run, seen, pass } = await openQueue(context);
  await run("first");
  void run("second");
  pass(3);
  void run("third");
  await turns();
  assert.deepEqual(seen(), ["first", "second", "third"]);
});

test("a large piece does not hurry what waits for another's lock", async (context) => {
  const { other, run, seen, endTimers } = await openQueue(context);
  other.exec("BEGIN IMMEDIATE");
  void run("first");
  await turns();
  other.exec("ROLLBACK");
  void run("chunk", 256 * KIB);
  await turns();
  assert.deepEqual(seen(), []);
  endTimers(1);
  await turns();
  assert.deepEqual(seen(), ["first", "chunk"]);
});
