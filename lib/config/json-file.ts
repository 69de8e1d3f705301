/** JSON files that people write: read, checked against a schema, and every fault named with file and place. */
import { readFile } from "node:fs/promises";
import type { Static, TSchema } from "@sinclair/typebox";
import { Value } from "@sinclair/typebox/value";
import { AppError } from "../errors.ts";

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
    const before = text.slice(0, faultOffset(text)).split(/\r\n|\r|\n/);
    const place = { file: path, line: before.length, column: (before.at(-1) ?? "").length + 1 };
    throw new AppError("configuration_invalid", "The file is not JSON from here on.", { cause: error, place });
  }
}

/** Where a text stops being the beginning of a JSON text. `JSON.parse` says so only for some faults, and not in Node 20. */
function faultOffset(text: string): number {
  const scanner = new FaultScanner(text);
  scanner.value();
  scanner.end();
  return scanner.at;
}

const SCALAR =
  /"(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9A-Fa-f]{4}))*"|-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null/y;
const STRING = /"(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9A-Fa-f]{4}))*"/y;

/** Moves {@link at} over well-formed JSON, and stays where it ends. */
class FaultScanner {
  at = 0;
  readonly #text: string;

  constructor(text: string) {
    this.#text = text;
  }

  value(): boolean {
    if (this.#take(/\{/y)) return this.#members(/\}/y, () => this.#take(STRING) && this.#take(/:/y) && this.value());
    if (this.#take(/\[/y)) return this.#members(/\]/y, () => this.value());
    return this.#take(SCALAR);
  }

  end(): void {
    this.#take(/(?=[^])/y);
  }

  #members(close: RegExp, member: () => boolean): boolean {
    if (this.#take(close)) return true;
    do {
      if (!member()) return false;
    } while (this.#take(/,/y));
    return this.#take(close);
  }

  #take(token: RegExp): boolean {
    const space = /[ \t\r\n]*/y;
    space.lastIndex = this.at;
    space.test(this.#text);
    this.at = space.lastIndex;
    token.lastIndex = this.at;
    if (!token.test(this.#text)) return false;
    this.at = token.lastIndex;
    return true;
  }
}
