import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { BatchBuilder } from "../../../lib/data/batch-builder.ts";
import { columnReader } from "../../../lib/data/column-reader.ts";
import { cellToJson, type CellValue, type FieldType } from "../../../lib/data/field-types.ts";
import { jsonCells } from "../../../lib/data/json-cells.ts";

const numberNear = (limit: bigint): fc.Arbitrary<bigint> =>
  fc.oneof(
    fc.bigInt({ min: -limit, max: limit }),
    fc.bigInt({ min: -1200n, max: 1200n }).map((value) => (value < -limit || value > limit ? 0n : value)),
    fc.constantFrom(limit, -limit, 0n),
  );

const columnOfValues: fc.Arbitrary<readonly [FieldType, CellValue[]]> = fc.oneof(
  of({ kind: "integer" }, fc.oneof(numberNear(2n ** 63n - 1n), numberNear(2n ** 53n + 1n), fc.constant(-(2n ** 63n)))),
  fc
    .tuple(fc.integer({ min: 1, max: 38 }), fc.integer({ min: -2, max: 6 }))
    .chain(([precision, scale]) =>
      of({ kind: "decimal", precision, scale }, numberNear(10n ** BigInt(precision) - 1n)),
    ),
  of({ kind: "float" }, fc.double()),
  of({ kind: "boolean" }, fc.boolean()),
  of({ kind: "text" }, fc.oneof(fc.string({ unit: "binary", maxLength: 9 }), fc.constantFrom('"', "\\", "\n", "é"))),
  of({ kind: "date" }, fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 })),
  of({ kind: "timestamp" }, fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n })),
);

function of(type: FieldType, value: fc.Arbitrary<CellValue>): fc.Arbitrary<readonly [FieldType, CellValue[]]> {
  return fc.tuple(fc.constant(type), fc.array(fc.option(value), { minLength: 1, maxLength: 80 }));
}

test("a cell's text is what JSON.stringify gives for its value, in every type, with dictionaries and without", () => {
  fc.assert(
    fc.property(columnOfValues, fc.boolean(), ([type, values], dictionaries) => {
      const builder = new BatchBuilder([{ name: "c", type, nullable: true }], { dictionaries });
      // Twice, so that dictionaries pay.
      for (const value of [...values, ...values]) builder.append([value]);
      const batch = builder.build();
      const [cell, reader] = [jsonCells(batch, 0), columnReader(batch, 0)];
      for (let row = 0; row < batch.numRows; row++) {
        assert.equal(cell(row), JSON.stringify(cellToJson(type, reader.get(row))));
      }
    }),
    { numRuns: 500 },
  );
});
