/**
 * The process that runs one query, and nothing else: request on standard input, frames on descriptor 3. It works
 * synchronously (a write waits for its reader), and is killed when it is to stop.
 */
import { readFileSync } from "node:fs";
import { Worker } from "node:worker_threads";
import Database from "better-sqlite3";
import { AppError, toFailure } from "../../lib/errors.ts";
import { FRAME, writeFrame } from "./frames.ts";
import { memoryDetail, temporaryDetail, type ChildRequest, type QueryLimits } from "./query-protocol.ts";
import { guardStatement } from "./guarded-statement.ts";
import type { WatchdogData } from "./watchdog.ts";

const WATCHDOG_START_MS = 10_000;

const request = JSON.parse(readFileSync(0, "utf8")) as ChildRequest;
const waitForWatchdog = startWatchdog(request);
try {
  const database = openWorld(request.worldPath);
  const guarded = guardStatement(database, request.sql);
  // Arrow takes longer to load than most statements take to be refused.
  const { streamResult } = await import("./result-stream.ts");
  waitForWatchdog();
  streamResult(database, guarded, request.dataSets, request.limits);
} catch (error) {
  writeFrame(FRAME.failure, Buffer.from(JSON.stringify(toFailure(asAppError(error, request.limits)))));
}
// The watchdog's thread would keep the process; a step that is still running cannot be left otherwise.
process.exit(0);

/** Returns what waits until the watchdog is at work. No query may run without it. */
function startWatchdog({ parentPid, limits }: ChildRequest): () => void {
  const isWatching = new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT);
  const workerData: WatchdogData = {
    parentPid,
    memoryBytes: limits.memoryBytes,
    temporaryBytes: limits.temporaryBytes,
    isWatching,
  };
  new Worker(process.argv[1] ?? "", {
    workerData,
    resourceLimits: { maxOldGenerationSizeMb: 16, maxYoungGenerationSizeMb: 2 },
  });
  return () => {
    if (Atomics.wait(new Int32Array(isWatching), 0, 0, WATCHDOG_START_MS) === "timed-out") {
      throw new AppError("job_failed", `The query's watchdog did not start within ${String(WATCHDOG_START_MS)} ms.`);
    }
  };
}

function openWorld(path: string): Database.Database {
  const database = new Database(path, { readonly: true, fileMustExist: true });
  database.pragma("temp_store = FILE");
  // Sorts spill to disk beyond this; the memory limit has room for several.
  database.pragma("cache_size = -16384");
  return database;
}

function asAppError(error: unknown, limits: QueryLimits): unknown {
  if (error instanceof AppError || !(error instanceof Error)) return error;
  const code = error instanceof Database.SqliteError ? error.code : "";
  if (code === "SQLITE_NOMEM" || code === "SQLITE_TOOBIG") {
    return new AppError("memory_limit_exceeded", memoryDetail(limits.memoryBytes), { cause: error });
  }
  if (code === "SQLITE_FULL" || code.startsWith("SQLITE_IOERR")) {
    return new AppError("memory_limit_exceeded", temporaryDetail(limits.temporaryBytes), { cause: error });
  }
  if (code === "SQLITE_CORRUPT" || code === "SQLITE_NOTADB") {
    return new AppError("data_invalid", `The data cannot be read: ${error.message}.`, { cause: error });
  }
  if (code.startsWith("SQLITE_CANTOPEN") || code.startsWith("SQLITE_BUSY")) {
    return new AppError("job_failed", `The query's data could not be opened: ${error.message}.`, { cause: error });
  }
  // Neither SQLite's word about this query (an overflow, malformed JSON) nor the binding's (a missing parameter): our fault.
  if (code === "" && !(error instanceof RangeError)) return error;
  return new AppError("query_invalid", `The query cannot be run: ${withoutQuoted(error.message)}.`);
}

/**
 * SQLite's word without what it quotes. Before a statement runs that is the analyst's own text; while it runs it may be a value of
 * the data (`bad JSON path: 'Jansen'`), which an error must not carry past agreement and anonymization.
 */
function withoutQuoted(message: string): string {
  return (/^[^'"`:]*/.exec(message)?.[0] ?? "").replace(/ near $/, "").trim();
}
