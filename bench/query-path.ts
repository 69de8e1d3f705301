/**
 * From storage to Arrow: the ways that rows can leave SQLite and DuckDB, in processor time, turn by turn; and what a small query costs
 * in a process that is started for it, and in one that serves again.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Worker } from "node:worker_threads";
import Database from "better-sqlite3";
import { createDuckdbTableSql } from "../lib/data/duckdb-tables.ts";
import { openDuckdb } from "../lib/data/duckdb.ts";
import { createTableSql } from "../lib/data/sqlite-tables.ts";
import type { DataSet, Table as DeclaredTable } from "../lib/model/dataset.ts";
import { streamDuckdb } from "../microservices/sql-query/duckdb-stream.ts";
import { guardStatement } from "../microservices/sql-query/guarded-statement.ts";
import { runQuery } from "../microservices/sql-query/query.ts";
import { QueryProcesses } from "../microservices/sql-query/query-processes.ts";
import type { PushedQuestion } from "../microservices/sql-query/pushdown.ts";
import { DEFAULT_QUERY_LIMITS } from "../microservices/sql-query/query-protocol.ts";
import { streamResult } from "../microservices/sql-query/result-stream.ts";
import { inTurns, ratios, secondsOf, summarize } from "./measured.ts";
import { roundsOf, type RunOptions, type Table, type TableBench } from "./table.ts";

const READINGS: DeclaredTable = {
  name: "Readings",
  columns: [
    { name: "id", type: { type: "integer" } },
    { name: "value", type: { type: "float" } },
    { name: "pay", type: { type: "decimal", precision: 12, scale: 2 } },
    { name: "born", type: { type: "date" } },
    { name: "label", type: { type: "text" } },
    { name: "code", type: { type: "text" } },
    { name: "bin", type: { type: "integer" } },
  ],
};
const DATA_SET: DataSet = { name: "readings", type: "csv", tables: [READINGS], sensitive_columns: {} };

const ROWS = "SELECT * FROM Readings";
const GROUPS = "SELECT code, count(*) AS n, sum(pay) AS pay, min(born) AS first FROM Readings GROUP BY code";

/** A question whose algorithm the engine can do, and what it is asked of. */
const AVERAGED = "SELECT code, pay FROM Readings";
const AVERAGE: PushedQuestion = { algorithm: "average", algorithmColumns: { code: "pay" } };

/** See the file comment. */
export const QUERY_PATH: TableBench = {
  name: "query-path",
  about:
    "[rows]: from SQLite and DuckDB to Arrow, ways compared; a small query in a process of its own and in one used again",
  run: async (options) => {
    const rows = options.numbers[0] ?? (options.quick ? 2000 : 300_000);
    const folder = await mkdtemp(join(tmpdir(), "query-path-"));
    try {
      const files = await makeFiles(folder, rows);
      return [await ways(files, rows, options), await smallQueries(files.sqlite, folder, options)];
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  },
};

interface Files {
  readonly folder: string;
  readonly sqlite: string;
  readonly duckdb: string;
}

async function makeFiles(folder: string, rows: number): Promise<Files> {
  const files = { folder, sqlite: join(folder, "readings.sqlite"), duckdb: join(folder, "readings.duckdb") };
  const database = new Database(files.sqlite);
  database.exec(createTableSql(READINGS));
  database.exec(
    `WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < ${String(rows)})
     INSERT INTO Readings SELECT n, n * 1.37, (n * 7919 % 10000000) / 100.0, date('1950-01-01', '+' || (n * 31 % 20000) || ' day'),
     'person number ' || (n * 7919 % 100000), substr('ABCDEFGH', 1 + n % 8, 1), CASE WHEN n % 3 > 0 THEN n % 97 END FROM c`,
  );
  database.close();
  const duckdb = await openDuckdb({
    path: files.duckdb,
    readOnly: false,
    memoryBytes: 256 * 1024 * 1024,
    temporaryFolder: folder,
    temporaryBytes: 1e9,
    externalAccess: false,
  });
  await duckdb.connection.run(createDuckdbTableSql(READINGS));
  await duckdb.connection.run(
    `INSERT INTO Readings SELECT n, n * 1.37, (n * 7919 % 10000000) / 100.0, DATE '1950-01-01' + (n * 31 % 20000)::INTEGER,
     'person number ' || (n * 7919 % 100000), substr('ABCDEFGH', (1 + n % 8)::INTEGER, 1),
     CASE WHEN n % 3 > 0 THEN n % 97 END FROM range(1, ${String(rows + 1)}) t(n)`,
  );
  duckdb.close();
  return files;
}

async function ways(files: Files, rows: number, options: RunOptions): Promise<Table> {
  const things = {
    "SQLite to Arrow (ours)": async () => sqliteToArrow(files.sqlite, ROWS),
    "SQLite: row objects": async () => sqliteRows(files.sqlite, "objects"),
    "SQLite: raw rows": async () => sqliteRows(files.sqlite, "raw"),
    "SQLite: raw rows, safe integers": async () => sqliteRows(files.sqlite, "safe"),
    "SQLite: raw rows, in bulk": async () => sqliteRows(files.sqlite, "bulk"),
    "SQLite: raw rows, from a worker": () => sqliteWorker(files.sqlite),
    "SQLite: scan alone": async () => sqliteScan(files.sqlite),
    "DuckDB to Arrow (ours)": () => duckdbToArrow(files, ROWS),
    "SQLite: group by": async () => sqliteToArrow(files.sqlite, GROUPS),
    "DuckDB: group by": () => duckdbToArrow(files, GROUPS),
    "SQLite: rows of an average (ours)": async () => sqliteToArrow(files.sqlite, AVERAGED),
    "SQLite: its states (ours)": async () => onlyStates(sqliteToArrow(files.sqlite, AVERAGED, AVERAGE)),
    "DuckDB: rows of an average (ours)": () => duckdbToArrow(files, AVERAGED),
    "DuckDB: its states (ours)": async () => onlyStates(await duckdbToArrow(files, AVERAGED, AVERAGE)),
  };
  const timed = Object.fromEntries(
    Object.entries(things).map(([name, work]) => [name, () => processorMs(work)]),
  ) as Record<keyof typeof things, () => Promise<number>>;
  const figures = await inTurns(roundsOf(options, 7), timed);
  const ours = figures["SQLite to Arrow (ours)"];
  return {
    name: "query-path",
    title: `From storage to Arrow, ${String(rows)} rows of seven columns`,
    columns: [{ name: "way" }, { name: "processor", unit: "ms" }, { name: "of SQLite to Arrow" }],
    rows: Object.entries(figures).map(([name, values]) => [name, summarize(values), ratios(values, ours)]),
    notes: [
      "Processor time of all threads; 'ours' end in encoded batches, the other ways in JavaScript values that nobody uses. The rows of an average have two columns, and sql-algorithm's work on them comes on top; their states are one small batch.",
    ],
  };
}

async function smallQueries(path: string, folder: string, options: RunOptions): Promise<Table> {
  const world = { path, dataSets: [DATA_SET] };
  const ask = async (processes: QueryProcesses): Promise<void> => {
    const signal = new AbortController().signal;
    const { batches } = await runQuery(
      { sql: "SELECT count(*) AS n FROM Readings WHERE id < 100", world, signal },
      processes,
    );
    for await (const batch of batches) if (batch.numRows !== 1) throw new Error("a count has one row");
  };
  const open = (atOnce: number): QueryProcesses =>
    new QueryProcesses({ limits: DEFAULT_QUERY_LIMITS, temporaryFolder: join(folder, "temporary"), atOnce });
  const kept = open(2);
  await ask(kept);
  const figures = await inTurns(roundsOf(options, 15), {
    "in a process started for it": () => secondsOf(() => ask(open(1))),
    "in a process used again": () => secondsOf(() => ask(kept)),
  });
  await kept.close();
  const fresh = figures["in a process started for it"];
  return {
    name: "query-path-small",
    title: "A query of one row",
    columns: [{ name: "where" }, { name: "time", unit: "ms" }, { name: "of a process of its own" }],
    rows: Object.entries(figures).map(([name, values]) => [
      name,
      summarize(values.map((seconds) => seconds * 1000)),
      ratios(values, fresh),
    ]),
  };
}

async function processorMs(work: () => Promise<unknown>): Promise<number> {
  const before = process.cpuUsage();
  await work();
  const { user, system } = process.cpuUsage(before);
  return (user + system) / 1000;
}

/** Gives the number of rows sent. */
function sqliteToArrow(path: string, sql: string, pushed?: PushedQuestion): number {
  return reading(path, (database) => {
    const statement = guardStatement(database, sql);
    return streamResult(database, statement, [DATA_SET], DEFAULT_QUERY_LIMITS, () => undefined, pushed);
  });
}

/** Rows would take their way through sql-algorithm as well: what is compared is not this then. */
function onlyStates(sent: number): void {
  if (sent !== 1) throw new Error(`Instead of one document of states ${String(sent)} rows were sent.`);
}

function sqliteRows(path: string, how: "objects" | "raw" | "safe" | "bulk"): number {
  return reading(path, (database) => {
    const statement = database.prepare(ROWS).safeIntegers(how === "safe");
    const rows = how === "objects" ? statement : statement.raw(true);
    let count = 0;
    for (const row of how === "bulk" ? rows.all() : rows.iterate()) if (row !== null) count++;
    return count;
  });
}

function sqliteScan(path: string): number {
  const maxima = READINGS.columns.map(({ name }) => `max(${name})`).join(", ");
  return reading(path, (database) => database.prepare(`SELECT ${maxima} FROM Readings`).raw(true).all().length);
}

function reading<Value>(path: string, work: (database: Database.Database) => Value): Value {
  const database = new Database(path, { readonly: true });
  try {
    return work(database);
  } finally {
    database.close();
  }
}

/** A thread that sends raw rows, 1,000 at a time. */
const WORKER = `
  const { parentPort, workerData } = require("node:worker_threads");
  const { createRequire } = require("node:module");
  const database = new (createRequire(workerData.from)("better-sqlite3"))(workerData.path, { readonly: true });
  let rows = [];
  for (const row of database.prepare(workerData.sql).raw(true).iterate()) {
    rows.push(row);
    if (rows.length === 1000) { parentPort.postMessage(rows); rows = []; }
  }
  parentPort.postMessage(rows);
  database.close();
`;

async function sqliteWorker(path: string): Promise<number> {
  const worker = new Worker(WORKER, { eval: true, workerData: { path, sql: ROWS, from: import.meta.url } });
  return new Promise((resolve, reject) => {
    let count = 0;
    worker.on("message", (rows: unknown[]) => (count += rows.length));
    worker.on("error", reject).on("exit", () => resolve(count));
  });
}

function duckdbToArrow({ duckdb }: Files, sql: string, pushed?: PushedQuestion): Promise<number> {
  const request = { worldPath: duckdb, dataSets: [DATA_SET], sql, ...(pushed === undefined ? {} : { pushed }) };
  return streamDuckdb(request, DEFAULT_QUERY_LIMITS, () => undefined);
}
