/** For microservices that take one stream, which is all but joiners. */
import type { RecordBatch, Schema } from "apache-arrow";
import { AppError } from "../../lib/errors.ts";
import type { InputStream } from "./handler.ts";

/**
 * The one input of a microservice behind another.
 *
 * @throws AppError `chain_invalid` when there is none with rows, or more than one: the chain's metadata are wrong.
 */
export function onlyInput(inputs: readonly InputStream[]): {
  readonly schema: Schema;
  readonly batches: AsyncIterable<RecordBatch>;
} {
  const [input] = inputs;
  if (inputs.length !== 1 || input?.schema === undefined) {
    throw new AppError(
      "chain_invalid",
      "This microservice takes one stream of rows; put it behind one that makes them.",
    );
  }
  return { schema: input.schema, batches: input.batches };
}
