/** JSON files that people write: read, checked against a schema, and every fault named with file and place. */
import { readFile } from "node:fs/promises";
import type { Static, TSchema } from "@sinclair/typebox";
import { Value } from "@sinclair/typebox/value";
import { AppError } from "../errors.ts";
import { jsonFaultPlace } from "./json-fault.ts";

/**
 * Reads a JSON document.
 *
 * @throws AppError `not_found`, or `configuration_invalid` with file and line and column (not JSON) or JSON pointer (not
 * what the schema says).
 */
export async function readJsonFile<Schema extends TSchema>(path: string, schema: Schema): Promise<Static<Schema>> {
  const text = await readFile(path, "utf8").catch((error: NodeJS.ErrnoException) => {
    throw new AppError("not_found", `The file cannot be read (${String(error.code)}).`, {
      cause: error,
      place: { file: path },
    });
  });
  const value = parseJsonFile(text, path);
  const fault = Value.Errors(schema, value).First();
  if (fault !== undefined) {
    throw new AppError("configuration_invalid", `${fault.path || "The document"}: ${fault.message}.`, {
      place: { file: path, pointer: fault.path },
    });
  }
  return value;
}

/**
 * The value of a JSON text (RFC 8259; a byte order mark, which some editors write, is ignored). A fault is
 * `configuration_invalid` with file, line and column.
 */
export function parseJsonFile(fileText: string, path: string): unknown {
  const text = fileText.replace(/^\uFEFF/, "");
  try {
    return JSON.parse(text);
  } catch (error) {
    const place = { file: path, ...jsonFaultPlace(text) };
    throw new AppError("configuration_invalid", "The file is not JSON from here on.", { cause: error, place });
  }
}
