import assert from "node:assert/strict";
import { mkdir, readdir, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { loadDataSet } from "../../../agent/data/load.ts";
import { systemClock } from "../../../lib/clock.ts";
import { columnReaders } from "../../../lib/data/column-reader.ts";
import { PARTIAL_STATES } from "../../../lib/data/field-metadata.ts";
import { contentsFileOf } from "../../../lib/data/duckdb-tables.ts";
import { openDuckdb } from "../../../lib/data/duckdb.ts";
import { fieldsOf, formatCell, type CellValue, type FieldSpec } from "../../../lib/data/field-types.ts";
import { AppError, toFailure, type ErrorCode } from "../../../lib/errors.ts";
import type { DataSet, Table } from "../../../lib/model/dataset.ts";
import type { PushedQuestion } from "../../../microservices/sql-query/pushdown.ts";
import { runQuery } from "../../../microservices/sql-query/query.ts";
import { QueryProcesses } from "../../../microservices/sql-query/query-processes.ts";
import { DEFAULT_QUERY_LIMITS, type QueryLimits } from "../../../microservices/sql-query/query-protocol.ts";
import { openWorld, type DataSetSource } from "../../../microservices/sql-query/world.ts";
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
const dataSet: DataSet = {
  name: "test",
  type: "parquet",
  tables: [people, numbers],
  sensitive_columns: { People: ["pay"] },
};

const folder = await temporaryFolder();
const worlds = await temporaryFolder();
const temporary = join(await temporaryFolder(), "temporary");
await mkdir(temporary);
let source: DataSetSource;
let processes: QueryProcesses;

before(async () => {
  await writeFile(
    join(folder, "people.csv"),
    "number;age;pay;height;member;born;seen\r\n" +
      "007;9007199254740993;9999999999999.99;1.5;true;1964-02-29;2022-12-31 23:59:59.000001\r\n" +
      ";;;;;;\r\n" +
      "a name of more than twelve bytes: kanarie-4711;-1;-0.01;-2;false;2022-12-31;1969-12-31 23:59:59\r\n",
  );
  const database = await scratch();
  await database.connection.run(
    `COPY (SELECT range + 1 AS n FROM range(20000)) TO '${join(folder, "numbers.parquet")}'`,
  );
  database.close();
  const files = { People: join(folder, "people.csv"), Numbers: join(folder, "numbers.parquet") };
  source = await loadDataSet(
    dataSet,
    { engine: "duckdb", files },
    { folder: join(folder, "loaded"), clock: systemClock },
  );
  processes = new QueryProcesses({ limits: limits(), temporaryFolder: temporary, atOnce: 2 });
});
after(() => processes.close());

function scratch(): ReturnType<typeof openDuckdb> {
  return openDuckdb({
    path: ":memory:",
    readOnly: false,
    memoryBytes: 64e6,
    temporaryFolder: folder,
    temporaryBytes: 64e6,
    externalAccess: true,
  });
}

function limits(some: Partial<QueryLimits> = {}): QueryLimits {
  return { ...DEFAULT_QUERY_LIMITS, timeMs: 20_000, ...some };
}

interface Answer {
  readonly fields: readonly FieldSpec[];
  readonly metadata: ReadonlyMap<string, string>;
  readonly rows: CellValue[][];
}

async function ask(
  sql: string,
  granted: DataSet = dataSet,
  asked = processes,
  pushed?: PushedQuestion,
): Promise<Answer> {
  const signal = new AbortController().signal;
  const world = await openWorld([granted], [source], { cacheFolder: worlds, clock: systemClock, signal });
  try {
    const { schema, batches } = await runQuery({ sql, world, signal, ...(pushed ? { pushed } : {}) }, asked);
    const rows: CellValue[][] = [];
    for await (const batch of batches) {
      const readers = columnReaders(batch);
      for (let row = 0; row < batch.numRows; row++) rows.push(readers.map((reader) => reader.get(row)));
    }
    return { fields: fieldsOf(schema), metadata: schema.metadata, rows };
  } finally {
    world.release();
  }
}

test("columns have their declared types, and their values come back exactly", async () => {
  const { fields, rows } = await ask("SELECT * FROM People");
  assert.deepEqual(
    fields.map((field) => field.type.kind),
    ["text", "integer", "decimal", "float", "boolean", "date", "timestamp"],
  );
  assert.deepEqual(
    rows.map((row) => row.map((value, index) => formatCell(fields[index]!.type, value))),
    [
      ["007", "9007199254740993", "9999999999999.99", "1.5", "true", "1964-02-29", "2022-12-31T23:59:59.000001Z"],
      ["", "", "", "", "", "", ""],
      [
        "a name of more than twelve bytes: kanarie-4711",
        "-1",
        "-0.01",
        "-2",
        "false",
        "2022-12-31",
        "1969-12-31T23:59:59Z",
      ],
    ],
  );
});

test("expressions have DuckDB's own types, as far as a result can have them", async () => {
  const sql =
    "SELECT sum(n) AS s, avg(n) AS a, sum(n * 1.25) AS d, 1::TINYINT AS t, 3000000000::UINTEGER AS u, " +
    "(-5)::SMALLINT AS m, 1.5::FLOAT AS f, count(*) > 1 AS b, NULL AS x FROM Numbers";
  const { fields, rows } = await ask(sql);
  assert.deepEqual(
    rows.map((row) => row.map((value, index) => formatCell(fields[index]!.type, value))),
    [["200010000", "10000.5", "250012500.00", "1", "3000000000", "-5", "1.5", "true", ""]],
  );
});

test("a sum beyond 64 bits is an error that names the CAST which helps", async () => {
  await assert.rejects(ask("SELECT sum(9223372036854775807) AS s FROM Numbers"), {
    code: "type_mismatch",
    message: /column s .* CAST\(… AS DOUBLE\) AS s/,
  });
  await assert.rejects(ask("SELECT [n] AS list FROM Numbers"), {
    code: "type_mismatch",
    message: /CAST\(… AS VARCHAR\)/,
  });
});

test("a large result keeps its order, its texts and its nulls", async () => {
  const sql =
    "SELECT n, CASE WHEN n % 5 = 0 THEN NULL WHEN n % 3 = 0 THEN 'short' ELSE 'a longer text, number ' || n END AS t, " +
    "CASE WHEN n % 7 = 0 THEN NULL ELSE n / 4 END AS q FROM Numbers ORDER BY n DESC";
  const { rows } = await ask(sql);
  assert.equal(rows.length, 20_000);
  for (const [index, [n, t, q]] of rows.entries()) {
    const want = 20_000 - index;
    assert.equal(n, BigInt(want));
    assert.equal(t, want % 5 === 0 ? null : want % 3 === 0 ? "short" : `a longer text, number ${String(want)}`);
    assert.equal(q, want % 7 === 0 ? null : want / 4);
  }
});

test("a result column says which granted column its values come from, where that is certain", async () => {
  const originsOf = async (sql: string): Promise<unknown[]> => {
    const { fields } = await ask(sql);
    return fields.map((field) => field.metadata?.["dynamos.sourceColumn"]);
  };
  assert.deepEqual(await originsOf("SELECT p.pay AS x, pay + 1 AS y, p.* FROM People p LIMIT 0"), [
    "pay",
    undefined,
    ...people.columns.map(({ name }) => name),
  ]);
  assert.deepEqual(await originsOf("SELECT n, pay FROM People, Numbers LIMIT 0"), ["n", "pay"]);
  assert.deepEqual(await originsOf("SELECT pay FROM (SELECT pay FROM People) q LIMIT 0"), [undefined]);
  assert.deepEqual(await originsOf("WITH People AS (SELECT 1 AS pay) SELECT pay FROM People"), [undefined]);
  assert.deepEqual(await originsOf("SELECT pay FROM People UNION ALL SELECT 1"), [undefined]);
  assert.deepEqual(await originsOf("SELECT 1 AS pay FROM People LIMIT 0"), [undefined]);
});

const sensitivity: readonly [sql: string, isRead: boolean][] = [
  ["SELECT age FROM People", false],
  ["SELECT count(*) AS c FROM People", false],
  ["SELECT n FROM Numbers", false],
  ["SELECT * FROM Numbers", true],
  ["SELECT age FROM People WHERE pay > 3", true],
  ["SELECT age FROM People ORDER BY PAY", true],
  ['SELECT p."Pay" AS x FROM People p', true],
  ["SELECT * FROM People", true],
  ["SELECT COLUMNS('p.*') FROM People", true],
  ["SELECT p::VARCHAR AS x FROM People p", true],
  ["SELECT People::VARCHAR AS x FROM People", true],
  ["SELECT #3 AS x FROM People", true],
  ["SELECT a.age FROM People a NATURAL JOIN People b", true],
  ["SELECT a.age FROM People a JOIN People b USING (pay)", true],
  ["SELECT (SELECT max(pay) FROM People) AS x FROM Numbers LIMIT 1", true],
  ["SELECT c FROM People AS x(a, b, c)", true],
  ["SELECT max(x.c) AS m FROM People AS x(a, b, c)", true],
  ["SELECT q.m FROM Numbers, LATERAL (SELECT max(c) AS m FROM People AS x(a, b, c)) q LIMIT 1", true],
  ["WITH q(z) AS (SELECT c FROM People AS x(a, b, c)) SELECT z FROM q", true],
  ["SELECT rowid AS x FROM People", true],
  ["SELECT people.PAY AS x FROM people", true],
  ["SELECT a.age FROM People a POSITIONAL JOIN People b", true],
  ["WITH q(z) AS (SELECT age FROM People) SELECT z + 1 AS y FROM q ORDER BY y", false],
  ["SELECT q.z FROM (SELECT age FROM People) AS q(z)", false],
  ["SELECT list_transform([age], lambda x: x + 1)[1] AS y FROM People", false],
  ["SELECT age + range AS y FROM People, range(3)", false],
];

for (const [sql, isRead] of sensitivity) {
  test(`${sql} ${isRead ? "counts as reading" : "reads no"} sensitive columns`, async () => {
    const { metadata } = await ask(sql).catch((error: unknown) => {
      // A row as text has the type of nothing else.
      assert.ok(error instanceof AppError && error.code === "query_invalid", String(error));
      return { metadata: new Map<string, string>() };
    });
    // Where no table of the query has any, a star reads none.
    const isNone = metadata.get("dynamos.sensitiveColumnsRead") === "none";
    assert.equal(isNone, !isRead || sql === "SELECT * FROM Numbers");
  });
}

test("what is not granted is not there", async () => {
  const granted: DataSet = {
    ...dataSet,
    tables: [{ ...people, columns: people.columns.filter(({ name }) => name === "age") }],
  };
  assert.deepEqual((await ask("SELECT * FROM People ORDER BY age", granted)).rows, [
    [-1n],
    [9007199254740993n],
    [null],
  ]);
  await assert.rejects(ask("SELECT pay FROM People", granted), { code: "query_invalid" });
  await assert.rejects(ask("SELECT n FROM Numbers", granted), { code: "query_invalid" });
  assert.equal((await readdir(worlds)).filter((name) => name.endsWith(".duckdb")).length, 1);
});

test("subqueries have their names where they hold, and are asked in functions that compute", async () => {
  const sql =
    "WITH RECURSIVE a AS (SELECT n FROM Numbers WHERE n < 3), c(n) AS (SELECT min(n) FROM a UNION ALL SELECT n + 1 FROM c WHERE n < 5) " +
    "SELECT count(*) AS k, sum(n) FILTER (n > 2) AS s, max(upper('x' || n)) AS u, (WITH a AS (SELECT 7 AS n) SELECT n FROM a) AS q, " +
    "any_value(current_date) IS NOT NULL AS d, any_value(month(DATE '2022-02-03')) AS m, " +
    "any_value(CASE WHEN 'abc' LIKE 'a%' AND 2 IN (1, 2) THEN coalesce(NULL, -4) END) AS e FROM c";
  const { rows } = await ask(sql);
  assert.deepEqual(
    rows.map((row) => row.map(String)),
    [["5", "12", "X5", "7", "true", "2", "-4"]],
  );
});

const attacks: readonly string[] = [
  "ATTACH '/tmp/other.duckdb'",
  "DETACH test",
  "COPY People TO '/tmp/stolen.csv'",
  "COPY Numbers FROM '/etc/passwd'",
  "EXPORT DATABASE '/tmp/stolen'",
  "INSTALL httpfs",
  "LOAD httpfs",
  "PRAGMA database_list",
  "PRAGMA enable_external_access = true",
  "SET enable_external_access = true",
  "SET memory_limit = '10GB'",
  "RESET memory_limit",
  "SET VARIABLE x = 1",
  "CALL pragma_version()",
  "CHECKPOINT",
  "CREATE TABLE t AS SELECT 1",
  "CREATE TEMP MACRO f() AS 1",
  "CREATE SECRET s (TYPE s3)",
  "INSERT INTO Numbers VALUES (1)",
  "DELETE FROM Numbers",
  "DROP TABLE Numbers",
  "BEGIN",
  "EXPLAIN SELECT 1",
  "PREPARE p AS SELECT 1",
  "EXECUTE p",
  "DESCRIBE People",
  "SUMMARIZE People",
  "SHOW ALL TABLES",
  "PIVOT People ON age USING count(*)",
  "SELECT 1; SELECT 2",
  "SELECT * FROM read_csv('/etc/passwd')",
  "SELECT * FROM read_text('/etc/passwd')",
  "SELECT * FROM read_blob('/etc/passwd')",
  "SELECT * FROM read_parquet('/tmp/x.parquet')",
  "SELECT * FROM read_json('/tmp/x.json')",
  "SELECT * FROM '/etc/passwd'",
  "SELECT * FROM '/tmp/x.parquet'",
  "SELECT * FROM glob('/etc/*')",
  "SELECT * FROM sniff_csv('/etc/passwd')",
  "SELECT * FROM query('SELECT 1')",
  "SELECT * FROM query_table('People')",
  "SELECT * FROM duckdb_settings()",
  "SELECT * FROM duckdb_databases()",
  "SELECT * FROM duckdb_secrets()",
  "SELECT * FROM duckdb_logs()",
  "SELECT * FROM duckdb_temporary_files()",
  "SELECT * FROM pragma_storage_info('People')",
  "SELECT * FROM pragma_database_list()",
  "SELECT * FROM pragma_table_info('People')",
  "SELECT * FROM information_schema.tables",
  "SELECT * FROM pg_catalog.pg_class",
  "SELECT * FROM duckdb_tables",
  "SELECT * FROM sqlite_master",
  "SELECT * FROM test.main.People",
  "SELECT (SELECT count(*) FROM duckdb_settings()) AS x FROM People",
  "WITH q AS (SELECT * FROM read_csv('/etc/passwd')) SELECT * FROM q",
  "SELECT * FROM Numbers WHERE n IN (SELECT count(*) FROM duckdb_settings())",
  "SELECT current_setting('temp_directory') AS x",
  "SELECT getenv('HOME') AS x",
  "SELECT current_database() AS x",
  "SELECT pg_get_viewdef('x') AS x",
  "SELECT nextval('s') AS x",
  "SELECT json_execute_serialized_sql('x') AS x",
  "SELECT * FROM json_execute_serialized_sql(json_serialize_sql('SELECT 1'))",
  "SELECT * FROM (WITH pragma_database_list AS (SELECT 1) SELECT 1) q, pragma_database_list",
  "SELECT * FROM (WITH duckdb_databases AS (SELECT 1) SELECT 1) q, duckdb_databases",
  "WITH duckdb_tables AS (SELECT * FROM duckdb_tables) SELECT * FROM duckdb_tables",
  "WITH sqlite_master AS (SELECT * FROM sqlite_master) SELECT * FROM sqlite_master",
  "WITH RECURSIVE duckdb_views(n) AS (SELECT view_oid FROM duckdb_views UNION SELECT n FROM duckdb_views) SELECT n FROM duckdb_views",
  "SELECT (WITH x AS (SELECT 1 AS n) SELECT n FROM x) AS y, n FROM x",
  "WITH a AS (SELECT n FROM b), b AS (SELECT 1 AS n) SELECT n FROM a",
  "WITH RECURSIVE c(n) AS (SELECT n FROM c UNION SELECT 1) SELECT n FROM c",
  "SELECT pay.abs() AS x FROM People",
  "SELECT p.pay.abs() AS x FROM People p",
  "SELECT system.main.abs(pay) AS x FROM People",
  "SELECT version() AS x",
  "SELECT current_catalog AS x",
  "SELECT current_catalog() AS x",
  "SELECT current_schema AS x",
  "SELECT current_role AS x",
  "SELECT session_user AS x",
  "SELECT user AS x",
  'SELECT "USER" AS x FROM People',
  "SELECT getvariable('x') AS x",
  "SELECT get_block_size('test') AS x",
  "SELECT stats(pay) AS x FROM People",
  "SELECT json_serialize_sql('SELECT 1') AS x",
  "SELECT a_function_of_tomorrow(pay) AS x FROM People",
  "SELECT ? AS x",
  "SELECT $name AS x",
  "SELECT 1\0",
  'SELECT 1 AS ""',
  "",
  "SELEC 1",
];

for (const sql of attacks) {
  test(`refused with query_invalid: ${sql || "nothing"}`, async () => {
    await assert.rejects(ask(sql), (error: AppError) => {
      assert.equal(error.code, "query_invalid", error.message);
      return true;
    });
  });
}

const failing: readonly string[] = [
  "SELECT CAST(number AS INTEGER) AS x FROM People WHERE age = -1",
  "SELECT CAST(number AS DATE) AS x FROM People WHERE age = -1",
  "SELECT strptime(number, '%Y') AS x FROM People WHERE age = -1",
  "SELECT CAST(age AS TINYINT) AS x FROM People",
  "SELECT age * 9223372036854775807 AS x FROM People WHERE age > 0",
  "SELECT CAST(pay AS DECIMAL(4,2)) AS x FROM People WHERE age > 0",
  "SELECT error(number) AS x FROM People",
  "SELECT json_extract(number, '$.x') AS x FROM People WHERE age = -1",
  "SELECT regexp_matches('x', number || '(') AS x FROM People WHERE age = -1",
  "SELECT (SELECT number FROM People) AS x",
];

describe("what a query fails with while it runs", () => {
  for (const sql of failing) {
    test(`${sql} carries no value`, async () => {
      await assert.rejects(ask(sql), (error: AppError) => {
        assert.ok(error instanceof AppError, String(error));
        assert.ok(!/kanarie|4711|9007199254740993|9999999999999/.test(JSON.stringify(toFailure(error))), error.message);
        return true;
      });
    });
  }
});

const hostile: readonly [name: string, sql: string, limit: Partial<QueryLimits>, code: ErrorCode][] = [
  [
    "an endless recursion",
    "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT (n + 1) % 1000 FROM c) SELECT count(*) AS c FROM c",
    { timeMs: 1500 },
    "time_limit_exceeded",
  ],
  [
    "a cartesian join",
    "SELECT count(*) AS c FROM Numbers a, Numbers b, Numbers c WHERE a.n * b.n + c.n < 0",
    { timeMs: 1500 },
    "time_limit_exceeded",
  ],
  [
    "a sort larger than memory and disk",
    "SELECT a.n FROM Numbers a, Numbers b ORDER BY a.n * b.n, a.n, b.n",
    { memoryBytes: 200_000_000, temporaryBytes: 8_000_000, timeMs: 120_000 },
    "memory_limit_exceeded",
  ],
  ["a large value", "SELECT repeat('x', 400000000) AS x", { memoryBytes: 200_000_000 }, "memory_limit_exceeded"],
  ["too many rows", "SELECT n FROM Numbers", { rows: 1000 }, "result_too_large"],
  ["too many bytes", "SELECT repeat('x', 2000) AS x FROM Numbers LIMIT 900", { bytes: 100_000 }, "result_too_large"],
  ["a row that is too large", "SELECT repeat('x', 2000000) AS x", {}, "batch_too_large"],
];

for (const [name, sql, limit, code] of hostile) {
  test(`${name} ends with ${code}`, async () => {
    const own = new QueryProcesses({ limits: limits(limit), temporaryFolder: temporary, atOnce: 1 });
    try {
      await assert.rejects(ask(sql, dataSet, own), (error: AppError) => {
        assert.equal(error.code, code, error.message);
        return true;
      });
    } finally {
      await own.close();
    }
  });
}

const sumOfAll: PushedQuestion = { algorithm: "count,sum", algorithmColumns: { "": "n" } };

test("a query's process sends states instead of rows where it is given the question", async () => {
  const { metadata, rows } = await ask("SELECT n FROM Numbers", dataSet, processes, sumOfAll);
  assert.ok(metadata.has(PARTIAL_STATES));
  const { groups } = JSON.parse(String(rows[0]?.[0])) as { readonly groups: unknown };
  assert.deepEqual(groups, [
    [0, "20000", [], [{ count: 20_000, states: ["20000", { n: "20000", sum: "200010000" }] }]],
  ]);
});

const product = "SELECT a.n FROM Numbers a, Numbers b, Numbers c WHERE a.n * b.n + c.n < 0";
const heavy: readonly [name: string, sql: string, limit: Partial<QueryLimits>, code: ErrorCode][] = [
  ["time", product, { timeMs: 1500 }, "time_limit_exceeded"],
  [
    "memory and disk",
    "SELECT DISTINCT a.n, b.n AS m FROM Numbers a, Numbers b",
    { memoryBytes: 200_000_000, temporaryBytes: 8_000_000, timeMs: 120_000 },
    "memory_limit_exceeded",
  ],
  ["rows", "SELECT n FROM Numbers", { rows: 1000 }, "result_too_large"],
];

for (const [name, sql, limit, code] of heavy) {
  test(`an aggregation is held to the limit of ${name}`, async () => {
    const own = new QueryProcesses({ limits: limits(limit), temporaryFolder: temporary, atOnce: 1 });
    try {
      await assert.rejects(ask(sql, dataSet, own, sumOfAll), (error: AppError) => {
        assert.equal(error.code, code, error.message);
        return true;
      });
    } finally {
      await own.close();
    }
  });
}

test("what is aggregated in too much memory is answered by its rows", async () => {
  const own = new QueryProcesses({
    limits: limits({ memoryBytes: 200_000_000, temporaryBytes: 8_000_000, timeMs: 120_000 }),
    temporaryFolder: temporary,
    atOnce: 1,
  });
  const byPair: PushedQuestion = { algorithm: "count", algorithmColumns: { "n, m": "*" } };
  const sql = "SELECT a.n, b.n AS m FROM Numbers a, Numbers b WHERE b.n <= 100";
  try {
    const { metadata, rows } = await ask(sql, dataSet, own, byPair);
    assert.ok(!metadata.has(PARTIAL_STATES));
    assert.equal(rows.length, 2_000_000);
  } finally {
    await own.close();
  }
});

test("after all that the next query works, and nothing of the others is left", async () => {
  assert.deepEqual((await ask("SELECT count(*) AS c FROM Numbers")).rows, [[20_000n]]);
  await processes.close();
  assert.deepEqual(await readdir(temporary), []);
});

test("data sets of two engines cannot be asked together", async () => {
  const other: DataSet = { ...dataSet, name: "other", tables: [{ ...numbers, name: "Others" }] };
  const asked = openWorld([dataSet, other], [source, { name: "other", path: "/x.sqlite", contentHash: "x" }], {
    cacheFolder: worlds,
    clock: systemClock,
    signal: new AbortController().signal,
  });
  await assert.rejects(asked, { code: "configuration_invalid", message: /different engines \(test: duckdb\)/ });
});

test("a database of which nobody says what it holds is copied, not asked itself", async () => {
  const contents = contentsFileOf(source.path);
  await rename(contents, `${contents}.away`);
  try {
    assert.deepEqual((await ask("SELECT count(*) AS c FROM Numbers")).rows, [[20_000n]]);
    // One that holds nothing more than is granted, too.
    assert.equal((await readdir(worlds)).filter((name) => name.endsWith(".duckdb")).length, 2);
  } finally {
    await rename(`${contents}.away`, contents);
  }
});
