import assert from "node:assert/strict";
import { test } from "node:test";
import type { RecordBatch } from "apache-arrow";
import { poolSummaries } from "../../../lib/algorithms/pooled.ts";
import { toArrowSchema, type CellValue } from "../../../lib/data/field-types.ts";
import { AppError } from "../../../lib/errors.ts";
import type { Grant } from "../../../lib/model/grant.ts";
import { rulesOf, type AlgorithmRules } from "../../../microservices/sql-algorithm/allowed.ts";
import {
  runAlgorithm,
  SUMMARY_ATTACHMENT,
  type AlgorithmOptions,
  type AlgorithmOutput,
} from "../../../microservices/sql-algorithm/algorithm.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";
import { batchesOf, columns, rowsOf } from "../../support/rows.ts";

const fields = columns({ sex: "text", pay: "integer" });
const ROWS: CellValue[][] = [
  ["V", 1n],
  ["M", 5n],
  ["V", 2n],
];
const FREE: AlgorithmRules = { rawRows: false, minimumGroupSize: 1 };

async function run(options: Partial<AlgorithmOptions>, rows = ROWS, read?: () => void) {
  async function* batches(): AsyncGenerator<RecordBatch> {
    read?.();
    yield* batchesOf(fields, rows, 2);
  }
  const outputs: AlgorithmOutput[] = [];
  const all = { request: {}, rules: FREE, withSummary: false, signal: new AbortController().signal, ...options };
  for await (const output of runAlgorithm({ schema: toArrowSchema(fields), batches: batches() }, all))
    outputs.push(output);
  return {
    outputs,
    rows: rowsOf(outputs.flatMap((output) => ("batch" in output ? [output.batch] : []))),
    notes: outputs.find((output) => "notes" in output)?.notes,
    attachments: outputs.flatMap((output) => ("attachment" in output ? [output.attachment] : [])),
  };
}

const SUM = { algorithm: "sum", algorithmColumns: { sex: "pay" } };

test("an algorithm gives its schema first, then the groups, then what is to be said about them", async () => {
  const { outputs, rows, notes, attachments } = await run({ request: SUM, rules: { ...FREE, minimumGroupSize: 2 } });
  assert.ok("schema" in (outputs[0] ?? {}));
  assert.deepEqual(rows, [{ sex: "V", sum_pay: 3n }]);
  assert.deepEqual(notes, { algorithms: ["sum"], minimumGroupSize: 2, withheldGroups: 1 });
  assert.deepEqual(attachments, []);
});

test("where answers are pooled, the exact state is attached, without withheld groups", async () => {
  const { attachments } = await run({ request: SUM, rules: { ...FREE, minimumGroupSize: 2 }, withSummary: true });
  assert.equal(attachments[0]?.name, SUMMARY_ATTACHMENT.name);
  const summary: unknown = JSON.parse(Buffer.from(attachments[0]?.data ?? []).toString("utf8"));
  const { result } = poolSummaries([
    { provider: "A", summary },
    { provider: "B", summary },
  ]);
  assert.deepEqual(rowsOf(result?.batches ?? []), [{ sex: "V", sum_pay: 6n }]);
  assert.ok(!JSON.stringify(summary).includes('"M"'));
});

test("values of too few are withheld and counted, for whatever query made them", async () => {
  const rows: CellValue[][] = Array.from({ length: 30 }, (_, i) => ["V", i === 3 ? 4711n : null]);
  const {
    rows: result,
    notes,
    attachments,
  } = await run(
    {
      request: { algorithm: "min, average", algorithmColumns: { "": "pay" } },
      rules: { ...FREE, minimumGroupSize: 5 },
      withSummary: true,
    },
    rows,
  );
  assert.deepEqual(result, [{ min_pay: null, average_pay: null }]);
  assert.deepEqual([notes?.withheldGroups, notes?.withheldValues], [0, 2]);
  assert.ok(!Buffer.from(attachments[0]?.data ?? []).includes("4711"));
});

test("what does not pool is named", async () => {
  const { notes } = await run({ request: { algorithm: "median", algorithmColumns: { "": "pay" } }, withSummary: true });
  assert.deepEqual(notes?.notPooled, ["median"]);
});

test("without an algorithm rows pass through only if the agreement says so", async () => {
  assert.deepEqual((await run({ rules: { ...FREE, rawRows: true } })).rows.length, 3);
  let isRead = false;
  await assert.rejects(
    run({ rules: { ...FREE, operations: ["sum"] } }, ROWS, () => (isRead = true)),
    (error) =>
      error instanceof AppError &&
      error.code === "operation_denied" &&
      /rawRows/.test(error.message) &&
      /sum/.test(error.message),
  );
  await assert.rejects(
    run({ request: { algorithm: " " } }),
    (error) => error instanceof AppError && error.code === "operation_denied",
  );
  assert.ok(!isRead);
});

test("an algorithm that the agreement does not allow is refused with those that it allows, before any row is read", async () => {
  let isRead = false;
  await assert.rejects(
    run(
      { request: { ...SUM, algorithm: "count,total" }, rules: { ...FREE, operations: ["count", "average"] } },
      ROWS,
      () => (isRead = true),
    ),
    (error) => {
      assert.ok(error instanceof AppError && error.code === "operation_denied");
      assert.deepEqual(error.details, { algorithm: "sum", allowed: ["count", "average"] });
      return true;
    },
  );
  assert.ok(!isRead);
});

test("an abort ends the work between two batches", async () => {
  const aborting = new AbortController();
  await assert.rejects(
    run({ request: SUM, signal: aborting.signal }, ROWS, () => aborting.abort(new AppError("cancelled", "Enough."))),
    (error) => error instanceof AppError && error.code === "cancelled",
  );
});

test("a median of more values than memory should hold is exact", async () => {
  const rows = Array.from({ length: 5001 }, (_, i) => ["V", BigInt((i * 2503) % 5001)]);
  const spilling = { maximumHeldValues: 100, folder: await temporaryFolder() };
  const { rows: result } = await run(
    { request: { algorithm: "median", algorithmColumns: { sex: "pay" } }, spilling },
    rows,
  );
  assert.deepEqual(result, [{ sex: "V", median_pay: 2500 }]);
});

const GRANT: Grant = {
  ...{
    steward: "VU",
    requestId: "r",
    jobName: "j",
    requestType: "sqlDataRequest",
    agreementRevision: 1,
    deadlineMs: 1,
  },
  dataSets: [
    {
      name: "d",
      type: "csv",
      tables: [{ name: "T", columns: [{ name: "c", type: { type: "text" } }] }],
      sensitive_columns: {},
    },
  ],
  minimumGroupSize: 1,
  rawRows: true,
};

test("of several grants the strictest word counts; a third party without data only adds a minimum size", () => {
  const thirdParty: Grant = { ...GRANT, steward: "SURF", dataSets: [], rawRows: false, minimumGroupSize: 3 };
  assert.deepEqual(rulesOf([GRANT]), { rawRows: true, minimumGroupSize: 1 });
  assert.deepEqual(rulesOf([thirdParty, GRANT]), { rawRows: true, minimumGroupSize: 3 });
  const strict: Grant = {
    ...GRANT,
    steward: "UVA",
    rawRows: false,
    minimumGroupSize: 5,
    operations: ["AVG", "sum", "unheardOf"],
  };
  const other: Grant = { ...GRANT, operations: ["average", "count"] };
  const third: Grant = { ...GRANT, operations: ["mean", "sum", "count"] };
  assert.deepEqual(rulesOf([thirdParty, other, strict, third]), {
    rawRows: false,
    minimumGroupSize: 5,
    operations: ["average"],
  });
  assert.equal(rulesOf([thirdParty]).rawRows, false);
});
