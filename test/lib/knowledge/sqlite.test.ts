import assert from "node:assert/strict";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import Database from "better-sqlite3";
import { type Clock, systemClock } from "../../../lib/clock.ts";
import { type KnowledgeStore } from "../../../lib/knowledge/knowledge-store.ts";
import { type SqliteKnowledgeStoreOptions, openSqliteKnowledgeStore } from "../../../lib/knowledge/sqlite.ts";
import { eventually } from "../../support/eventually.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

// What is particular to SQLite; what every store does is in test/contract/knowledge-store.contract.ts.

async function newPath(): Promise<string> {
  return join(await temporaryFolder(), "knowledge.db");
}

async function open(context: TestContext, options: SqliteKnowledgeStoreOptions): Promise<KnowledgeStore> {
  const store = await openSqliteKnowledgeStore(options);
  context.after(() => store.close());
  return store;
}

/** Rows of the file itself, seen through a connection of its own. */
function query<Row>(path: string, sql: string): Row[] {
  const database = new Database(path);
  try {
    return database.prepare<[], Row>(sql).all();
  } finally {
    database.close();
  }
}

test("what was stored is there when the file is opened again, and the revision goes on", async (context) => {
  const path = await newPath();
  const first = await openSqliteKnowledgeStore({ path });
  const revision = await first.put("/a", "kept");
  await first.close();
  const second = await open(context, { path });
  assert.deepEqual(await second.get("/a"), { key: "/a", value: "kept", revision });
  assert.equal(await second.put("/a", "more"), revision + 1);
});

test("many handles that open a new file at once all get the same store", async (context) => {
  const path = await newPath();
  const stores = await Promise.all(Array.from({ length: 10 }, () => open(context, { path })));
  await Promise.all(stores.map((store, index) => store.put(`/${index}`, index)));
  for (const store of stores) assert.equal((await store.list("/")).documents.length, 10);
});

test("a file that is no SQLite file, or damaged, or a folder, is reported as unavailable", async () => {
  const path = await newPath();
  await writeFile(path, "This is not a database. ".repeat(100));
  await assert.rejects(openSqliteKnowledgeStore({ path }), { code: "unavailable", message: /not a database/ });
  await mkdir(`${path}.folder`);
  await assert.rejects(openSqliteKnowledgeStore({ path: `${path}.folder` }), { code: "unavailable" });
  await assert.rejects(openSqliteKnowledgeStore({ path: join(path, "below-a-file.db") }), { code: "unavailable" });
});

test("a file of another program, or of another version, is left alone", async () => {
  const path = await newPath();
  const other = new Database(path);
  other.exec("CREATE TABLE theirs (a)");
  other.close();
  await assert.rejects(openSqliteKnowledgeStore({ path }), {
    code: "configuration_invalid",
    message: /another program/,
  });
  assert.deepEqual(query(path, "SELECT name FROM sqlite_schema"), [{ name: "theirs" }]);

  const newer = await newPath();
  await (await openSqliteKnowledgeStore({ path: newer })).close();
  const database = new Database(newer);
  database.pragma("user_version = 99");
  database.close();
  await assert.rejects(openSqliteKnowledgeStore({ path: newer }), {
    code: "configuration_invalid",
    message: /version 99/,
  });
});

test("damage that shows later fails calls and watches as unavailable, and does not hang them", async (context) => {
  const path = await newPath();
  const store = await open(context, { path });
  const { revision } = await store.list("/");
  const watching = (async () => {
    for await (const _change of store.watch("/", revision)) assert.fail("there is nothing to tell");
  })();
  const saboteur = new Database(path);
  saboteur.exec("DROP TABLE changes; DROP TABLE documents");
  saboteur.close();
  await assert.rejects(watching, { code: "unavailable" });
  await assert.rejects(store.get("/a"), { code: "unavailable" });
  await assert.rejects(store.put("/a", 1), { code: "unavailable" });
});

test("waiting for another process's lock does not hold up the rest of the process", async (context) => {
  const path = await newPath();
  const store = await open(context, { path });
  const other = new Database(path);
  other.exec("BEGIN IMMEDIATE");
  let turningSince = performance.now();
  let lastTurn = turningSince;
  const turns = setInterval(() => {
    const now = performance.now();
    if (now - lastTurn > 250) turningSince = now;
    lastTurn = now;
  }, 1);
  try {
    const waiting = store.put("/a", 1);
    // Where the machine has no time the loop may stand still now and then. Where a try for the lock stops it, it does so at
    // each, and there are many in half a second.
    await eventually(() => lastTurn - turningSince > 500, {
      describe: "the event loop to turn while the lock is held",
    });
    assert.equal(await store.get("/a"), undefined, "reads do not wait");
    other.exec("ROLLBACK");
    await waiting;
  } finally {
    clearInterval(turns);
    other.close();
  }
});

test("the log of changes stays within its limits, by number and by bytes", async (context) => {
  const path = await newPath();
  const store = await open(context, { path, keepChanges: 100, keepBytes: 1_000_000 });
  for (let count = 0; count < 500; count++) await store.put("/small", count);
  const [byNumber] = query<{ changes: number }>(path, "SELECT count(*) AS changes FROM changes");
  assert.ok(byNumber && byNumber.changes >= 100 && byNumber.changes <= 110, `${byNumber?.changes} changes are kept`);
  for (let count = 0; count < 30; count++) await store.put("/large", "x".repeat(100_000));
  const [byBytes] = query<{ bytes: number; counted: number }>(
    path,
    "SELECT sum(bytes) AS bytes, (SELECT log_bytes FROM counters) AS counted FROM changes",
  );
  assert.ok(byBytes && byBytes.bytes <= 1_000_000, `${byBytes?.bytes} bytes are kept`);
  assert.equal(byBytes.bytes, byBytes.counted);
});

test("a watch that falls behind a small log again and again still ends with the right documents", async (context) => {
  const path = await newPath();
  const [reader, writer] = [await open(context, { path }), await open(context, { path, keepChanges: 5 })];
  const seen = new Map<string, unknown>();
  const watch = reader.watch("/", 0);
  const reading = (async () => {
    for await (const change of watch) {
      if (change.type === "put") seen.set(change.document.key, change.document.value);
      else assert.ok(seen.delete(change.key), `${change.key} was deleted without ever having been there`);
    }
  })();
  for (let count = 0; count < 300; count++) {
    await writer.put(`/${count % 7}`, count);
    if (count % 3 === 0) await writer.delete(`/${(count + 2) % 7}`);
    await new Promise((resolve) => setImmediate(resolve));
  }
  const { documents } = await reader.list("/");
  const expected = new Map(documents.map(({ key, value }) => [key, value]));
  await eventually(() => assert.deepEqual(new Map([...seen].sort()), expected) === undefined);
  await watch.close();
  await reading;
});

test("a lease counts as ended when its time is over, even if nobody has swept it yet", async (context) => {
  // A clock that only this test moves: the sweeper sees no time pass until then.
  const moved = { byMs: 0 };
  const clock: Clock = { now: () => 1_000_000 + moved.byMs, sleep: (ms, signal) => systemClock.sleep(ms, signal) };
  const store = await open(context, { path: await newPath(), clock });
  const lease = await store.grantLease({ ttlMs: 10_000, renewal: "manual" });
  await store.put("/a", 1, { lease });
  moved.byMs = 9_999;
  await lease.renew();
  moved.byMs = 19_998;
  await (await store.attachLease(lease.id)).renew();
  moved.byMs += 10_000;
  await assert.rejects(store.attachLease(lease.id), { code: "not_found" });
  await assert.rejects(store.put("/b", 1, { lease }), { code: "not_found" });
  await assert.rejects(lease.renew(), { code: "not_found" });
  await lease.lost;
  assert.equal(await store.get("/a"), undefined);
});

test("the message of a failed precondition names both revisions, and not the key, which may hold a person's name", async (context) => {
  const store = await open(context, { path: await newPath() });
  await store.put("/agents/jobs/VU/jane%40example.org/j", 1);
  await assert.rejects(
    store.put("/agents/jobs/VU/jane%40example.org/j", 2, { ifRevision: 0 }),
    (error: Error) =>
      /no such document was demanded, revision 1 was found/.test(error.message) && !/jane/.test(error.message),
  );
});
