import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdir, readdir } from "node:fs/promises";
import { join } from "node:path";
import { describe, test } from "node:test";
import { promisify } from "node:util";
import Database from "better-sqlite3";
import { columnReaders } from "../../../lib/data/column-reader.ts";
import { fieldsOf, formatCell, type CellValue, type FieldSpec } from "../../../lib/data/field-types.ts";
import { createTableSql } from "../../../lib/data/sqlite-tables.ts";
import { AppError, toFailure, type ErrorCode } from "../../../lib/errors.ts";
import type { DataSet, Table } from "../../../lib/model/dataset.ts";
import { runQuery, type QueryResult } from "../../../microservices/sql-query/query.ts";
import type { World } from "../../../microservices/sql-query/query-process.ts";
import { QueryProcesses } from "../../../microservices/sql-query/query-processes.ts";
import { DEFAULT_QUERY_LIMITS, type QueryLimits } from "../../../microservices/sql-query/query-protocol.ts";
import { eventually } from "../../support/eventually.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

const people: Table = {
  name: "People",
  columns: [
    { name: "number", type: { type: "text" } },
    { name: "age", type: { type: "integer" } },
    { name: "pay", type: { type: "decimal", precision: 15, scale: 2 } },
    { name: "height", type: { type: "float" } },
    { name: "member", type: { type: "boolean" } },
    { name: "born", type: { type: "date" } },
    { name: "seen", type: { type: "timestamp" } },
  ],
};
const numbers: Table = { name: "Numbers", columns: [{ name: "n", type: { type: "integer" } }] };

function dataSetOf(...tables: Table[]): DataSet {
  return { name: "test", type: "sqlite", tables, sensitive_columns: {} };
}

const worldFolder = await temporaryFolder();
const temporary = join(await temporaryFolder(), "temporary");
await mkdir(temporary);
const world: World = { path: join(worldFolder, "world.sqlite"), dataSets: [dataSetOf(people, numbers)] };
const database = new Database(world.path);
database.exec(createTableSql(people) + ";" + createTableSql(numbers));
const insert = database.prepare("INSERT INTO People VALUES (?, ?, ?, ?, ?, ?, ?)");
insert.run("007", 9007199254740993n, 9999999999999.99, 1.5, 1, "1964-02-29", "2022-12-31 23:59:59.000001");
insert.run(null, null, null, null, null, null, null);
insert.run("008", -1, -0.01, -2, 0, "2022-12-31", "1969-12-31 23:59:59");
database.exec(
  "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 20000) INSERT INTO Numbers SELECT n FROM c",
);
database.close();

interface Options {
  readonly limits?: Partial<QueryLimits>;
  readonly signal?: AbortSignal;
  readonly world?: World;
}

async function start(sql: string, options: Options = {}): Promise<QueryResult> {
  const limits = { ...DEFAULT_QUERY_LIMITS, timeMs: 20_000, ...options.limits };
  const signal = options.signal ?? new AbortController().signal;
  const processes = new QueryProcesses({ limits, temporaryFolder: temporary, atOnce: 1 });
  try {
    return await runQuery({ sql, world: options.world ?? world, signal }, processes);
  } catch (error) {
    await processes.close();
    throw error;
  }
}

interface Answer {
  readonly fields: readonly FieldSpec[];
  readonly rows: CellValue[][];
  readonly batches: number;
}

async function ask(sql: string, options: Options = {}): Promise<Answer> {
  const { schema, batches } = await start(sql, options);
  const rows: CellValue[][] = [];
  let count = 0;
  for await (const batch of batches) {
    count++;
    const readers = columnReaders(batch);
    for (let row = 0; row < batch.numRows; row++) rows.push(readers.map((reader) => reader.get(row)));
  }
  return { fields: fieldsOf(schema), rows, batches: count };
}

const kindsOf = ({ fields }: Answer): string[] => fields.map((field) => field.type.kind);

/** The processes that this one has started and that still are. */
async function childProcesses(): Promise<string[]> {
  const { stdout } = await promisify(execFile)("ps", ["-e", "-o", "ppid=,pid=,args="]);
  return stdout.split("\n").filter((line) => line.includes("query-child") && line.trim().startsWith(`${process.pid} `));
}

async function nothingIsLeft(): Promise<void> {
  assert.deepEqual(await childProcesses(), []);
  assert.deepEqual(await readdir(temporary), []);
}

test("columns have their declared types, and their values come back exactly", async () => {
  const answer = await ask("SELECT * FROM People");
  assert.deepEqual(kindsOf(answer), ["text", "integer", "decimal", "float", "boolean", "date", "timestamp"]);
  const texts = answer.rows.map((row) => row.map((value, i) => formatCell(answer.fields[i]!.type, value)));
  assert.deepEqual(texts, [
    ["007", "9007199254740993", "9999999999999.99", "1.5", "true", "1964-02-29", "2022-12-31T23:59:59.000001Z"],
    ["", "", "", "", "", "", ""],
    ["008", "-1", "-0.01", "-2", "false", "2022-12-31", "1969-12-31T23:59:59Z"],
  ]);
  await nothingIsLeft();
});

test("every day from 1890 to 2110 is read as the day that it is", async () => {
  const days = `WITH RECURSIVE c(d) AS (SELECT '1890-01-01' UNION ALL SELECT date(d, '+1 day') FROM c WHERE d < '2110-12-31') SELECT d FROM c`;
  const path = join(await temporaryFolder(), "days.sqlite");
  const days_ = new Database(path);
  days_.exec(`CREATE TABLE Days (d TEXT); INSERT INTO Days ${days}`);
  days_.close();
  const tables: Table[] = [{ name: "Days", columns: [{ name: "d", type: { type: "date" } }] }];
  const { rows } = await ask("SELECT d FROM Days ORDER BY d", { world: { path, dataSets: [dataSetOf(...tables)] } });
  assert.equal(rows.length, 80_718);
  assert.ok(rows.every(([value], index) => value === index + Date.UTC(1890, 0, 1) / 86_400_000));
});

test("expressions have the type of their values", async () => {
  const answer = await ask(
    "SELECT count(*) AS c, avg(age) AS a, max(number) AS m, NULL AS n, 1 + 0.5 AS f FROM People",
  );
  assert.deepEqual(kindsOf(answer), ["integer", "float", "text", "text", "float"]);
});

test("an expression that is null for long has the type of its first value", async () => {
  const answer = await ask("SELECT CASE WHEN n > 15000 THEN n END AS late FROM Numbers");
  assert.deepEqual(kindsOf(answer), ["integer"]);
  assert.equal(answer.rows.at(-1)?.[0], 20_000n);
});

test("integers among floats become floats, when they come in time", async () => {
  const answer = await ask("SELECT CASE WHEN n < 10 THEN n ELSE n / 2.0 END AS mixed FROM Numbers");
  assert.deepEqual(kindsOf(answer), ["float"]);
  assert.equal(answer.rows[3]?.[0], 4);
});

const mismatches: readonly [sql: string, says: RegExp][] = [
  [
    "SELECT CASE WHEN n < 15000 THEN n ELSE n / 2.0 END AS x FROM Numbers",
    /x began with integer values.*CAST\(… AS REAL\) AS x/,
  ],
  [
    "SELECT CASE WHEN n < 15000 THEN n ELSE 'many' END AS x FROM Numbers",
    /x began with integer values.*CAST\(… AS TEXT\) AS x/,
  ],
  ["SELECT CASE WHEN n < 10 THEN n ELSE 'many' END AS x FROM Numbers", /x has text and numbers/],
  ["SELECT x'00ff' AS x", /binary value.*hex/],
];

test("a value that does not fit the type before it is an error that says which CAST helps", async () => {
  for (const [sql, says] of mismatches) await assert.rejects(ask(sql), { code: "type_mismatch", message: says }, sql);
  const helped = await ask("SELECT CAST(CASE WHEN n < 15000 THEN n ELSE n / 2.0 END AS REAL) AS x FROM Numbers");
  assert.deepEqual(kindsOf(helped), ["float"]);
});

test("values in a SQLite file that are not what is declared are errors that do not carry them", async () => {
  const path = join(await temporaryFolder(), "pod.sqlite");
  const pod = new Database(path);
  pod.exec("CREATE TABLE T (a, b, c, d); INSERT INTO T VALUES ('secret-text', 1.005, 7, '2022-02-30')");
  pod.close();
  const declared = [
    { name: "a", type: { type: "integer" } },
    { name: "b", type: { type: "decimal", precision: 5, scale: 2 } },
    { name: "c", type: { type: "boolean" } },
    { name: "d", type: { type: "date" } },
  ] as const;
  for (const column of declared) {
    const tables: Table[] = [{ name: "T", columns: [column] }];
    await assert.rejects(
      ask(`SELECT ${column.name} FROM T`, { world: { path, dataSets: [dataSetOf(...tables)] } }),
      (error: AppError) => {
        assert.equal(error.code, "type_mismatch");
        assert.match(error.message, new RegExp(`column ${column.name} is not what is declared`));
        assert.ok(!/secret-text|1\.005|02-30/.test(error.message));
        return true;
      },
    );
  }
});

test("a result column says which granted column its values come from", async () => {
  const { fields } = await ask("SELECT number AS x, number || '' AS y FROM People");
  assert.deepEqual(
    fields.map((field) => field.metadata),
    [{ "dynamos.sourceTable": "People", "dynamos.sourceColumn": "number" }, undefined],
  );
});

test("names that come twice are told apart", async () => {
  const { fields } = await ask("SELECT a.n, b.n, a.n FROM Numbers a JOIN Numbers b ON a.n = b.n LIMIT 1");
  assert.deepEqual(
    fields.map((field) => field.name),
    ["n", "n:1", "n:2"],
  );
  await assert.rejects(ask('SELECT 1 AS ""'), { code: "query_invalid", message: /no name/ });
});

test("a result without rows has its columns", async () => {
  const answer = await ask("SELECT number, age + 1 AS next FROM People WHERE 0");
  assert.deepEqual(kindsOf(answer), ["text", "text"]);
  assert.deepEqual(answer.rows, []);
});

test("a large result comes in batches of less than 256 KiB", async () => {
  const { batches } = await start(
    "SELECT a.n AS a, b.n AS b, 'some text that is a little longer' AS t FROM Numbers a, Numbers b LIMIT 100000",
  );
  let rows = 0;
  for await (const batch of batches) {
    rows += batch.numRows;
    const bytes = batch.data.children.reduce((sum, child) => sum + child.byteLength, 0);
    assert.ok(bytes <= 256 * 1024, `${bytes} bytes`);
  }
  assert.equal(rows, 100_000);
});

/** Small limits, so that hostile queries end soon; time is short only where it is to be the limit that ends them. */
const tight = { memoryBytes: 160_000_000, temporaryBytes: 8_000_000, rows: 1000, bytes: 100_000 };
const SHORT_MS = 1000;
/** For what does not count: the start of a process, on a machine that has much else to do. */
const START_MS = 15_000;

const hostile: readonly [name: string, sql: string, code: ErrorCode][] = [
  [
    "an endless recursion",
    "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT count(*) FROM c",
    "time_limit_exceeded",
  ],
  [
    "a cartesian join",
    "SELECT count(*) FROM Numbers a, Numbers b, Numbers c WHERE a.n + b.n + c.n < 0",
    "time_limit_exceeded",
  ],
  [
    "a slow LIKE",
    `SELECT count(*) FROM Numbers WHERE printf('%.*c', 20000, 'a') || n LIKE '${"%a_".repeat(40)}b'`,
    "time_limit_exceeded",
  ],
  [
    "a slow GLOB",
    `SELECT count(*) FROM Numbers WHERE printf('%.*c', 20000, 'a') || n GLOB '${"*a?".repeat(40)}b'`,
    "time_limit_exceeded",
  ],
  ["a value beyond SQLite's own limit", "SELECT randomblob(1e9) AS x", "memory_limit_exceeded"],
  ["a value beyond the memory limit", "SELECT length(randomblob(400000000)) AS x", "memory_limit_exceeded"],
  ["a large zeroblob that is used", "SELECT hex(zeroblob(200000000)) AS x", "memory_limit_exceeded"],
  ["a large printf", "SELECT printf('%.*c', 300000000, 'x') AS x", "memory_limit_exceeded"],
  ["many large values at once", "SELECT group_concat(hex(randomblob(100000))) FROM Numbers", "memory_limit_exceeded"],
  ["a sort larger than memory", "SELECT a.n FROM Numbers a, Numbers b ORDER BY a.n * b.n", "memory_limit_exceeded"],
  [
    "an intermediate result larger than memory",
    "SELECT count(*) FROM (SELECT DISTINCT a.n * 20000 + b.n FROM Numbers a, Numbers b)",
    "memory_limit_exceeded",
  ],
  ["too many rows", "SELECT n FROM Numbers", "result_too_large"],
  ["too many bytes", "SELECT printf('%.*c', 2000, 'x') AS x FROM Numbers LIMIT 900", "result_too_large"],
  ["a row that is too large", "SELECT printf('%.*c', 2000000, 'x') AS x", "batch_too_large"],
  ["ATTACH", `ATTACH '${world.path}' AS other`, "query_invalid"],
  ["DETACH", "DETACH main", "query_invalid"],
  ["VACUUM INTO", `VACUUM INTO '${join(worldFolder, "stolen.sqlite")}'`, "query_invalid"],
  ["PRAGMA", "PRAGMA database_list", "query_invalid"],
  ["PRAGMA that sets", "PRAGMA temp_store_directory = '/'", "query_invalid"],
  ["a PRAGMA as table", "SELECT * FROM pragma_database_list", "query_invalid"],
  ["a PRAGMA as table of a schema", "SELECT * FROM main.pragma_table_info('People')", "query_invalid"],
  [
    "a PRAGMA deep inside",
    "SELECT (SELECT count(*) FROM Numbers WHERE EXISTS (SELECT file FROM pragma_database_list)) AS x",
    "query_invalid",
  ],
  ["dbstat", "SELECT * FROM dbstat", "query_invalid"],
  ["sqlite_dbpage", "SELECT * FROM sqlite_dbpage", "query_invalid"],
  ["fts3tokenize", "SELECT * FROM fts3tokenize WHERE input = 'x'", "query_invalid"],
  ["load_extension", "SELECT load_extension('/tmp/x.so') AS x", "query_invalid"],
  ["fts3_tokenizer", "SELECT fts3_tokenizer('simple') AS x", "query_invalid"],
  ["writefile", "SELECT writefile('/tmp/x', 'x') AS x", "query_invalid"],
  ["readfile", "SELECT readfile('/etc/passwd') AS x", "query_invalid"],
  ["edit", "SELECT edit('x') AS x", "query_invalid"],
  ["two statements", "SELECT 1; SELECT 2", "query_invalid"],
  ["a statement that closes the parenthesis", "SELECT 1) UNION SELECT * FROM (SELECT 2", "query_invalid"],
  ["INSERT", "INSERT INTO Numbers VALUES (1) RETURNING n", "query_invalid"],
  ["DROP", "DROP TABLE Numbers", "query_invalid"],
  ["CREATE TEMP TABLE", "CREATE TEMP TABLE t AS SELECT 1", "query_invalid"],
  ["BEGIN", "BEGIN", "query_invalid"],
  ["EXPLAIN", "EXPLAIN SELECT 1", "query_invalid"],
  ["nothing", " -- nothing", "query_invalid"],
  ["a NUL character", "SELECT 1\0; DROP TABLE Numbers", "query_invalid"],
  ["a syntax error", "SELEC 1", "query_invalid"],
  ["an unknown table", "SELECT * FROM Salaries", "query_invalid"],
  ["a parameter", "SELECT ? AS x", "query_invalid"],
  ["an overflow while it runs", "SELECT abs(-9223372036854775808) AS x", "query_invalid"],
  ["deep nesting", `SELECT ${"(".repeat(5000)}1${")".repeat(5000)} AS x`, "query_invalid"],
  ["a million characters", `SELECT ${"1 + ".repeat(250_000)} 1 AS x`, "query_invalid"],
];

describe("hostile queries, several at once", { concurrency: 3 }, () => {
  for (const [name, sql, code] of hostile) {
    test(`${name} ends within its limit with ${code}`, async () => {
      const started = performance.now();
      const timeMs = code === "time_limit_exceeded" ? SHORT_MS : 15_000;
      await assert.rejects(ask(sql, { limits: { ...tight, timeMs } }), (error: AppError) => {
        assert.ok(error instanceof AppError, String(error));
        assert.equal(error.code, code, error.message);
        return true;
      });
      assert.ok(performance.now() - started < timeMs + START_MS, "it took much longer than its limit");
    });
  }
});

/** A world with a name that nothing but a result may carry. */
async function canaryWorld(): Promise<World> {
  const canary: Table = {
    name: "Canary",
    columns: [
      { name: "name", type: { type: "text" } },
      { name: "least", type: { type: "integer" } },
    ],
  };
  const path = join(await temporaryFolder(), "canary.sqlite");
  const file = new Database(path);
  file.exec(`${createTableSql(canary)}; INSERT INTO Canary VALUES ('kanarie-4711', -9223372036854775808)`);
  file.close();
  return { path, dataSets: [dataSetOf(canary)] };
}

/** Each fails on the canary's value; SQLite quotes it in the messages of some. */
const failing: readonly [expression: string, says: RegExp][] = [
  ["json_extract('{}', name)", /bad JSON path\.$/],
  ["json_extract('{}', (SELECT group_concat(name || least) FROM Canary))", /bad JSON path\.$/],
  ["json_extract(name, '$')", /malformed JSON\.$/],
  ["json_set('{}', name, 1)", /bad JSON path\.$/],
  ["json_insert('{}', name, 1)", /bad JSON path\.$/],
  ["json_replace('{}', name, 1)", /bad JSON path\.$/],
  ["json_remove('{}', name)", /bad JSON path\.$/],
  ["json_type('{}', name)", /bad JSON path\.$/],
  ["json_array_length('{}', name)", /bad JSON path\.$/],
  ["'{}' ->> ('$' || name)", /bad JSON path\.$/],
  ["json(name)", /malformed JSON\.$/],
  ["json_patch(name, '{}')", /malformed JSON\.$/],
  ["(SELECT value FROM json_each('{}', name))", /bad JSON path\.$/],
  ["(SELECT value FROM json_tree(name))", /malformed JSON\.$/],
  ["abs(least)", /integer overflow\.$/],
  ["name LIKE 'x' ESCAPE name", /single character\.$/],
  ["unistr(name || '\\u')", /invalid Unicode escape\.$/],
  ["ntile(least) OVER (ORDER BY name)", /must be a positive integer\.$/],
  ["median(name)", /an expression failed on a value\.$/],
  ["percentile(least, name)", /an expression failed on a value\.$/],
  ["name REGEXP name", /no such function: REGEXP\.$/],
  ["name MATCH name", /a function is used where it cannot be\.$/],
  ["printf('%.*c', 2147483647, name)", /more memory/],
];

describe("what a query fails with while it runs", { concurrency: 3 }, () => {
  for (const [expression, says] of failing) {
    test(`${expression} carries no value`, async () => {
      const asked = ask(`SELECT ${expression} AS x FROM Canary`, { world: await canaryWorld() });
      await assert.rejects(asked, (error: AppError) => {
        assert.ok(error instanceof AppError, String(error));
        assert.match(error.message, says);
        assert.ok(!/kanarie|4711|9223372036854775808/.test(JSON.stringify(toFailure(error))), error.message);
        return true;
      });
    });
  }

  test("a constant that fails is no value, but is not told apart from one", async () => {
    await assert.rejects(ask("SELECT json_extract('{}', 'kanarie') AS x"), { message: /bad JSON path\.$/ });
  });
});

test("CAST, printf, round and the functions of dates fail on no value at all", async () => {
  const expressions = "CAST(name AS INTEGER), printf('%d', name), round(name), date(name), strftime('%Q', name)";
  const { rows } = await ask(`SELECT ${expressions.replaceAll("), ", ") AS x, ")} AS y FROM Canary`, {
    world: await canaryWorld(),
  });
  assert.deepEqual(rows, [[0n, "0", 0, null, null]]);
});

test("after all that nothing is left of them, the next query works, and the world is as it was", async () => {
  await nothingIsLeft();
  assert.deepEqual((await ask("SELECT count(*) AS c FROM Numbers")).rows, [[20_000n]]);
  assert.deepEqual(await readdir(worldFolder), ["world.sqlite"]);
});

test("the schema table shows the granted tables and nothing else", async () => {
  const { rows } = await ask("SELECT name FROM sqlite_schema ORDER BY name");
  assert.deepEqual(rows, [["Numbers"], ["People"]]);
});

test("json_each is offered", async () => {
  assert.deepEqual((await ask("SELECT value FROM json_each('[1, 2]')")).rows, [[1n], [2n]]);
});

test("a cancelled query fails with the reason of the cancel, and leaves no process", async () => {
  const stop = new AbortController();
  const asking = ask("WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT count(*) AS c FROM c", {
    signal: stop.signal,
  });
  await Promise.race([asking, eventually(async () => (await childProcesses()).length === 1)]);
  stop.abort(new AppError("agreement_gone", "The agreement has gone."));
  await assert.rejects(asking, { code: "agreement_gone" });
  await nothingIsLeft();
});

test("a query that was cancelled before it began does not begin", async () => {
  await assert.rejects(ask("SELECT 1 AS x", { signal: AbortSignal.abort(new AppError("cancelled", "no")) }), {
    code: "cancelled",
  });
});

test("a reader that leaves early ends the process", async () => {
  const { batches } = await start("SELECT a.n FROM Numbers a, Numbers b");
  for await (const batch of batches) {
    assert.ok(batch.numRows > 0);
    break;
  }
  await nothingIsLeft();
});

test("a query waits for its reader: it holds no more than a few batches, and the wait does not count as its time", async () => {
  const { batches } = await start("SELECT a.n AS a, b.n AS b FROM Numbers a, Numbers b LIMIT 100000", {
    limits: { timeMs: 3000 },
  });
  const iterator = batches[Symbol.asyncIterator]();
  await iterator.next();
  // Blocked in a write: the process uses no more processor time.
  const cpu = async (): Promise<string> => {
    const pid = (await childProcesses())[0]?.trim().split(/\s+/)[1] ?? "";
    return (await promisify(execFile)("ps", ["-o", "cputimes=,rss=", "-p", pid])).stdout;
  };
  let before = "";
  await eventually(async () => before === (before = await cpu()), { intervalMs: 300 });
  const rssBytes = Number(before.trim().split(/\s+/)[1]) * 1024;
  assert.ok(rssBytes > 0 && rssBytes < 110e6, `${rssBytes} bytes`);
  await new Promise((resolve) => setTimeout(resolve, 3100));
  let rows = 0;
  for (let next = await iterator.next(); next.done !== true; next = await iterator.next()) rows += next.value.numRows;
  assert.ok(rows > 80_000);
  await nothingIsLeft();
});

test("a query whose process is killed from outside fails, and may be repeated", async () => {
  const asking = ask("WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT count(*) AS c FROM c");
  const line = await Promise.race([asking, eventually(async () => (await childProcesses())[0])]);
  process.kill(Number((line as string).trim().split(/\s+/)[1]), "SIGKILL");
  await assert.rejects(asking, { code: "job_failed", retryable: true });
  await nothingIsLeft();
});

test("a query ends with the process that asked it", async () => {
  const folder = await temporaryFolder();
  const moduleUrl = (name: string): string =>
    JSON.stringify(new URL(`../../../microservices/sql-query/${name}.js`, import.meta.url).href);
  const program = `
    const { runQuery } = await import(${moduleUrl("query")});
    const { QueryProcesses } = await import(${moduleUrl("query-processes")});
    const processes = new QueryProcesses(${JSON.stringify({ limits: DEFAULT_QUERY_LIMITS, temporaryFolder: folder, atOnce: 1 })});
    const world = ${JSON.stringify(world)};
    const sql = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT count(*) AS orphan FROM c";
    await runQuery({ sql, world, signal: new AbortController().signal }, processes);`;
  const parent = execFile(process.execPath, ["--input-type=module", "-e", program]);
  const children = async (): Promise<string[]> => {
    const { stdout } = await promisify(execFile)("ps", ["-e", "-o", "ppid=,pid=,args="]);
    return stdout
      .split("\n")
      .filter((line) => line.includes("query-child") && line.trim().startsWith(`${parent.pid} `));
  };
  const line = await eventually(async () => (await children())[0]);
  const pid = Number(line.trim().split(/\s+/)[1]);
  parent.kill("SIGKILL");
  await eventually(() => !isRunning(pid), { describe: "the query's process to end" });
});

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
