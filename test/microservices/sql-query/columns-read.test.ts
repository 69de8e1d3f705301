import assert from "node:assert/strict";
import { test } from "node:test";
import Database from "better-sqlite3";
import type { DataSet } from "../../../lib/model/dataset.ts";
import { columnsRead, readsNoSensitiveColumn } from "../../../microservices/sql-query/columns-read.ts";
import { guardStatement } from "../../../microservices/sql-query/guarded-statement.ts";

const database = new Database(":memory:");
database.exec(
  "CREATE TABLE People (number TEXT, sex TEXT, born TEXT); CREATE TABLE Jobs (number TEXT, pay REAL, sex TEXT)",
);
database.exec("INSERT INTO People VALUES ('1', 'M', '1970-01-01'); INSERT INTO Jobs VALUES ('1', 10, 'M'); ANALYZE");

function namesRead(sql: string): string[] | undefined {
  const columns = columnsRead(database, guardStatement(database, sql).program);
  return columns?.map(({ table, column }) => `${table}.${column}`).sort();
}

const text = { type: "text" } as const;
const dataSet: DataSet = {
  name: "test",
  type: "sqlite",
  tables: [
    { name: "People", columns: ["number", "sex", "born"].map((name) => ({ name, type: text })) },
    { name: "Jobs", columns: ["number", "pay", "sex"].map((name) => ({ name, type: text })) },
  ],
  sensitive_columns: { People: ["number"] },
  anonymization: { People: { born: { method: "mask" } } },
};

test("the columns that a statement reads are those of its program, whatever its text looks like", () => {
  assert.deepEqual(namesRead("SELECT sex FROM People"), ["People.sex"]);
  assert.deepEqual(namesRead('SELECT count("sex") FROM (SELECT * FROM People)'), ["People.sex"]);
  assert.deepEqual(namesRead("SELECT * FROM People"), ["People.born", "People.number", "People.sex"]);
  assert.deepEqual(namesRead("SELECT pay FROM Jobs NATURAL JOIN People"), [
    "Jobs.number",
    "Jobs.pay",
    "Jobs.sex",
    "People.number",
    "People.sex",
  ]);
  assert.deepEqual(namesRead("SELECT 'born', count(*) FROM People"), []);
  assert.deepEqual(namesRead("SELECT sex FROM People WHERE born > '1960' ORDER BY number"), [
    "People.born",
    "People.number",
    "People.sex",
  ]);
  assert.deepEqual(namesRead("SELECT sex FROM People UNION SELECT number FROM Jobs"), ["Jobs.number", "People.sex"]);
  assert.deepEqual(namesRead("SELECT sex, sum(pay) OVER (ORDER BY pay) FROM Jobs"), ["Jobs.pay", "Jobs.sex"]);
  assert.deepEqual(namesRead("SELECT (SELECT max(born) FROM People p WHERE p.sex = j.sex) FROM Jobs j"), [
    "Jobs.sex",
    "People.born",
    "People.sex",
  ]);
  assert.deepEqual(namesRead("SELECT 1 WHERE EXISTS (SELECT 1 FROM People WHERE number LIKE '1%')"), ["People.number"]);
  assert.deepEqual(namesRead("WITH c AS MATERIALIZED (SELECT born AS b FROM People) SELECT c.b FROM c, c AS d"), [
    "People.born",
  ]);
});

test("what the program reads in another way is not known", () => {
  assert.equal(namesRead("SELECT value FROM People, json_each(People.number)"), undefined);
  assert.equal(namesRead("SELECT sql FROM sqlite_schema"), undefined);
});

test("a statement reads no sensitive column only if all that it reads are declared and open", () => {
  const isSafe = (sql: string): boolean =>
    readsNoSensitiveColumn(database, guardStatement(database, sql).program, [dataSet]);
  assert.ok(isSafe("SELECT sex, avg(pay) FROM Jobs GROUP BY sex"));
  assert.ok(isSafe("SELECT lower(sex) FROM People UNION ALL SELECT sex FROM Jobs"));
  assert.ok(!isSafe("SELECT count(*) FROM People WHERE number = '1'"));
  assert.ok(!isSafe("SELECT * FROM People"), "a star reads sensitive columns without naming them");
  assert.ok(!isSafe("SELECT max(born) FROM People"), "a column with a method is sensitive");
  assert.ok(!isSafe("SELECT stat FROM sqlite_stat1"), "a table that is not declared");
});
