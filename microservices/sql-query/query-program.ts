/**
 * The process that runs one query, and nothing else: request on standard input, frames on descriptor 3. It works
 * synchronously (a write waits for its reader), and is killed when it is to stop.
 */
import { readFileSync } from "node:fs";
import { Worker } from "node:worker_threads";
import Database from "better-sqlite3";
import { AppError, isUnexpected, stackFrames, toAppError, toFailure } from "../../lib/errors.ts";
import { FRAME, writeFrame } from "./frames.ts";
import { guardStatement } from "./guarded-statement.ts";
import { steppingFault } from "./query-faults.ts";
import type { ChildFailure, ChildRequest } from "./query-protocol.ts";
import type { WatchdogData } from "./watchdog.ts";

const WATCHDOG_START_MS = 10_000;

void serve();

async function serve(): Promise<void> {
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
    writeFrame(
      FRAME.failure,
      Buffer.from(JSON.stringify(childFailure(toAppError(steppingFault(error, request.limits))))),
    );
  }
  // The watchdog's thread would keep the process; a step that is still running cannot be left otherwise.
  process.exit(0);
}

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

/** Without the message of what was not expected: it may quote a value. */
function childFailure(error: AppError): ChildFailure {
  const frames = isUnexpected(error) && error.cause instanceof Error ? stackFrames(error.cause) : undefined;
  return { ...toFailure(error), ...(frames === undefined ? {} : { frames }) };
}

function openWorld(path: string): Database.Database {
  const database = new Database(path, { readonly: true, fileMustExist: true });
  database.pragma("temp_store = FILE");
  // Sorts spill to disk beyond this; the memory limit has room for several.
  database.pragma("cache_size = -16384");
  return database;
}
