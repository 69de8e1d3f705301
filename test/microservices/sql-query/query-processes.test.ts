import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { after, test } from "node:test";
import { promisify } from "node:util";
import Database from "better-sqlite3";
import { columnReaders } from "../../../lib/data/column-reader.ts";
import type { CellValue } from "../../../lib/data/field-types.ts";
import { createTableSql } from "../../../lib/data/sqlite-tables.ts";
import { AppError, type ErrorCode } from "../../../lib/errors.ts";
import type { DataSet, Table } from "../../../lib/model/dataset.ts";
import { runQuery } from "../../../microservices/sql-query/query.ts";
import type { World } from "../../../microservices/sql-query/query-process.ts";
import { QueryProcesses, type QueryProcessesOptions } from "../../../microservices/sql-query/query-processes.ts";
import { DEFAULT_QUERY_LIMITS, type QueryLimits } from "../../../microservices/sql-query/query-protocol.ts";
import { eventually } from "../../support/eventually.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

const folder = await temporaryFolder();
const opened: QueryProcesses[] = [];
after(() => Promise.all(opened.map((processes) => processes.close())));

function processesOf(options: Partial<QueryProcessesOptions> & { limit?: Partial<QueryLimits> } = {}): QueryProcesses {
  const limits = { ...DEFAULT_QUERY_LIMITS, timeMs: 20_000, ...options.limit };
  const processes = new QueryProcesses({ limits, temporaryFolder: folder, atOnce: 2, ...options });
  opened.push(processes);
  return processes;
}

async function worldOf(name: string, rows: number): Promise<World> {
  const table: Table = { name, columns: [{ name: "n", type: { type: "integer" } }] };
  const dataSet: DataSet = { name, type: "sqlite", tables: [table], sensitive_columns: {} };
  const path = join(await temporaryFolder(), `${name}.sqlite`);
  const database = new Database(path);
  database.exec(createTableSql(table));
  database.exec(
    `WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < ${rows}) INSERT INTO ${name} SELECT n FROM c`,
  );
  database.close();
  return { path, dataSets: [dataSet] };
}

const ours = await worldOf("Ours", 3);
const theirs = await worldOf("Theirs", 20_000);

async function ask(processes: QueryProcesses, sql: string, world = ours, signal?: AbortSignal): Promise<CellValue[][]> {
  const asked = { sql, world, signal: signal ?? new AbortController().signal };
  const { batches } = await runQuery(asked, processes);
  const rows: CellValue[][] = [];
  for await (const batch of batches) {
    const readers = columnReaders(batch);
    for (let row = 0; row < batch.numRows; row++) rows.push(readers.map((reader) => reader.get(row)));
  }
  return rows;
}

/** The ids of the processes for queries that this process has now, with those that ended and whose end it has not seen. */
// One that is about to end has no arguments any more: its name then stands in brackets, before it is <defunct>.
async function running(parentPid: number | undefined = process.pid): Promise<number[]> {
  const { stdout } = await promisify(execFile)("ps", ["-e", "-o", "ppid=,pid=,args="]);
  const lines = stdout.split("\n").map((line) => line.trim().split(/\s+/));
  const children = lines.filter(
    ([parent, , ...args]) => parent === `${parentPid}` && /query-child|<defunct>|^\[/.test(args.join(" ")),
  );
  return children.map(([, pid]) => Number(pid));
}

async function stopped(processes: QueryProcesses): Promise<void> {
  await processes.close();
  assert.deepEqual(await running(), []);
  assert.deepEqual(await readdir(folder), []);
}

const ENDLESS = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT count(*) AS c FROM c";

test("a process waits for the question before there is one", async () => {
  const processes = processesOf({ atOnce: 1 });
  const [pid] = await running();
  assert.ok(pid !== undefined);
  assert.deepEqual(await ask(processes, "SELECT count(*) AS c FROM Ours"), [[3n]]);
  await stopped(processes);
});

test("where one request is served, its process is not used again, and none takes its place", async () => {
  const processes = processesOf({ atOnce: 1 });
  await ask(processes, "SELECT n FROM Ours");
  assert.deepEqual(await running(), []);
  assert.deepEqual(await readdir(folder), []);
});

test("where several are served, queries one after another run in the same process", async () => {
  const processes = processesOf();
  await ask(processes, "SELECT n FROM Ours");
  const before = await running();
  for (let count = 0; count < 5; count++) await ask(processes, "SELECT n FROM Ours");
  assert.deepEqual(await running(), before);
  await stopped(processes);
});

test("queries at once run in processes of their own", async () => {
  const processes = processesOf();
  const answers = await Promise.all([
    ask(processes, "SELECT count(*) AS c FROM Ours"),
    ask(processes, "SELECT count(*) AS c FROM Theirs", theirs),
    ask(processes, "SELECT max(n) AS m FROM Theirs", theirs),
  ]);
  assert.deepEqual(answers, [[[3n]], [[20_000n]], [[20_000n]]]);
  assert.ok((await running()).length <= 2, "more processes are kept than may be at work");
  await stopped(processes);
});

test("nothing of a query is seen by the next one in its process", async () => {
  const processes = processesOf();
  await ask(
    processes,
    "SELECT count(*) AS c FROM (SELECT DISTINCT a.n * b.n FROM Theirs a, Ours x JOIN Theirs b ON b.n < 9)",
    {
      path: theirs.path,
      dataSets: theirs.dataSets,
    },
  ).catch((error: unknown) => assert.ok(error instanceof AppError && error.code === "query_invalid"));
  await ask(processes, "SELECT a.n FROM Theirs a ORDER BY -a.n", theirs);
  const state = "last_insert_rowid() AS l, changes() AS c, total_changes() AS t";
  assert.deepEqual(await ask(processes, `SELECT ${state} FROM Ours LIMIT 1`), [[0n, 0n, 0n]]);
  assert.deepEqual(await ask(processes, "SELECT name FROM sqlite_schema"), [["Ours"]]);
  assert.deepEqual(await ask(processes, "SELECT count(*) AS c FROM sqlite_temp_schema"), [[0n]]);
  await assert.rejects(ask(processes, "SELECT * FROM Theirs"), { code: "query_invalid" });
  await stopped(processes);
});

test("the folder that a query sorts in is gone when it has ended", async () => {
  const processes = processesOf();
  await ask(processes, "SELECT a.n FROM Theirs a, Theirs b WHERE b.n < 30 ORDER BY a.n * b.n", theirs);
  const folders = await readdir(folder);
  const inside = await Promise.all(folders.map((name) => readdir(join(folder, name))));
  assert.deepEqual(inside.flat(), []);
  await stopped(processes);
});

const ends: readonly [name: string, sql: string, limit: Partial<QueryLimits>, code: ErrorCode][] = [
  ["its time", ENDLESS, { timeMs: 3000 }, "time_limit_exceeded"],
  ["its memory", "SELECT hex(zeroblob(150000000)) AS x", { memoryBytes: 200_000_000 }, "memory_limit_exceeded"],
  [
    "its temporary space",
    "SELECT a.n FROM Theirs a, Theirs b ORDER BY a.n * b.n",
    { temporaryBytes: 4_000_000 },
    "memory_limit_exceeded",
  ],
  ["its rows", "SELECT n FROM Theirs", { rows: 100 }, "result_too_large"],
  ["its own fault", "SELECT no_such FROM Theirs", {}, "query_invalid"],
];

for (const [name, sql, limit, code] of ends) {
  test(`a query that ended at ${name}, be it the second of its process, is followed by others in another process`, async () => {
    const processes = processesOf({ limit });
    await ask(processes, "SELECT n FROM Ours");
    await assert.rejects(ask(processes, sql, theirs), (error: AppError) => error.code === code);
    assert.deepEqual(await ask(processes, "SELECT count(*) AS c FROM Ours"), [[3n]]);
    await stopped(processes);
  });
}

test("a cancelled query is followed by others, and its process is gone", async () => {
  const processes = processesOf();
  await ask(processes, "SELECT n FROM Ours");
  const stop = new AbortController();
  const asking = ask(processes, ENDLESS, ours, stop.signal);
  stop.abort(new AppError("agreement_gone", "The agreement has gone."));
  await assert.rejects(asking, { code: "agreement_gone" });
  assert.deepEqual(await ask(processes, "SELECT count(*) AS c FROM Ours"), [[3n]]);
  await stopped(processes);
});

test("a cancel that comes after the end of a query does not touch the next one", async () => {
  const processes = processesOf();
  const stop = new AbortController();
  await ask(processes, "SELECT n FROM Ours", ours, stop.signal);
  const { batches } = await runQuery(
    { sql: "SELECT n FROM Theirs", world: theirs, signal: new AbortController().signal },
    processes,
  );
  stop.abort(new AppError("cancelled", "Too late."));
  let rows = 0;
  for await (const batch of batches) rows += batch.numRows;
  assert.equal(rows, 20_000);
  await stopped(processes);
});

test("a reader that leaves early costs the process, and the next query has another", async () => {
  const processes = processesOf();
  const { batches } = await runQuery(
    { sql: "SELECT a.n FROM Theirs a, Theirs b", world: theirs, signal: new AbortController().signal },
    processes,
  );
  for await (const batch of batches) {
    assert.ok(batch.numRows > 0);
    break;
  }
  assert.deepEqual(await ask(processes, "SELECT count(*) AS c FROM Ours"), [[3n]]);
  await stopped(processes);
});

test("a reader that leaves at the schema frees the process, too, and closing twice does nothing more", async () => {
  const processes = processesOf();
  const asked = { sql: "SELECT n FROM Theirs", world: theirs, signal: new AbortController().signal };
  const result = await runQuery(asked, processes);
  const before = await readdir(folder);
  await Promise.all([result.close(), result.close()]);
  const left = new Set(await readdir(folder));
  assert.equal(before.filter((name) => !left.has(name)).length, 1, "the folder of that process is gone");
  assert.deepEqual(await ask(processes, "SELECT count(*) AS c FROM Theirs", theirs), [[20_000n]]);
  await stopped(processes);
});

test("a process that was killed while it waited is not given out", async () => {
  const processes = processesOf();
  await ask(processes, "SELECT n FROM Ours");
  const before = await running();
  for (const pid of before) process.kill(pid, "SIGKILL");
  await eventually(async () => (await running()).every((pid) => !before.includes(pid)));
  assert.deepEqual(await ask(processes, "SELECT count(*) AS c FROM Ours"), [[3n]]);
  await stopped(processes);
});

test("a process is replaced after as many queries as it may serve", async () => {
  const processes = processesOf({ queriesPerProcess: 2 });
  const seen = new Set<number>();
  for (let count = 0; count < 6; count++) {
    await ask(processes, "SELECT n FROM Ours");
    for (const pid of await running()) seen.add(pid);
  }
  assert.ok(seen.size >= 3, `${seen.size} processes for six queries`);
  await stopped(processes);
});

test("a process that still has more of a query's memory than it may keep does not serve again; another one does", async () => {
  // No process has less than this, nor more than that.
  for (const [mostMemoryKept, isKept] of [
    [1, false],
    [Number.MAX_SAFE_INTEGER, true],
  ] as const) {
    const processes = processesOf({ mostMemoryKept });
    const [first] = await running();
    assert.ok(first !== undefined);
    assert.deepEqual(await ask(processes, "SELECT count(*) AS c FROM Ours"), [[3n]]);
    await eventually(async () => (await running()).includes(first) === isKept);
    assert.deepEqual(await ask(processes, "SELECT count(*) AS c FROM Theirs", theirs), [[20_000n]]);
    await stopped(processes);
  }
});

test("a process whose parent is gone ends by itself, and leaves no folder", async () => {
  const own = await temporaryFolder();
  const url = JSON.stringify(new URL("../../../microservices/sql-query/query-processes.js", import.meta.url).href);
  const options = JSON.stringify({ limits: DEFAULT_QUERY_LIMITS, temporaryFolder: own, atOnce: 2 });
  const program = `const { QueryProcesses } = await import(${url}); new QueryProcesses(${options});`;
  const parent = execFile(process.execPath, ["--input-type=module", "-e", program]);
  await eventually(async () => (await running(parent.pid)).length === 1);
  parent.kill("SIGKILL");
  await eventually(async () => (await readdir(own)).length === 0);
});
