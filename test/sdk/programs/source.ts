/** A chain's first element for tests: makes integer batches. Settings say how many, and how it goes wrong. */
import { Type } from "@sinclair/typebox";
import type { RecordBatch } from "apache-arrow";
import { appendFileSync } from "node:fs";
import { BatchBuilder } from "../../../lib/data/batch-builder.ts";
import { toArrowSchema } from "../../../lib/data/field-types.ts";
import { AppError } from "../../../lib/errors.ts";
import type { Output } from "../../../sdk/typescript/handler.ts";
import { runMicroservice } from "../../../sdk/typescript/microservice.ts";

const Settings = Type.Object({
  TEST_BATCHES: Type.Integer({ default: 3 }),
  TEST_ROWS_PER_BATCH: Type.Integer({ default: 10 }),
  /** Fails after so many batches; for the query `FAIL` in any case. */
  TEST_FAIL_AFTER: Type.Optional(Type.Integer()),
  /** Sends the first batch again and again, instead of making each. */
  TEST_REPEAT_FIRST: Type.Boolean({ default: false }),
  /** Gets one byte per batch made, so that a test sees how far it is. */
  TEST_PROGRESS_FILE: Type.Optional(Type.String()),
});
const fields = [{ name: "number", type: { kind: "integer" }, nullable: false }] as const;

function numbers(first: number, count: number): RecordBatch {
  const builder = new BatchBuilder(fields);
  for (let row = 0; row < count; row++) builder.append([BigInt(first + row)]);
  return builder.build();
}

await runMicroservice({
  name: "source",
  async *handle(_inputs, context): AsyncGenerator<Output> {
    const settings = context.settings(Settings);
    yield { schema: toArrowSchema(fields) };
    const repeated = settings.TEST_REPEAT_FIRST ? numbers(0, settings.TEST_ROWS_PER_BATCH) : undefined;
    for (let batch = 0; batch < settings.TEST_BATCHES; batch++) {
      if (batch === settings.TEST_FAIL_AFTER || context.request.query === "FAIL") {
        throw new AppError("query_invalid", "It fails as the test wants it.", { details: { line: 7 } });
      }
      yield { batch: repeated ?? numbers(batch * settings.TEST_ROWS_PER_BATCH, settings.TEST_ROWS_PER_BATCH) };
      if (settings.TEST_PROGRESS_FILE !== undefined) appendFileSync(settings.TEST_PROGRESS_FILE, ".");
    }
    yield { attachment: { name: "note.txt", mediaType: "text/plain", data: Buffer.from(context.request.query) } };
    yield { notes: { madeBy: "source", minimumGroupSize: context.minimumGroupSize } };
  },
});
