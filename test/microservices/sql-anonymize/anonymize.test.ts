import assert from "node:assert/strict";
import { test } from "node:test";
import Database from "better-sqlite3";
import fc from "fast-check";
import { SENSITIVE_COLUMNS_READ, SOURCE_COLUMN, SOURCE_TABLE } from "../../../lib/data/field-metadata.ts";
import { toArrowSchema, type CellValue, type FieldSpec } from "../../../lib/data/field-types.ts";
import { encodeBatch, encodeSchema } from "../../../lib/data/ipc.ts";
import { AppError } from "../../../lib/errors.ts";
import type { Anonymization, Column, ColumnType, DataSet } from "../../../lib/model/dataset.ts";
import { planAnonymization, type AnonymizeOptions } from "../../../microservices/sql-anonymize/anonymize.ts";
import { batchesOf, rowsOf } from "../../support/rows.ts";

const KEY = Buffer.from("a key of the steward, 32 bytes..");

/** A data set with one table `T`; of each column its type and, if it is sensitive, what is done. */
function dataSetOf(
  columns: Readonly<Record<string, [ColumnType, (Anonymization | "sensitive")?]>>,
  table = "T",
): DataSet {
  const sensitive = Object.entries(columns).filter(([, [, method]]) => method !== undefined);
  const methods = sensitive.flatMap(([name, [, method]]) => (method === "sensitive" ? [] : [[name, method] as const]));
  const declared: Column[] = Object.entries(columns).map(([name, [type]]) => ({ name, type }));
  return {
    name: "people",
    type: "csv",
    tables: [{ name: table, columns: declared }],
    sensitive_columns: { [table]: sensitive.map(([name]) => name) },
    anonymization: { [table]: Object.fromEntries(methods) as Record<string, Anonymization> },
  };
}

/** The result column that is the data set's column of this name. */
function direct(dataSet: DataSet, column: string, name = column): FieldSpec {
  const [table] = dataSet.tables;
  const type = table?.columns.find((candidate) => candidate.name.toLowerCase() === column.toLowerCase())?.type;
  assert.ok(table && type);
  return {
    name,
    type:
      type.type === "decimal" ? { kind: "decimal", precision: type.precision, scale: type.scale } : { kind: type.type },
    nullable: true,
    metadata: { [SOURCE_TABLE]: table.name, [SOURCE_COLUMN]: column },
  };
}

function anonymized(
  fields: readonly FieldSpec[],
  rows: readonly (readonly CellValue[])[],
  dataSets: readonly DataSet[],
  options: Partial<AnonymizeOptions> = {},
) {
  const plan = planAnonymization({ schema: toArrowSchema(fields), dataSets, query: "SELECT …", key: KEY, ...options });
  const batches = batchesOf(fields, rows, 3).map((batch) => plan.transform(batch));
  return { plan, batches, rows: rowsOf(batches) };
}

/** One column's values after the method. */
function changed(
  type: ColumnType,
  method: Anonymization,
  values: readonly CellValue[],
  key: Uint8Array = KEY,
): CellValue[] {
  const dataSet = dataSetOf({ c: [type, method] });
  const { rows } = anonymized(
    [direct(dataSet, "c")],
    values.map((value) => [value]),
    [dataSet],
    { key },
  );
  return rows.map((row) => row.c ?? null);
}

function day(text: string): number {
  return Date.parse(`${text}T00:00:00Z`) / 86_400_000;
}

const CENTS: ColumnType = { type: "decimal", precision: 9, scale: 2 };

test("generalize takes numbers to the lower end of their band, exactly, also below zero", () => {
  assert.deepEqual(changed({ type: "integer" }, { method: "generalize", width: 10 }, [19n, -1n, 20n, null]), [
    10n,
    -10n,
    20n,
    null,
  ]);
  assert.deepEqual(changed(CENTS, { method: "generalize", width: 0.5 }, [199n, -1n, 250n]), [150n, -50n, 250n]);
  assert.deepEqual(
    changed({ type: "float" }, { method: "generalize", width: 0.1 }, [0.35, -0.05, 0.3]),
    [0.3, -0.1, 0.3],
  );
});

test("generalize takes dates and timestamps to the start of their unit", () => {
  const generalize = (unit: "year" | "quarter" | "month" | "decade") =>
    changed({ type: "date" }, { method: "generalize", unit }, [day("1984-08-31"), null]);
  assert.deepEqual(generalize("year"), [day("1984-01-01"), null]);
  assert.deepEqual(generalize("quarter"), [day("1984-07-01"), null]);
  assert.deepEqual(generalize("month"), [day("1984-08-01"), null]);
  assert.deepEqual(generalize("decade"), [day("1980-01-01"), null]);
  const instant = BigInt(Date.parse("1969-12-31T23:59:59.5Z")) * 1000n;
  assert.deepEqual(changed({ type: "timestamp" }, { method: "generalize", unit: "month" }, [instant]), [
    BigInt(Date.parse("1969-12-01T00:00:00Z")) * 1000n,
  ]);
});

test("generalize keeps the first characters of a text, not halves of them", () => {
  assert.deepEqual(changed({ type: "text" }, { method: "generalize", keep: 2 }, ["\u{1f642}bc", "a", "", null]), [
    "\u{1f642}b",
    "a",
    "",
    null,
  ]);
});

test("mask makes all texts alike, and everything else null", () => {
  assert.deepEqual(changed({ type: "text" }, { method: "mask" }, ["a", "a longer one", null]), [
    "********",
    "********",
    null,
  ]);
  for (const [type, value] of [
    ["integer", 1n],
    ["float", 1],
    ["boolean", true],
    ["date", 1],
    ["timestamp", 1n],
  ] as const) {
    assert.deepEqual(changed({ type }, { method: "mask" }, [value]), [null], type);
  }
});

test("perturb moves every value, by no more than the range, and the same value always in the same way", () => {
  const wholes = Array.from({ length: 500 }, (_, i) => BigInt(i * 1000));
  const moved = changed({ type: "integer" }, { method: "perturb", range: 5 }, wholes) as bigint[];
  const noise = moved.map((value, i) => value - (wholes[i] as bigint));
  assert.ok(noise.every((by) => by !== 0n && by >= -5n && by <= 5n));
  assert.equal(new Set(noise).size, 10);
  assert.deepEqual(changed({ type: "integer" }, { method: "perturb", range: 5 }, wholes), moved);
  const floats = changed({ type: "float" }, { method: "perturb", range: 0.5 }, [1, 2, 3]) as number[];
  assert.ok(floats.every((value, i) => value !== i + 1 && Math.abs(value - i - 1) <= 0.5));
  const dates = changed({ type: "date" }, { method: "perturb", range: 30 }, [0, null]) as number[];
  assert.ok(dates[0] !== 0 && Math.abs(dates[0] as number) <= 30 && dates[1] === null);
  const cents = changed(CENTS, { method: "perturb", range: 0.02 }, [100n]) as bigint[];
  assert.ok(cents[0] !== 100n && (cents[0] as bigint) >= 98n && (cents[0] as bigint) <= 102n);
});

test("a value that cannot be moved within its type does not stay as it is", () => {
  const largest = 2n ** 63n - 1n;
  const [moved] = changed({ type: "integer" }, { method: "perturb", range: 10 }, [largest]);
  assert.ok(moved !== largest && moved !== null);
  assert.deepEqual(changed({ type: "float" }, { method: "perturb", range: 1 }, [1e300, Infinity]), [null, null]);
});

test("pseudonyms have one length, differ for different values and keys, and are the same in every table", () => {
  const method: Anonymization = { method: "pseudonymize" };
  const [a, b, again, none] = changed({ type: "text" }, method, ["a", "a rather long value", "a", null]) as string[];
  assert.match(a as string, /^[0-9a-f]{32}$/);
  assert.match(b as string, /^[0-9a-f]{32}$/);
  assert.notEqual(a, b);
  assert.equal(a, again);
  assert.equal(none, null);
  assert.notEqual(changed({ type: "text" }, method, ["a"], Buffer.alloc(32, 1))[0], a);
  const other = dataSetOf({ C: [{ type: "text" }, method], d: [{ type: "text" }, method] }, "Other");
  const { rows } = anonymized([direct(other, "C"), direct(other, "d")], [["a", "a"]], [other]);
  assert.equal(rows[0]?.C, a);
  assert.notEqual(rows[0]?.d, a);
  assert.match(changed({ type: "date" }, method, [3])[0] as string, /^[0-9a-f]{32}$/);
});

test("a dropped column is left out, and so is a sensitive one without a method", () => {
  const dataSet = dataSetOf({
    a: [{ type: "text" }],
    b: [{ type: "text" }, { method: "drop" }],
    c: [{ type: "text" }, "sensitive"],
  });
  const fields = [direct(dataSet, "b"), direct(dataSet, "a"), direct(dataSet, "c")];
  const { rows, plan } = anonymized(fields, [["x", "y", "z"]], [dataSet]);
  assert.deepEqual(rows, [{ a: "y" }]);
  assert.deepEqual(plan.droppedColumns, ["b", "c"]);
  assert.throws(
    () => anonymized([direct(dataSet, "b")], [], [dataSet]),
    (error) => error instanceof AppError && error.code === "operation_denied",
  );
});

test("another name for a sensitive column, or another case, does not help", () => {
  const dataSet = dataSetOf({ Gebdat: [{ type: "text" }, { method: "mask" }] });
  const { rows, plan } = anonymized([direct(dataSet, "GEBDAT", "x")], [["1970"]], [dataSet]);
  assert.deepEqual(rows, [{ x: "********" }]);
  assert.equal(plan.schema.fields[0]?.metadata.get("dynamos.anonymized"), "mask");
  assert.equal(plan.schema.fields[0]?.metadata.get(SOURCE_TABLE), "T");
});

test("a column sensitive in one of two data sets is sensitive", () => {
  const open = dataSetOf({ c: [{ type: "text" }] });
  const closed = dataSetOf({ c: [{ type: "text" }, { method: "mask" }] });
  assert.deepEqual(anonymized([direct(open, "c")], [["x"]], [open, closed]).rows, [{ c: "********" }]);
});

test("a column that is computed, or from an unknown table, is refused with what to do", () => {
  const dataSet = dataSetOf({ a: [{ type: "text" }], b: [{ type: "text" }, { method: "mask" }] });
  const computed: FieldSpec = { name: "substr(b, 1)", type: { kind: "text" }, nullable: true };
  const rowid: FieldSpec = { ...computed, name: "rowid", metadata: { [SOURCE_TABLE]: "T", [SOURCE_COLUMN]: "rowid" } };
  const foreign: FieldSpec = {
    ...computed,
    name: "v",
    metadata: { [SOURCE_TABLE]: "json_each", [SOURCE_COLUMN]: "value" },
  };
  for (const field of [computed, rowid, foreign]) {
    assert.throws(
      () => anonymized([direct(dataSet, "a"), field], [], [dataSet]),
      (error) => error instanceof AppError && error.code === "operation_denied" && error.details.column === field.name,
      field.name,
    );
  }
});

test("a compound select is refused, since SQLite names the origin of one of its arms only", () => {
  const dataSet = dataSetOf({ Geslacht: [{ type: "text" }], Gebdat: [{ type: "text" }, { method: "mask" }] });
  const query = "SELECT Geslacht FROM T uNiOn ALL SELECT Gebdat FROM T";
  const database = new Database(":memory:");
  database.exec("CREATE TABLE T (Geslacht TEXT, Gebdat TEXT)");
  assert.equal(database.prepare(query).columns()[0]?.column, "Geslacht", "SQLite still claims the first arm");
  database.close();
  assert.throws(
    () => anonymized([direct(dataSet, "Geslacht")], [["1970-01-01"]], [dataSet], { query }),
    (error) => error instanceof AppError && error.code === "operation_denied",
  );
});

test("computed columns pass where nothing is sensitive, and where the query provably reads nothing sensitive", () => {
  const computed: FieldSpec = { name: "count(*)", type: { kind: "integer" }, nullable: true };
  assert.deepEqual(anonymized([computed], [[3n]], [dataSetOf({ a: [{ type: "text" }] })]).rows, [{ "count(*)": 3n }]);
  const schema = toArrowSchema([computed], new Map([[SENSITIVE_COLUMNS_READ, "none"]]));
  const dataSet = dataSetOf({ a: [{ type: "text" }, { method: "mask" }] });
  assert.deepEqual(anonymized([computed], [[3n]], [dataSet], { schema }).rows, [{ "count(*)": 3n }]);
});

test("a method that does not fit the column's type is configuration_invalid, before any row", () => {
  for (const [type, method] of [
    [{ type: "text" }, { method: "perturb", range: 1 }],
    [{ type: "boolean" }, { method: "generalize", width: 1 }],
    [{ type: "integer" }, { method: "generalize" }],
    [{ type: "integer" }, { method: "generalize", width: 0.5 }],
    [{ type: "integer" }, { method: "perturb", range: 0.5 }],
    [CENTS, { method: "perturb", range: 0.001 }],
    [{ type: "date" }, { method: "generalize", width: 3 }],
    [{ type: "date" }, { method: "perturb", range: 0.5 }],
    [{ type: "text" }, { method: "generalize" }],
  ] as [ColumnType, Anonymization][]) {
    assert.throws(
      () => changed(type, method, []),
      (error) => error instanceof AppError && error.code === "configuration_invalid",
      `${type.type} ${JSON.stringify(method)}`,
    );
  }
});

test("a key that is too short is refused", () => {
  assert.throws(
    () => changed({ type: "text" }, { method: "pseudonymize" }, ["x"], Buffer.from("short")),
    (error) => error instanceof AppError && error.code === "configuration_invalid",
  );
});

test("no original value of a sensitive column is in the bytes that leave", () => {
  const types: readonly ColumnType[] = [
    { type: "text" },
    { type: "integer" },
    { type: "float" },
    { type: "date" },
    CENTS,
  ];
  const canary = fc.integer({ min: 1_000_000, max: 9_999_999 });
  const method = (type: ColumnType): fc.Arbitrary<Anonymization | "sensitive"> => {
    const always: (Anonymization | "sensitive")[] = [
      "sensitive",
      { method: "mask" },
      { method: "pseudonymize" },
      { method: "drop" },
    ];
    const generalize: Anonymization =
      type.type === "text" ? { method: "generalize", keep: 2 } : { method: "generalize", width: 1000, unit: "year" };
    return fc.constantFrom(
      ...always,
      generalize,
      ...(type.type === "text" ? [] : [{ method: "perturb", range: 50 } as const]),
    );
  };
  const table = fc
    .tuple(...types.map(method))
    .chain((methods) =>
      fc.tuple(
        fc.constant(methods),
        fc.array(fc.tuple(...types.map(() => fc.option(canary))), { minLength: 1, maxLength: 20 }),
      ),
    );
  fc.assert(
    fc.property(table, ([methods, seeds]) => {
      const dataSet = dataSetOf({
        open: [{ type: "text" }],
        ...Object.fromEntries(
          types.map((type, i) => [`c${i}`, [type, methods[i]] as [ColumnType, Anonymization | "sensitive"]]),
        ),
      });
      const fields = [direct(dataSet, "open"), ...types.map((_, i) => direct(dataSet, `c${i}`))];
      const rows = seeds.map((cells) => ["open", ...cells.map((seed, i) => canaryCell(types[i] as ColumnType, seed))]);
      const { plan, batches } = anonymized(fields, rows, [dataSet]);
      const bytes = Buffer.concat([encodeSchema(plan.schema), ...batches.map((batch) => encodeBatch(batch))]);
      const originals = new Set(rows.flatMap((row) => row.slice(1)).filter((cell) => cell !== null));
      for (const cells of rowsOf(batches)) {
        for (const [name, cell] of Object.entries(cells))
          assert.ok(name === "open" || cell === null || !originals.has(cell), String(cell));
      }
      for (const original of originals) {
        if (typeof original === "string") assert.ok(!bytes.includes(original), original);
      }
    }),
    { seed: 16, numRuns: 200 },
  );
});

/** Values that nothing but themselves looks like: odd, and far apart from the others by more than noise reaches. */
function canaryCell(type: ColumnType, seed: number | null): CellValue {
  if (seed === null) return null;
  switch (type.type) {
    case "text":
      return `canary-${seed}`;
    case "integer":
      return BigInt(seed) * 1000n + 1n;
    case "decimal":
      return (((BigInt(seed) % 1_000_000n) * 100_000n) % 999_000_000n) + 7n;
    case "date":
      return (seed % 100_000) * 2 + (new Date((seed % 100_000) * 2 * 86_400_000).getUTCDate() === 1 ? 1 : 0);
    case "float":
    case "boolean":
    case "timestamp":
      return seed * 1000 + 0.25;
  }
}
