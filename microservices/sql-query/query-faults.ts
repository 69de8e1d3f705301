/**
 * What an analyst is told when a statement fails while it runs. By then SQLite has read values, and its messages may quote
 * them (`bad JSON path: '…'`): nothing of a message goes on, only texts of the closed table here. Whole columns would pass
 * every limit of the agreement otherwise.
 */
import Database from "better-sqlite3";
import { AppError, type ErrorCode } from "../../lib/errors.ts";
import { memoryDetail, temporaryDetail, type QueryLimits } from "./query-protocol.ts";

/** The error for what a running statement threw; what is neither SQLite's nor its binding's is our fault, and comes back as it is. */
export function steppingFault(error: unknown, limits: QueryLimits): unknown {
  if (error instanceof AppError || !(error instanceof Error)) return error;
  if (error instanceof Database.SqliteError) {
    const known = RESOURCE_FAULTS.find(({ codes }) => codes.test(error.code));
    if (known !== undefined) return new AppError(known.code, known.detail(limits));
    return new AppError("query_invalid", `The query cannot be run: ${valueFault(error.message)}.`);
  }
  if (MISSING_PARAMETER.test(error.message)) {
    return new AppError("query_invalid", "The query has a parameter (?, :name): write its value into the query.");
  }
  return error;
}

/** Of better-sqlite3 (util/binder.cpp). */
const MISSING_PARAMETER = /^(Too few parameter values were provided$|Missing named parameter)/;

/** What a statement met outside of itself, by SQLite's result code (https://www.sqlite.org/rescode.html). */
const RESOURCE_FAULTS: readonly {
  readonly codes: RegExp;
  readonly code: ErrorCode;
  readonly detail: (limits: QueryLimits) => string;
}[] = [
  {
    codes: /^SQLITE_(NOMEM|TOOBIG)/,
    code: "memory_limit_exceeded",
    detail: ({ memoryBytes }) => memoryDetail(memoryBytes),
  },
  {
    codes: /^SQLITE_(FULL|IOERR)/,
    code: "memory_limit_exceeded",
    detail: ({ temporaryBytes }) => temporaryDetail(temporaryBytes),
  },
  {
    codes: /^SQLITE_(CORRUPT|NOTADB)/,
    code: "data_invalid",
    detail: () => "The data cannot be read: their file is damaged, or is no SQLite database.",
  },
  {
    codes: /^SQLITE_(CANTOPEN|BUSY)/,
    code: "job_failed",
    detail: () => "The query's data could not be opened: their file is gone, or in use.",
  },
];

/** Of SQLite's messages about values, those that are the same whatever the value is. */
const FIXED_MESSAGES: ReadonlySet<string> = new Set([
  "ESCAPE expression must be a single character",
  "FLAGS parameter to json_valid() must be between 1 and 15",
  "JSON cannot hold BLOB values",
  "LIKE or GLOB pattern too complex",
  "argument of ntile must be a positive integer",
  "datatype mismatch",
  "frame ending offset must be a non-negative integer",
  "frame ending offset must be a non-negative number",
  "frame starting offset must be a non-negative integer",
  "frame starting offset must be a non-negative number",
  "integer overflow",
  "invalid Unicode escape",
  "json_array_insert() needs an odd number of arguments",
  "json_insert() needs an odd number of arguments",
  "json_object() labels must be TEXT",
  "json_object() requires an even number of arguments",
  "json_replace() needs an odd number of arguments",
  "json_set() needs an odd number of arguments",
  "malformed JSON",
  "second argument to nth_value must be a positive integer",
]);

function valueFault(message: string): string {
  if (FIXED_MESSAGES.has(message)) return message;
  if (message.startsWith("bad JSON path: ")) return "bad JSON path";
  if (message.startsWith("unable to use function ")) return "a function is used where it cannot be";
  return "an expression failed on a value";
}
