/** JSON bodies of bus messages. */

import type { Static, TSchema } from "@sinclair/typebox";
import { Value } from "@sinclair/typebox/value";
import { AppError } from "../errors.ts";
import type { OutgoingMessage } from "./message-bus.ts";

const strictUtf8 = new TextDecoder("utf-8", { fatal: true });

/** A JSON value as a message body (UTF-8). */
export function encodeJson(value: unknown): Uint8Array {
  const text = JSON.stringify(value) as string | undefined;
  if (text === undefined) throw new AppError("invalid_argument", `A ${typeof value} has no JSON form.`);
  return Buffer.from(text);
}

/** The JSON value in a message's body. Not UTF-8 or not JSON: `bad_request` that names the message's type. */
export function decodeJson(message: Pick<OutgoingMessage, "type" | "body">): unknown;
/** The same, checked against a schema; `bad_request` with the JSON pointer of the first fault. */
export function decodeJson<Schema extends TSchema>(
  message: Pick<OutgoingMessage, "type" | "body">,
  schema: Schema,
): Static<Schema>;
export function decodeJson(message: Pick<OutgoingMessage, "type" | "body">, schema?: TSchema): unknown {
  const value = parse(message);
  if (schema === undefined || Value.Check(schema, value)) return value;
  const fault = Value.Errors(schema, value).First();
  const pointer = fault?.path ?? "";
  // The fault's value stays out of the message: bodies may hold what no log may show.
  throw new AppError(
    "bad_request",
    `The body of a "${message.type}" message is wrong at "${pointer}": ${fault?.message ?? "unknown fault"}.`,
    {
      place: { pointer },
    },
  );
}

function parse(message: Pick<OutgoingMessage, "type" | "body">): unknown {
  try {
    return JSON.parse(strictUtf8.decode(message.body));
  } catch (cause) {
    throw new AppError("bad_request", `The body of a "${message.type}" message is not JSON in UTF-8.`, { cause });
  }
}
