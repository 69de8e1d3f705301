/**
 * The process that runs queries, and nothing else: requests on standard input, frames on descriptor 3, one query after another.
 * It works synchronously (a read waits for a request, a write for its reader), and is killed when it is to stop. A query that
 * fails ends it; what one query opened is closed before the next begins.
 */
import { mkdirSync, rmdirSync, rmSync } from "node:fs";
import { Worker } from "node:worker_threads";
import Database from "better-sqlite3";
import { AppError, isUnexpected, stackFrames, toAppError, toFailure } from "../../lib/errors.ts";
import { FRAME, frameWriter, readRequest, type WriteFrame } from "./frames.ts";
import { guardStatement } from "./guarded-statement.ts";
import { steppingFault } from "./query-faults.ts";
import {
  DEFAULT_QUERY_LIMITS,
  type ChildEnd,
  type ChildFailure,
  type ChildRequest,
  type ChildSettings,
  type QueryLimits,
} from "./query-protocol.ts";
import { streamResult } from "./result-stream.ts";
import { NO_QUERY, QUERY, WATCHING, type WatchdogData } from "./watchdog-state.ts";

const WATCHDOG_START_MS = 10_000;

const writeFrame = frameWriter();

const [argument] = process.argv.slice(2);
// The build runs the program without settings, and keeps what V8 compiled of it.
if (argument === undefined) warmUp();
else void serveQueries(JSON.parse(argument) as ChildSettings);

async function serveQueries(settings: ChildSettings): Promise<void> {
  try {
    const state = startWatchdog(settings);
    warmUp();
    const memory = settings.mostMemoryKept ?? memoryToServeAgain(settings.limits.memoryBytes);
    waitForWatchdog(state);
    writeFrame(FRAME.ready, new Uint8Array());
    for (let served = 1; served <= settings.queries; served++) {
      const payload = readRequest();
      if (payload === undefined) {
        tidyUpForParent(settings);
        break;
      }
      await serve(JSON.parse(payload.toString()) as ChildRequest, { settings, state, served, memory });
    }
  } catch (error) {
    fail(error, settings);
  }
  // The watchdog's thread would keep the process; a step that is still running cannot be left otherwise.
  process.exit(0);
}

/** Sends a failure, if there is still somebody to read it. */
function fail(error: unknown, settings: ChildSettings): void {
  try {
    if (isBrokenPipe(error)) throw error;
    const fault = steppingFault(error, settings.limits);
    writeFrame(FRAME.failure, Buffer.from(JSON.stringify(childFailure(toAppError(fault)))));
  } catch (fault) {
    if (!isBrokenPipe(fault)) throw fault;
    tidyUpForParent(settings);
  }
}

/** Whether the reader of the frames is gone: it reads until the process has ended, or kills it. */
function isBrokenPipe(error: unknown): boolean {
  return (error as NodeJS.ErrnoException).code === "EPIPE";
}

/** Whoever would have asked or read is gone, and cannot. */
function tidyUpForParent({ folder }: ChildSettings): void {
  rmSync(folder, { recursive: true, force: true });
}

/** Where a process is with its queries. */
interface Serving {
  readonly settings: ChildSettings;
  readonly state: Int32Array;
  /** Which query this is, from 1. */
  readonly served: number;
  /** Resident memory above which the process ends after a query. */
  readonly memory: number;
}

/** Runs a query in a folder of its own. */
async function serve(request: ChildRequest, { settings, state, served, memory }: Serving): Promise<void> {
  const queryFolder = `${settings.folder}/${String(served)}`;
  mkdirSync(queryFolder);
  process.chdir(queryFolder);
  Atomics.store(state, QUERY, served);
  Atomics.notify(state, QUERY);
  const rows = request.worldPath.endsWith(".duckdb")
    ? await (await import("./duckdb-stream.ts")).streamDuckdb(request, settings.limits, writeFrame)
    : answerFromSqlite(request, settings.limits);
  Atomics.store(state, QUERY, NO_QUERY);
  process.chdir(settings.folder);
  removeFolder(queryFolder);
  const servesAgain = served < settings.queries && process.memoryUsage.rss() < memory;
  const end: ChildEnd = { rows, servesAgain };
  writeFrame(FRAME.end, Buffer.from(JSON.stringify(end)));
  if (!servesAgain) process.exit(0);
}

/** Mostly nothing was sorted, and it is empty. */
function removeFolder(folder: string): void {
  try {
    rmdirSync(folder);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== "ENOTEMPTY" && code !== "EEXIST") throw error;
    rmSync(folder, { recursive: true });
  }
}

function answerFromSqlite(request: ChildRequest, limits: QueryLimits): number {
  const database = openWorld(request.worldPath);
  const rows = answer(database, request, limits, writeFrame);
  database.close();
  return rows;
}

function answer(
  database: Database.Database,
  { sql, dataSets, pushed }: ChildRequest,
  limits: QueryLimits,
  write: WriteFrame,
): number {
  return streamResult(database, guardStatement(database, sql), dataSets, limits, write, pushed);
}

/** A first query, of nothing: it loads and compiles what every query needs. */
function warmUp(): void {
  const database = new Database(":memory:");
  const request = { worldPath: "", dataSets: [], sql: "SELECT 1 AS a, 'x' AS b, 0.5 AS c" };
  answer(database, request, DEFAULT_QUERY_LIMITS, () => undefined);
  database.close();
}

/** Resident memory above which the process ends after a query: the next shall have most of the limit for itself. */
function memoryToServeAgain(limit: number): number {
  const own = process.memoryUsage.rss();
  return own + (limit - own) / 2;
}

function startWatchdog({ parentPid, limits, folder }: ChildSettings): Int32Array {
  const shared = new SharedArrayBuffer(2 * Int32Array.BYTES_PER_ELEMENT);
  const workerData: WatchdogData = {
    parentPid,
    folder,
    memoryBytes: limits.memoryBytes,
    temporaryBytes: limits.temporaryBytes,
    timeMs: limits.timeMs,
    state: shared,
  };
  new Worker(process.argv[1] ?? "", {
    workerData,
    resourceLimits: { maxOldGenerationSizeMb: 16, maxYoungGenerationSizeMb: 2 },
  });
  return new Int32Array(shared);
}

/** Waits until the watchdog is at work. No query may run without it. */
function waitForWatchdog(state: Int32Array): void {
  if (Atomics.wait(state, WATCHING, 0, WATCHDOG_START_MS) === "timed-out") {
    throw new AppError("job_failed", `The query's watchdog did not start within ${String(WATCHDOG_START_MS)} ms.`);
  }
}

/** Without the message of what was not expected: it may quote a value. */
function childFailure(error: AppError): ChildFailure {
  const frames = isUnexpected(error) && error.cause instanceof Error ? stackFrames(error.cause) : undefined;
  return { ...toFailure(error), ...(frames === undefined ? {} : { frames }) };
}

function openWorld(path: string): Database.Database {
  const database = new Database(path, { readonly: true, fileMustExist: true });
  // Sorts spill to disk beyond the cache's size; the memory limit has room for several.
  database.exec("PRAGMA temp_store = FILE; PRAGMA cache_size = -16384");
  return database;
}
