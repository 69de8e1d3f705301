/** sql-first-rows: hands on the first rows of a result and leaves out the rest. A template: docs/add-a-microservice.md. */
import { Type } from "@sinclair/typebox";
import { onlyInput } from "../only-input.ts";
import { runMicroservice } from "../microservice.ts";

/** Names are environment variables. */
const Settings = Type.Object({
  SQL_FIRST_ROWS_LIMIT: Type.Integer({ default: 3, minimum: 0, description: "rows that are handed on" }),
});

await runMicroservice({
  name: "sql-first-rows",
  handle: async function* (inputs, context) {
    const limit = context.settings(Settings).SQL_FIRST_ROWS_LIMIT;
    const { schema, batches } = onlyInput(inputs);
    // First the schema of what goes out; then batches, one at a time: the next is read when this one has been taken.
    yield { schema };
    let rows = 0;
    for await (const batch of batches) {
      if (rows < limit) yield { batch: batch.slice(0, limit - rows) };
      rows += batch.numRows;
    }
    // Notes reach the analyst beside the rows. Attachments and notes of the elements before go on by themselves.
    yield { notes: { firstRows: { limit, of: rows } } };
  },
});
