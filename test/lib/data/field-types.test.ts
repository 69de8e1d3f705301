import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { isoDate, isoTimestamp } from "../../../lib/data/calendar.ts";
import { cellToJson, fieldTypeOfColumn, formatCell, toArrowSchema } from "../../../lib/data/field-types.ts";
import { BatchBuilder } from "../../../lib/data/batch-builder.ts";
import { columnReader } from "../../../lib/data/column-reader.ts";
import type { CellValue, FieldSpec, FieldType } from "../../../lib/data/field-types.ts";

const decimal = (precision: number, scale: number): FieldType => ({ kind: "decimal", precision, scale });

test("decimals are written with exactly their scale", () => {
  assert.equal(formatCell(decimal(5, 2), -105n), "-1.05");
  assert.equal(formatCell(decimal(5, 2), 5n), "0.05");
  assert.equal(formatCell(decimal(5, 2), -5n), "-0.05");
  assert.equal(formatCell(decimal(5, 0), 105n), "105");
  assert.equal(formatCell(decimal(5, 5), -1n), "-0.00001");
  assert.equal(formatCell(decimal(38, 0), 10n ** 38n - 1n), "9".repeat(38));
  assert.equal(formatCell(decimal(5, -2), 105n), "10500");
});

test("dates and instants agree with the platform's calendar wherever that reaches", () => {
  fc.assert(
    fc.property(fc.integer({ min: -100_000_000, max: 100_000_000 }), (days) => {
      assert.equal(isoDate(days), new Date(days * 86_400_000).toISOString().split("T")[0]);
    }),
  );
  fc.assert(
    fc.property(fc.integer({ min: -8_640_000_000_000_000, max: 8_640_000_000_000_000 }), (ms) => {
      const expected = new Date(ms).toISOString().replace(".000Z", "Z");
      assert.equal(isoTimestamp(BigInt(ms) * 1000n), expected);
    }),
  );
});

test("instants keep their microseconds, before and after the epoch", () => {
  assert.equal(isoTimestamp(0n), "1970-01-01T00:00:00Z");
  assert.equal(isoTimestamp(-1n), "1969-12-31T23:59:59.999999Z");
  assert.equal(isoTimestamp(1_700_000_000_120_000n), "2023-11-14T22:13:20.120Z");
  assert.equal(isoTimestamp(-(2n ** 63n)), "-290308-12-21T19:59:05.224192Z");
  assert.equal(isoDate(2 ** 31 - 1), "+5881580-07-11");
});

test("JSON has a number where a double holds it as written, and text where it does not", () => {
  const integer: FieldType = { kind: "integer" };
  assert.equal(cellToJson(integer, 2n ** 53n - 1n), 9007199254740991);
  assert.equal(cellToJson(integer, 2n ** 53n), "9007199254740992");
  assert.equal(cellToJson(integer, -(2n ** 63n)), "-9223372036854775808");
  assert.equal(cellToJson(decimal(15, 2), 999_999_999_999_999n), 9999999999999.99);
  assert.equal(cellToJson(decimal(18, 2), 1_000_000_000_000_001n), "10000000000000.01");
  assert.equal(cellToJson({ kind: "float" }, NaN), "NaN");
  assert.equal(cellToJson({ kind: "float" }, -Infinity), "-Infinity");
  assert.equal(cellToJson({ kind: "float" }, 0.1), 0.1);
  assert.equal(cellToJson({ kind: "boolean" }, false), false);
  assert.equal(cellToJson({ kind: "date" }, 0), "1970-01-01");
  assert.equal(cellToJson({ kind: "text" }, null), null);
});

test("numbers in JSON, read back, are the decimals that went in", () => {
  fc.assert(
    fc.property(fc.nat(15), fc.bigInt({ min: -(10n ** 15n) + 1n, max: 10n ** 15n - 1n }), (scale, unscaled) => {
      const json = cellToJson(decimal(15, scale), unscaled) as number;
      assert.equal(json.toFixed(scale), formatCell(decimal(15, scale), unscaled));
    }),
  );
});

test("a declared column has the type that its metadata says", () => {
  assert.deepEqual(
    fieldTypeOfColumn({ type: "decimal", precision: 9, scale: 2, decimalSeparator: "," }),
    decimal(9, 2),
  );
  assert.deepEqual(fieldTypeOfColumn({ type: "date", format: "dd-mm-yyyy" }), { kind: "date" });
});

test("a value that does not fit its column is refused, naming the column and not the value", () => {
  const misfits: readonly [FieldType, CellValue][] = [
    [{ kind: "integer" }, 2n ** 63n],
    [{ kind: "integer" }, -(2n ** 63n) - 1n],
    [{ kind: "integer" }, 4242],
    [{ kind: "timestamp" }, 2n ** 63n],
    [decimal(4, 2), 10_000n],
    [decimal(4, 2), -10_000n],
    [{ kind: "float" }, "4242"],
    [{ kind: "boolean" }, 4242],
    [{ kind: "text" }, 4242n],
    [{ kind: "date" }, 4242.5],
    [{ kind: "date" }, 2 ** 31],
  ];
  for (const [type, value] of misfits) {
    const builder = new BatchBuilder([{ name: "pay", type, nullable: true }]);
    assert.throws(() => builder.append([value]), { code: "type_mismatch", message: /^(?!.*4242).*"pay"/ });
  }
  const strict = new BatchBuilder([{ name: "pay", type: { kind: "integer" }, nullable: false }]);
  assert.throws(() => strict.append([null]), { code: "type_mismatch", message: /"pay" may not be null/ });
  assert.throws(() => strict.append([1n, 2n]), { code: "type_mismatch", message: /2 values for 1 columns/ });
});

test("a refused row leaves nothing behind", () => {
  const fields: FieldSpec[] = [
    { name: "secret", type: { kind: "integer" }, nullable: true },
    { name: "word", type: { kind: "text" }, nullable: true },
    { name: "flag", type: { kind: "boolean" }, nullable: true },
    { name: "last", type: { kind: "float" }, nullable: true },
  ];
  const builder = new BatchBuilder(fields);
  assert.throws(() => builder.append([77n, "canary", true, "no number"]), { code: "type_mismatch" });
  builder.append([null, null, null, null]);
  const batch = builder.build();
  assert.equal(batch.numRows, 1);
  for (let index = 0; index < fields.length; index++) assert.equal(columnReader(batch, index).get(0), null);
  assert.deepEqual([...(batch.data.children[0]?.values as BigInt64Array)], [0n]);
  assert.equal((batch.data.children[1]?.values as Uint8Array).length, 0);
});

test("text may be long, and unpaired surrogates become the replacement character", () => {
  const builder = new BatchBuilder([{ name: "t", type: { kind: "text" }, nullable: false }]);
  const long = "é".repeat(3_000_000);
  builder.append([long]);
  builder.append(["\ud800"]);
  assert.ok(builder.estimatedBytes >= 6_000_000);
  const reader = columnReader(builder.build(), 0);
  assert.equal(reader.get(0), long);
  assert.equal(reader.get(1), "\ufffd");
});

test("columns must have names of their own and types that Arrow can hold", () => {
  const text = (name: string): FieldSpec => ({ name, type: { kind: "text" }, nullable: true });
  assert.throws(() => toArrowSchema([text("a"), text("")]), { code: "query_invalid", message: /Column 2 of 2/ });
  assert.throws(() => toArrowSchema([text("a"), text("b"), text("a")]), { code: "query_invalid", message: /"a"/ });
  assert.throws(() => toArrowSchema([{ name: "d", type: decimal(39, 0), nullable: true }]), { code: "type_mismatch" });
});
