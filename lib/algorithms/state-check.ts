/** Checks of states that come from elsewhere, before anything is made of them. */
import type { Static, TSchema } from "@sinclair/typebox";
import { Value } from "@sinclair/typebox/value";
import { AppError } from "../errors.ts";

/** The value, if it matches the schema; otherwise `data_invalid`, with the place of the fault. */
export function checkState<Schema extends TSchema>(schema: Schema, what: string, value: unknown): Static<Schema> {
  if (Value.Check(schema, value)) return value;
  const fault = Value.Errors(schema, value).First();
  throw new AppError("data_invalid", `${what} is malformed: ${fault?.message ?? "it does not match its schema"}.`, {
    place: { pointer: fault?.path ?? "" },
  });
}
