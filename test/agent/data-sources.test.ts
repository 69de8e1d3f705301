import assert from "node:assert/strict";
import { mkdir, readdir, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { test } from "node:test";
import Database from "better-sqlite3";
import { DataSources } from "../../agent/data-sources.ts";
import { systemClock as clock } from "../../lib/clock.ts";
import { holdFile } from "../../lib/data/held-files.ts";
import { worldFileName, type Content } from "../../lib/data/world-files.ts";
import { AppError, toFailure, type ErrorCode } from "../../lib/errors.ts";
import type { DataSet } from "../../lib/model/dataset.ts";
import { createLogger } from "../../lib/telemetry/logger.ts";
import { eventually } from "../support/eventually.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const dataSet: DataSet = {
  name: "wages",
  type: "csv",
  tables: [{ name: "T", columns: [{ name: "i", type: { type: "integer" } }] }],
  sensitive_columns: {},
};

interface Steward {
  readonly sources: DataSources;
  /** The data file's own, whose path nobody else may learn. */
  readonly folder: string;
  readonly loadedFolder: string;
  readonly worldFolder: string;
  /** Another agent of the steward. */
  readonly open: () => DataSources;
  readonly log: () => string;
}

async function steward(pod: unknown, files: Readonly<Record<string, string>> = {}): Promise<Steward> {
  const folder = join(await temporaryFolder());
  for (const [name, content] of Object.entries(files)) await writeFile(join(folder, name), content);
  const dataFile = join(folder, "data.json");
  await writeFile(dataFile, typeof pod === "string" ? pod : JSON.stringify({ dataSets: { wages: pod } }));
  let lines = "";
  const logger = createLogger("test", {}, "info", { write: (line) => void (lines += line) });
  const loadedFolder = await temporaryFolder();
  const worldFolder = join(await temporaryFolder(), "worlds");
  const open = (): DataSources => new DataSources({ dataFile, folder: loadedFolder, worldFolder, clock, logger });
  return { sources: open(), open, folder, loadedFolder, worldFolder, log: () => lines };
}

const unaborted = new AbortController().signal;

const faults: readonly [what: string, pod: unknown, files: Record<string, string>, code: ErrorCode, place: object][] = [
  [
    "a cell that does not fit",
    { engine: "csv", files: { T: "t.csv" } },
    { "t.csv": "i\n1\nkanarie\n" },
    "data_invalid",
    { file: "wages/T", line: 3, column: 1 },
  ],
  [
    "a header that is a row of values",
    { engine: "csv", files: { T: "t.csv" } },
    { "t.csv": "kanarie\n1\n" },
    "data_invalid",
    { file: "wages/T", line: 1, column: 1 },
  ],
  [
    "a cell in one of several files",
    { engine: "csv", files: { T: ["t.csv", "u.csv"] } },
    { "t.csv": "i\n1\n", "u.csv": "i\nx\n" },
    "data_invalid",
    { file: "wages/T/u.csv", line: 2, column: 1 },
  ],
  ["a missing file", { engine: "csv", files: { T: "t.csv" } }, {}, "data_invalid", { file: "wages/T" }],
  ["a missing database", { engine: "sqlite", path: "t.sqlite" }, {}, "data_invalid", { file: "wages" }],
  [
    "a file that is no database",
    { engine: "sqlite", path: "t.sqlite" },
    { "t.sqlite": "kanarie".repeat(1000) },
    "data_invalid",
    { file: "wages" },
  ],
  ["a data file that is wrong", { engine: "kanarie" }, {}, "configuration_invalid", { file: "wages" }],
  ["a data file that is no JSON", '{"kanarie":', {}, "configuration_invalid", { file: "wages", line: 1, column: 12 }],
];

for (const [what, pod, files, code, place] of faults) {
  test(`of ${what} others learn table, line and column; the path is in the log`, async () => {
    const { sources, folder, log } = await steward(pod, files);
    await assert.rejects(sources.open(dataSet, unaborted), (error: AppError) => {
      const failure = toFailure(error);
      assert.equal(failure.code, code);
      assert.deepEqual(failure.place, place);
      assert.ok(!JSON.stringify(failure).includes(folder), JSON.stringify(failure));
      assert.ok(!JSON.stringify(failure).includes("kanarie"), JSON.stringify(failure));
      return true;
    });
    assert.ok(log().includes(folder), log());
  });
}

test("the table of a database that lacks a column is named, the database is not", async () => {
  const { sources, folder, log } = await steward({ engine: "sqlite", path: "t.sqlite" });
  const database = new Database(join(folder, "t.sqlite"));
  database.exec("CREATE TABLE T (other)");
  database.close();
  await assert.rejects(sources.open(dataSet, unaborted), { code: "data_invalid", place: { file: "wages/T" } });
  assert.ok(log().includes(folder));
});

test("who is cancelled leaves at once, and the others get their data", async () => {
  const big = `i\n${"1\n".repeat(300_000)}`;
  const { sources } = await steward({ engine: "csv", files: { T: "t.csv" } }, { "t.csv": big });
  const leaving = new AbortController();
  const reason = new AppError("cancelled", "The caller left.");
  const first = sources.open(dataSet, leaving.signal);
  const second = sources.open(dataSet, unaborted);
  leaving.abort(reason);
  await assert.rejects(first, reason);
  const loaded = await second;
  const database = new Database(loaded.path, { readonly: true });
  assert.deepEqual(database.prepare("SELECT count(*) AS c FROM T").get(), { c: 300_000 });
  database.close();
  await loaded.release();
});

test("a load that nobody waits for any more ends, and leaves nothing", async () => {
  const big = `i\n${"1\n".repeat(2_000_000)}`;
  const { sources, loadedFolder, log } = await steward({ engine: "csv", files: { T: "t.csv" } }, { "t.csv": big });
  const leaving = new AbortController();
  const both = [sources.open(dataSet, leaving.signal), sources.open(dataSet, leaving.signal)];
  const isMaking = async (): Promise<boolean> => (await readdir(loadedFolder)).some((name) => name.endsWith(".making"));
  await eventually(isMaking);
  leaving.abort(new AppError("cancelled", "The callers left."));
  for (const one of both) await assert.rejects(one, { message: "The callers left." });
  await eventually(async () => !(await isMaking()));
  const files = await readdir(loadedFolder);
  assert.deepEqual(
    files.filter((name) => name.endsWith(".sqlite")),
    [],
    "it went on to its end",
  );
  assert.equal(log(), "", "a cancel is no fault of the data");
});

test("who is cancelled before asks for nothing", async () => {
  const { sources, loadedFolder } = await steward({ engine: "csv", files: { T: "t.csv" } });
  const reason = new AppError("cancelled", "The caller left.");
  await assert.rejects(sources.open(dataSet, AbortSignal.abort(reason)), reason);
  assert.deepEqual(await readdir(loadedFolder), []);
});

const pod = { engine: "csv", files: { T: "t.csv" } };

async function sqliteFiles(folder: string): Promise<string[]> {
  return (await readdir(folder)).filter((name) => name.endsWith(".sqlite")).sort();
}

/** A world as sql-query makes it: with the rows of a loaded data set. */
async function worldOf({ worldFolder }: Steward, content: Content): Promise<string> {
  const name = worldFileName([content], ["some columns"]);
  await mkdir(worldFolder, { recursive: true });
  const database = new Database(join(worldFolder, name));
  database.exec("CREATE TABLE T (i)");
  database.close();
  return name;
}

test("what the steward takes out is gone with the next request: from the loaded files, and from the worlds", async () => {
  const it = await steward(pod, { "t.csv": "i\n1\n2\n" });
  const first = await it.sources.open(dataSet, unaborted);
  await worldOf(it, first);
  const other = await worldOf(it, { name: "pay", contentHash: first.contentHash });
  await first.release();
  assert.equal((await sqliteFiles(it.worldFolder)).length, 2, "nothing has changed yet");

  await writeFile(join(it.folder, "t.csv"), "i\n1\n");
  const second = await it.sources.open(dataSet, unaborted);
  assert.deepEqual(await sqliteFiles(it.loadedFolder), [basename(second.path)]);
  assert.deepEqual(await sqliteFiles(it.worldFolder), [other], "worlds of other data sets stay");
  await second.release();
  assert.deepEqual(await sqliteFiles(it.loadedFolder), [basename(second.path)], "what is present stays");
});

test("what a run of either agent still reads stays until the run is over", async () => {
  const it = await steward(pod, { "t.csv": "i\n1\n2\n" });
  const old = await it.sources.open(dataSet, unaborted);
  const world = await worldOf(it, old);
  const worldHold = holdFile(join(it.worldFolder, world));
  await writeFile(join(it.folder, "t.csv"), "i\n1\n");
  const present = await it.open().open(dataSet, unaborted);
  assert.deepEqual(await sqliteFiles(it.loadedFolder), [old.path, present.path].map((path) => basename(path)).sort());
  assert.deepEqual(await sqliteFiles(it.worldFolder), [world]);
  worldHold?.release();
  await old.release();
  assert.deepEqual(await sqliteFiles(it.loadedFolder), [basename(present.path)]);
  assert.deepEqual(await sqliteFiles(it.worldFolder), []);
  await present.release();
});

test("a run that releases twice leaves another run's data where they are", async () => {
  const it = await steward(pod, { "t.csv": "i\n1\n2\n" });
  const a = await it.sources.open(dataSet, unaborted);
  const b = await it.sources.open(dataSet, unaborted);
  await a.release();
  await a.release();
  await writeFile(join(it.folder, "t.csv"), "i\n1\n");
  const present = await it.sources.open(dataSet, unaborted);
  assert.deepEqual(await sqliteFiles(it.loadedFolder), [b.path, present.path].map((path) => basename(path)).sort());
  await b.release();
  assert.deepEqual(await sqliteFiles(it.loadedFolder), [basename(present.path)]);
  await present.release();
});

test("a declaration that was changed and changed back is the present one again: its data stay, and the other's go", async () => {
  const it = await steward(pod, { "t.csv": "i\n1\n" });
  const other: DataSet = { ...dataSet, tables: [{ name: "T", columns: [{ name: "i", type: { type: "text" } }] }] };
  const before = await it.sources.open(dataSet, unaborted);
  const between = await it.sources.open(other, unaborted);
  await between.release();
  const again = await it.sources.open(dataSet, unaborted);
  assert.deepEqual(await sqliteFiles(it.loadedFolder), [basename(again.path)]);
  await before.release();
  await again.release();
  assert.deepEqual(await sqliteFiles(it.loadedFolder), [basename(again.path)]);
});

test("data sets are loaded with DuckDB one after the other; who leaves meanwhile does so at once", async () => {
  // Big enough to be loading still when the others have come, also on a busy machine.
  const files = { "big.csv": `i\n${"1\n".repeat(5_000_000)}`, "small.csv": "i\n1\n" };
  const dataSets = Object.fromEntries(
    ["big", "small", "left"].map((name) => [
      name,
      { engine: "duckdb", files: { T: `${name === "big" ? name : "small"}.csv` } },
    ]),
  );
  const it = await steward(JSON.stringify({ dataSets }), files);
  const done: string[] = [];
  const open = async (name: string, signal = unaborted): Promise<void> => {
    const held = await it.sources.open({ ...dataSet, name }, signal).finally(() => done.push(name));
    await held.release();
  };
  const big = open("big");
  await eventually(async () => (await readdir(it.loadedFolder)).some((name) => name.endsWith(".making")));
  const small = open("small");
  const leaving = new AbortController();
  const reason = new AppError("cancelled", "The caller left.");
  const left = assert.rejects(open("left", leaving.signal), reason);
  await eventually(async () => (await readdir(it.loadedFolder)).includes("left.json"));
  leaving.abort(reason);
  await Promise.all([big, small, left]);
  assert.deepEqual(done, ["left", "big", "small"]);
  assert.deepEqual(
    (await readdir(it.loadedFolder))
      .filter((name) => name.endsWith(".duckdb"))
      .map((name) => name.split("-")[0])
      .sort(),
    ["big", "small"],
  );
});

test("a SQLite file of the steward's own is neither locked nor removed; its worlds go when it changes", async () => {
  const it = await steward({ engine: "sqlite", path: "t.sqlite" });
  const database = new Database(join(it.folder, "t.sqlite"));
  database.exec("CREATE TABLE T (i); INSERT INTO T VALUES (1)");
  const first = await it.sources.open(dataSet, unaborted);
  const world = await worldOf(it, first);
  const worldHold = holdFile(join(it.worldFolder, world));
  database.exec("DELETE FROM T");
  const second = await it.sources.open(dataSet, unaborted);
  assert.deepEqual(await sqliteFiles(it.worldFolder), [world]);
  worldHold?.release();
  await first.release();
  await second.release();
  assert.deepEqual(await sqliteFiles(it.worldFolder), []);
  assert.deepEqual(await sqliteFiles(it.folder), ["t.sqlite"]);
  database.close();
});
