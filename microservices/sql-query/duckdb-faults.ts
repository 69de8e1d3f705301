/**
 * What an analyst is told when DuckDB refuses or fails, as `query-faults.ts` for SQLite: its messages quote values
 * (`Could not convert string '…' to INT32`), so that only texts of the closed table here go on, and what it says of names.
 */
import { AppError } from "../../lib/errors.ts";
import { memoryDetail, temporaryDetail, type QueryLimits } from "./query-protocol.ts";

/** Kinds of messages that speak of the statement alone. */
const OF_STATEMENT = /^(Parser|Binder|Catalog|Syntax) Error: ([^\n]*)/;

/** The error for a statement that cannot be prepared: no row was read, but constants may have been worked out. */
export function preparingFault(error: unknown): unknown {
  if (!(error instanceof Error) || error instanceof AppError) return error;
  const about = OF_STATEMENT.exec(error.message)?.[2];
  return about === undefined ? error : new AppError("query_invalid", `The query cannot be run: ${about}.`);
}

/** The error for what a running statement threw; what is not DuckDB's is our fault, and comes back as it is. */
export function steppingFaultOfDuckdb(error: unknown, limits: QueryLimits): unknown {
  if (!(error instanceof Error) || error instanceof AppError) return error;
  const kind = /^([A-Za-z -]+?)(?: Error)?:/.exec(error.message)?.[1] ?? "";
  if (/temp(orary)?_?\s?(file|dir)|max_temp_directory_size/i.test(error.message)) {
    return new AppError("memory_limit_exceeded", temporaryDetail(limits.temporaryBytes));
  }
  if (kind === "Out of Memory") return new AppError("memory_limit_exceeded", memoryDetail(limits.memoryBytes));
  const known = FIXED.get(kind);
  if (known !== undefined) return new AppError("query_invalid", `The query cannot be run: ${known}.`);
  // All that a query may write is its temporary files, and the process's limit on a file's size may be met before DuckDB's own.
  if (kind === "IO" && /could not write|file too large|no space left/i.test(error.message)) {
    return new AppError("memory_limit_exceeded", temporaryDetail(limits.temporaryBytes));
  }
  if (kind === "IO") {
    return new AppError("job_failed", "The query's data could not be opened: their file is gone, or in use.");
  }
  return error;
}

const FIXED: ReadonlyMap<string, string> = new Map([
  ["Conversion", "a value cannot be converted to the type that is asked for"],
  ["Out of Range", "a number is out of the range of its type"],
  ["Invalid Input", "an expression failed on a value"],
  ["Invalid", "an expression failed on a value"],
  ["Constraint", "an expression failed on a value"],
  ["Mismatch Type", "types do not fit together"],
  ["Not implemented", "it uses something that is not offered"],
  ["Permission", "it reaches for something that is not offered"],
  ["Parser", "it cannot be read"],
  ["Binder", "names or types in it do not fit together"],
  ["Catalog", "it names something that is not there"],
  ["Syntax", "it cannot be read"],
  ["Interrupt", "it was interrupted"],
]);
