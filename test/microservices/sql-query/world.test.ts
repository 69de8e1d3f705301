import assert from "node:assert/strict";
import { readdir } from "node:fs/promises";
import { basename, join } from "node:path";
import { test } from "node:test";
import Database from "better-sqlite3";
import { systemClock, type Clock } from "../../../lib/clock.ts";
import { createTableSql } from "../../../lib/data/sqlite-tables.ts";
import { AppError } from "../../../lib/errors.ts";
import type { DataSet } from "../../../lib/model/dataset.ts";
import type { World } from "../../../microservices/sql-query/query-process.ts";
import {
  openWorld,
  WorldMemory,
  type DataSetSource,
  type WorldOptions,
} from "../../../microservices/sql-query/world.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

const whole: DataSet = {
  name: "whole",
  type: "csv",
  tables: [
    {
      name: "People",
      columns: [
        { name: "number", type: { type: "text" } },
        { name: "age", type: { type: "integer" } },
        { name: "pay", type: { type: "decimal", precision: 9, scale: 2 } },
      ],
    },
    { name: "Jobs", columns: [{ name: "title", type: { type: "text" } }] },
  ],
  sensitive_columns: {},
};

function granting(dataSet: DataSet, grant: Record<string, readonly string[]>): DataSet {
  const tables = dataSet.tables
    .filter(({ name }) => name in grant)
    .map(({ name, columns }) => ({ name, columns: columns.filter((column) => grant[name]?.includes(column.name)) }));
  return { ...dataSet, tables };
}

async function makeSource(
  name = "whole",
  sql = whole.tables.map((table) => createTableSql(table)).join(";"),
): Promise<DataSetSource> {
  const path = join(await temporaryFolder(), `${name}.sqlite`);
  const database = new Database(path);
  database.exec(`${sql}; INSERT INTO People VALUES ('007', 42, 10.25)`);
  database.close();
  return { name, path, contentHash: `hash of ${name}` };
}

async function options(more: Partial<WorldOptions> = {}): Promise<WorldOptions> {
  return { cacheFolder: await temporaryFolder(), clock: systemClock, signal: new AbortController().signal, ...more };
}

function contentOf(path: string): { objects: unknown[]; people: unknown } {
  const database = new Database(path, { readonly: true });
  try {
    return {
      objects: database.prepare("SELECT name FROM sqlite_schema ORDER BY name").pluck().all(),
      people: database.prepare("SELECT * FROM People").get(),
    };
  } finally {
    database.close();
  }
}

async function worldsIn(folder: string): Promise<string[]> {
  return (await readdir(folder)).filter((name) => name.endsWith(".sqlite"));
}

test("a data set of which all is granted is opened as it is", async () => {
  const source = await makeSource();
  const world = await openWorld([whole], [source], await options());
  assert.equal(world.path, source.path);
});

test("otherwise the world is a file with the granted tables and columns, and nothing else", async () => {
  const source = await makeSource();
  const granted = granting(whole, { People: ["age", "pay"] });
  const world = await openWorld([granted], [source], await options());
  assert.notEqual(world.path, source.path);
  assert.deepEqual(contentOf(world.path), { objects: ["People"], people: { age: 42, pay: 10.25 } });
  assert.deepEqual(world.dataSets, [granted]);
});

const whatElse: readonly [name: string, sql: string][] = [
  ["another table", "CREATE TABLE Secrets (x)"],
  ["a view", "CREATE VIEW Secrets AS SELECT 1"],
  ["an index", "CREATE INDEX i ON People (age)"],
  ["statistics", "ANALYZE"],
  ["another column", "ALTER TABLE People ADD COLUMN secret TEXT DEFAULT 'x'"],
  ["a hidden column", "ALTER TABLE People ADD COLUMN secret TEXT AS (number || 'x')"],
];

for (const [name, sql] of whatElse) {
  test(`a file that has ${name} besides what is granted is not opened as it is`, async () => {
    const source = await makeSource();
    const database = new Database(source.path);
    database.exec(sql);
    database.close();
    const world = await openWorld([whole], [source], await options());
    assert.notEqual(world.path, source.path);
    assert.deepEqual(contentOf(world.path), {
      objects: ["Jobs", "People"],
      people: { number: "007", age: 42, pay: 10.25 },
    });
  });
}

test("what is remembered of a file does not outlive a change of it, be it in its write-ahead log", async () => {
  const source = await makeSource();
  const writer = new Database(source.path);
  writer.pragma("journal_mode = WAL");
  writer.pragma("wal_autocheckpoint = 0");
  const settings = await options({ memory: new WorldMemory() });
  for (let time = 0; time < 2; time++) {
    assert.equal((await openWorld([whole], [source], settings)).path, source.path);
  }
  writer.exec("CREATE TABLE Secrets (x)");
  const world = await openWorld([whole], [source], settings);
  assert.notEqual(world.path, source.path);
  assert.deepEqual(contentOf(world.path).objects, ["Jobs", "People"]);
  world.release();
  writer.close();
});

test("a primary key, whose column can be read as rowid too, is not carried over", async () => {
  const source = await makeSource(
    "whole",
    "CREATE TABLE People (number TEXT, age INTEGER PRIMARY KEY, pay REAL); CREATE TABLE Jobs (title TEXT)",
  );
  const world = await openWorld([whole], [source], await options());
  assert.notEqual(world.path, source.path);
  const database = new Database(world.path, { readonly: true });
  assert.deepEqual(database.prepare("SELECT rowid, age FROM People").raw(true).get(), [1, 42]);
  database.close();
});

test("several data sets become one world; two tables of one name are refused", async () => {
  const other = { ...whole, name: "other", tables: [{ ...whole.tables[0]!, name: "Students" }] };
  const source = await makeSource("other", createTableSql(other.tables[0]!) + ";" + createTableSql(whole.tables[0]!));
  const world = await openWorld([whole, other], [await makeSource(), source], await options());
  assert.deepEqual(contentOf(world.path).objects, ["Jobs", "People", "Students"]);
  await assert.rejects(openWorld([whole, { ...whole, name: "other" }], [await makeSource(), source], await options()), {
    code: "configuration_invalid",
    message: /whole and other both have a table People/,
  });
});

test("a granted data set without data is named", async () => {
  await assert.rejects(openWorld([whole], [], await options()), {
    code: "configuration_invalid",
    message: /whole is granted/,
  });
});

test("a world is made once per content and grant, also for several at once", async () => {
  const source = await makeSource();
  const settings = await options();
  const granted = granting(whole, { People: ["age"] });
  const worlds = await Promise.all([1, 2, 3].map(() => openWorld([granted], [source], settings)));
  assert.equal(new Set(worlds.map((world) => world.path)).size, 1);
  const other = await openWorld([granting(whole, { People: ["pay"] })], [source], settings);
  assert.equal((await worldsIn(settings.cacheFolder)).length, 2);
  for (const world of [...worlds, other]) world.release();
});

test("worlds of a content that was replaced go with the next query, but not from under one that runs", async () => {
  const source = await makeSource();
  const second = { name: "second", path: source.path, contentHash: "of second" };
  const settings = await options();
  const granted = granting(whole, { People: ["age"] });
  const old = await openWorld([granted], [source], settings);
  const both = await openWorld(
    [granted, { ...whole, name: "second", tables: whole.tables.slice(1) }],
    [source, second],
    settings,
  );
  const unrelated = await openWorld([{ ...granted, name: "second" }], [second], settings);
  for (const world of [both, unrelated]) world.release();

  const present = { ...source, contentHash: "changed" };
  const changed = await openWorld([granted], [present], settings);
  const namesOf = (worlds: readonly World[]): string[] => worlds.map(({ path }) => basename(path)).sort();
  assert.deepEqual((await worldsIn(settings.cacheFolder)).sort(), namesOf([old, unrelated, changed]));
  assert.deepEqual(contentOf(old.path).people, { age: 42 });
  old.release();
  const again = await openWorld([whole], [present], settings);
  assert.deepEqual((await worldsIn(settings.cacheFolder)).sort(), namesOf([unrelated, changed]));
  for (const world of [changed, again]) world.release();
});

test("a world of many data sets goes with the next change of any", async () => {
  const source = await makeSource();
  const tables = granting(whole, { People: ["age"] }).tables;
  const settings = await options();
  const names = Array.from({ length: 11 }, (_, index) => `set${String(index)}`);
  const granted = names.map((name, index) => ({ ...whole, name, tables: index === 0 ? tables : [] }));
  const sources = names.map((name) => ({ ...source, name }));
  (await openWorld(granted, sources, settings)).release();
  assert.equal((await worldsIn(settings.cacheFolder)).length, 1);
  const world = await openWorld(granted.slice(0, 1), sources, settings);
  assert.deepEqual(await worldsIn(settings.cacheFolder), [basename(world.path)]);
  world.release();
});

test("the longest unused worlds go when there are too many, but none that was used a moment ago", async () => {
  const source = await makeSource();
  let now = Date.now();
  const clock: Clock = { now: () => now, sleep: (ms, signal) => systemClock.sleep(ms, signal) };
  const settings = await options({ clock, maxFiles: 2 });
  const world = async (column: string): Promise<World> => {
    const opened = await openWorld([granting(whole, { People: [column] })], [source], settings);
    opened.release();
    return opened;
  };
  const { path } = await world("age");
  await world("pay");
  await world("number");
  assert.equal((await worldsIn(settings.cacheFolder)).length, 3, "one in use was removed");
  now += 120_000;
  await world("age");
  const kept = await worldsIn(settings.cacheFolder);
  assert.equal(kept.length, 2);
  assert.ok(kept.includes(basename(path)), "the one in use was removed");
});

test("a world that is cancelled while it is made leaves nothing", async () => {
  const stop = new AbortController();
  const settings = await options({ signal: stop.signal });
  const making = openWorld([granting(whole, { People: ["age"] })], [await makeSource()], settings);
  stop.abort(new AppError("cancelled", "Enough."));
  await assert.rejects(making, { code: "cancelled" });
  assert.deepEqual(await worldsIn(settings.cacheFolder), []);
});
