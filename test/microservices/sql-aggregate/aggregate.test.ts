import assert from "node:assert/strict";
import { test } from "node:test";
import type { RecordBatch } from "apache-arrow";
import fc from "fast-check";
import { TYPE_UNKNOWN } from "../../../lib/data/field-metadata.ts";
import { toArrowSchema, type CellValue, type FieldSpec } from "../../../lib/data/field-types.ts";
import { BatchDecoder, encodeBatch, encodeSchema } from "../../../lib/data/ipc.ts";
import { AppError } from "../../../lib/errors.ts";
import { joinStreams, type ProviderStream } from "../../../microservices/sql-aggregate/aggregate.ts";
import { eventually } from "../../support/eventually.ts";
import { batchesOf, columns, rowsOf } from "../../support/rows.ts";

const never = new AbortController().signal;

function stream(
  provider: string,
  fields: readonly FieldSpec[],
  rows: readonly CellValue[][],
  rowsPerBatch = 2,
): ProviderStream {
  return { provider, schema: toArrowSchema(fields), batches: iterate(batchesOf(fields, rows, rowsPerBatch)) };
}

async function* iterate(batches: readonly RecordBatch[]): AsyncGenerator<RecordBatch> {
  yield* batches;
}

async function join(inputs: readonly ProviderStream[]): Promise<Record<string, CellValue>[]> {
  const { schema, batches } = joinStreams(inputs, { signal: never });
  // Through bytes, as the next microservice reads them: there, a column that is not laid out as the schema says shows.
  const decoder = new BatchDecoder(encodeSchema(schema));
  const all: RecordBatch[] = [];
  for await (const batch of batches) all.push(decoder.decode(encodeBatch(batch)));
  return rowsOf(all);
}

/** A stream whose batches come when the test says so; it knows what was asked of it and whether it was ended. */
class Controlled {
  asked = 0;
  isEnded = false;
  readonly #waiting: { resolve: (result: IteratorResult<RecordBatch>) => void; reject: (error: Error) => void }[] = [];
  readonly input: ProviderStream;

  constructor(provider: string, fields: readonly FieldSpec[]) {
    const iterator: AsyncIterator<RecordBatch> = {
      next: () => {
        this.asked += 1;
        return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
      },
      return: async () => {
        this.isEnded = true;
        return { done: true, value: undefined };
      },
    };
    this.input = { provider, schema: toArrowSchema(fields), batches: { [Symbol.asyncIterator]: () => iterator } };
  }

  give(fields: readonly FieldSpec[], rows: readonly CellValue[][]): void {
    const [batch] = batchesOf(fields, rows);
    if (batch) this.#waiting.shift()?.resolve({ done: false, value: batch });
  }

  fail(error: Error): void {
    this.#waiting.shift()?.reject(error);
  }
}

const numbers = columns({ n: "integer" });

test("rows of all providers are there, each with its provider's name", async () => {
  const fields = columns({ a: "text", n: "integer" });
  const rows = await join([
    stream("VU", fields, [
      ["x", 1n],
      ["y", null],
      ["z", 3n],
    ]),
    stream("UVA", fields, [["x", 7n]]),
    stream("RUG", fields, []),
  ]);
  assert.deepEqual(
    rows.filter(({ provider }) => provider === "VU"),
    [
      { provider: "VU", a: "x", n: 1n },
      { provider: "VU", a: "y", n: null },
      { provider: "VU", a: "z", n: 3n },
    ],
  );
  assert.deepEqual(
    rows.filter(({ provider }) => provider !== "VU"),
    [{ provider: "UVA", a: "x", n: 7n }],
  );
});

test("nothing is lost or doubled, however the rows are cut into streams and batches", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.tuple(fc.array(fc.option(fc.bigInt({ min: -5n, max: 5n }))), fc.integer({ min: 1, max: 4 })), {
        minLength: 1,
        maxLength: 5,
      }),
      async (parts) => {
        const rows = await join(
          parts.map(([values, size], i) =>
            stream(
              `S${i}`,
              numbers,
              values.map((value) => [value]),
              size,
            ),
          ),
        );
        for (const [i, [values]] of parts.entries()) {
          assert.deepEqual(
            rows.filter(({ provider }) => provider === `S${i}`).map(({ n }) => n),
            values,
          );
        }
      },
    ),
    { seed: 9, numRuns: 60 },
  );
});

test("columns are in the order of the first provider by name, wherever they are elsewhere", async () => {
  const rows = await join([
    stream("VU", columns({ n: "integer", a: "text" }), [[1n, "x"]]),
    stream("UVA", columns({ a: "text", n: "integer" }), [["y", 2n]]),
  ]);
  assert.deepEqual(Object.keys(rows[0] ?? {}), ["provider", "a", "n"]);
  assert.deepEqual(
    rows.find(({ provider }) => provider === "VU"),
    { provider: "VU", a: "x", n: 1n },
  );
});

test("types are widened without loss: integers with floats, decimals to the larger scale, nulls of no type with anything", async () => {
  const cents = { kind: "decimal", precision: 10, scale: 2 } as const;
  const mills = { kind: "decimal", precision: 9, scale: 3 } as const;
  const [unknown] = columns({ x: "text" });
  const of = (type: FieldSpec["type"], x: FieldSpec, cells: CellValue[]) =>
    stream(`P${JSON.stringify(type).length}${type.kind}`, [...columns({ n: type }), x], [cells]);
  const nullsOnly = { ...(unknown as FieldSpec), metadata: { [TYPE_UNKNOWN]: "true" } };
  const [float] = columns({ x: "float" }) as [FieldSpec];
  const first = await join([of({ kind: "integer" }, nullsOnly, [3n, null]), of({ kind: "float" }, float, [0.5, 1.5])]);
  assert.deepEqual(first.map(({ n, x }) => [n, x]).sort(), [
    [0.5, 1.5],
    [3, null],
  ]);
  const second = await join([
    of(cents, float, [150n, null]),
    { ...of(mills, float, [1n, null]), provider: "M" },
    of({ kind: "integer" }, float, [2n, null]),
  ]);
  assert.deepEqual(second.map(({ n }) => n).sort(), [1500n, 1n, 2000n].sort());
});

test("an integer that a float cannot hold is refused and not rounded", async () => {
  const inputs = [
    stream("UVA", columns({ n: "float" }), [[1]]),
    stream("VU", columns({ n: "integer" }), [[2n ** 53n + 1n]]),
  ];
  await assert.rejects(
    join(inputs),
    (error) => error instanceof AppError && error.code === "type_mismatch" && error.party === "VU",
  );
});

test("types that do not widen are a type_mismatch with party, column and types, before any row", () => {
  const inputs = [stream("UVA", columns({ n: "text" }), []), stream("VU", numbers, [])];
  assert.throws(
    () => joinStreams(inputs, { signal: never }),
    (error) =>
      error instanceof AppError &&
      error.code === "type_mismatch" &&
      error.party === "VU" &&
      error.details.column === "n" &&
      /integer at VU, but text/.test(error.message),
  );
});

test("a column that a provider lacks is an error that names both, whichever comes first", () => {
  const more = columns({ n: "integer", extra: "text" });
  for (const [first, second, party] of [
    [numbers, more, "UVA"],
    [more, numbers, "VU"],
  ] as const) {
    assert.throws(
      () => joinStreams([stream("UVA", first, []), stream("VU", second, [])], { signal: never }),
      (error) =>
        error instanceof AppError &&
        error.code === "column_unknown" &&
        error.party === party &&
        error.details.column === "extra",
    );
  }
});

test("where the query has a column called provider, that one keeps its name", async () => {
  const fields = columns({ Provider: "text", provider_1: "text" });
  const input = stream("VU", fields, [["mine", "too"]]);
  const { schema } = joinStreams([input], { signal: never });
  assert.equal(schema.metadata.get("dynamos.providerColumn"), "provider_2");
  assert.deepEqual(await join([stream("VU", fields, [["mine", "too"]])]), [
    { provider_2: "VU", Provider: "mine", provider_1: "too" },
  ]);
});

test("batches go on as they come: a slow provider holds none of the others up", async () => {
  const [slow, quick] = [new Controlled("SLOW", numbers), new Controlled("QUICK", numbers)];
  const { batches } = joinStreams([slow.input, quick.input], { signal: never });
  for (let i = 0n; i < 3n; i++) {
    const next = batches.next();
    await eventually(() => quick.asked === Number(i) + 1);
    quick.give(numbers, [[i]]);
    const { value } = await next;
    assert.deepEqual(rowsOf([value as RecordBatch]), [{ provider: "QUICK", n: i }]);
  }
  await batches.return();
  assert.ok(slow.isEnded && quick.isEnded);
});

test("a reader that does not read holds the providers back at one batch each", async () => {
  const [a, b] = [new Controlled("A", numbers), new Controlled("B", numbers)];
  const { batches } = joinStreams([a.input, b.input], { signal: never });
  const first = batches.next();
  await eventually(() => a.asked === 1 && b.asked === 1);
  a.give(numbers, [[1n]]);
  b.give(numbers, [[2n]]);
  await first;
  for (let turn = 0; turn < 20; turn++) await Promise.resolve();
  assert.deepEqual([a.asked, b.asked], [1, 1]);
  await batches.return();
});

test("a provider that fails ends the others, and its error names it", async () => {
  const [a, b] = [new Controlled("A", numbers), new Controlled("B", numbers)];
  const { batches } = joinStreams([a.input, b.input], { signal: never });
  const next = batches.next();
  await eventually(() => b.asked === 1);
  b.fail(new AppError("job_failed", "It broke."));
  await assert.rejects(
    next,
    (error) => error instanceof AppError && error.code === "job_failed" && error.party === "B",
  );
  assert.ok(a.isEnded);
});

test("an abort ends the join also while every provider is silent", async () => {
  const silent = new Controlled("A", numbers);
  const aborting = new AbortController();
  const { batches } = joinStreams([silent.input], { signal: aborting.signal });
  const next = batches.next();
  await eventually(() => silent.asked === 1);
  aborting.abort(new AppError("cancelled", "Enough."));
  await assert.rejects(next, (error) => error instanceof AppError && error.code === "cancelled");
  assert.ok(silent.isEnded);
});

test("no provider, or one twice, is refused", () => {
  assert.throws(() => joinStreams([], { signal: never }), AppError);
  assert.throws(() => joinStreams([stream("A", numbers, []), stream("A", numbers, [])], { signal: never }), AppError);
});
