import assert from "node:assert/strict";
import { test } from "node:test";
import Database from "better-sqlite3";
import { createTableSql } from "../../../lib/data/sqlite-tables.ts";
import type { DataSet, Table } from "../../../lib/model/dataset.ts";
import { guardStatement } from "../../../microservices/sql-query/guarded-statement.ts";
import { outputColumns } from "../../../microservices/sql-query/output-columns.ts";

const people: Table = {
  name: "People",
  columns: [
    { name: "number", type: { type: "text" } },
    { name: "age", type: { type: "integer" } },
  ],
};
const dataSet: DataSet = { name: "test", type: "sqlite", tables: [people], sensitive_columns: {} };
const database = new Database(":memory:");
database.exec(createTableSql(people));
database.exec("INSERT INTO People VALUES ('007', 42)");

function rowsOf(sql: string): unknown[] {
  return guardStatement(database, sql).statement.raw(true).all();
}

function sourcesOf(sql: string): unknown[] {
  return outputColumns(guardStatement(database, sql), [dataSet]).map(
    (column) => column.metadata["dynamos.sourceColumn"],
  );
}

test("comments and semicolons behind the statement do no harm", () => {
  for (const tail of [";", " ; ;-- end", "\n-- end", "/* end", "/* ; */;", "--", "/**/", "/* ' */ -- \""]) {
    assert.deepEqual(rowsOf(`SELECT 1 AS one${tail}`), [[1]], tail);
  }
  assert.deepEqual(rowsOf(`SELECT ';--''' AS t, "number" AS [a;b], \`age\` FROM People -- ";`), [[";--'", "007", 42]]);
});

test("a granted column keeps its origin through names, subselects, common table expressions, joins and groups", () => {
  assert.deepEqual(sourcesOf("SELECT number AS x, number || '' AS y FROM (SELECT * FROM People)"), [
    "number",
    undefined,
  ]);
  assert.deepEqual(sourcesOf("WITH c AS (SELECT number AS v FROM People) SELECT v FROM c"), ["number"]);
  assert.deepEqual(sourcesOf("SELECT b.number, a.age FROM People a LEFT JOIN People b USING (age)"), ["number", "age"]);
  assert.deepEqual(sourcesOf("SELECT number, max(age), count(*) FROM People GROUP BY number"), [
    "number",
    undefined,
    undefined,
  ]);
  assert.deepEqual(sourcesOf("SELECT (SELECT number FROM People) AS x"), ["number"]);
});

test("in a compound, where SQLite names the origin of one of its selects, no column has one", () => {
  for (const compound of [
    "SELECT number FROM People UNION ALL SELECT age FROM People",
    "SELECT x FROM (SELECT age AS x FROM People uNiOn SELECT number FROM People)",
    "SELECT number FROM People INTERSECT SELECT number FROM People",
    "SELECT * FROM (VALUES ((SELECT number FROM People)), ('x'))",
    "SELECT number /* union */ FROM People EXCEPT SELECT 'x'",
    "WITH RECURSIVE c(x) AS (SELECT number FROM People UNION SELECT age FROM People) SELECT x FROM c",
  ]) {
    assert.deepEqual(sourcesOf(compound), [undefined], compound);
  }
});

test("the words of compounds in text, names and comments make none", () => {
  assert.deepEqual(sourcesOf(`SELECT number, 'union' AS "values" /* union */ FROM People -- union`), [
    "number",
    undefined,
  ]);
});
