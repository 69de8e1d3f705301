/** A chain element for tests: hands on what comes, from all its inputs, one after another, and says what it saw. */
import { AppError } from "../../../lib/errors.ts";
import type { Output } from "../../../sdk/typescript/handler.ts";
import { runMicroservice } from "../../../sdk/typescript/microservice.ts";

await runMicroservice({
  name: "pass",
  async *handle(inputs, context): AsyncGenerator<Output> {
    const open = inputs.filter((input) => input.failure === undefined);
    const schema = open[0]?.schema;
    if (schema === undefined) throw new AppError("data_invalid", "There is no schema.");
    yield { schema };
    const seen: Record<string, unknown> = {};
    for (const input of inputs) {
      if (input.failure !== undefined) {
        seen[input.provider] = input.failure.code;
        continue;
      }
      let rows = 0;
      for await (const batch of input.batches) {
        rows += batch.numRows;
        yield { batch };
      }
      seen[input.provider] = { rows, grantedBy: input.grant?.steward };
    }
    yield { notes: { [`passed${context.position.isLast ? "Last" : ""}`]: seen } };
  },
});
