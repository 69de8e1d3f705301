/**
 * A thread beside a query: SQLite works without a break, so nothing else in its process can look at the clock. It looks at
 * memory, at disk used for sorting, and whether the parent still lives, and kills the process: the one way to stop it
 * that always works. `PRAGMA hard_heap_limit` does not: better-sqlite3's SQLite is built without memory accounting.
 */
import { readdirSync, readlinkSync, statSync, writeSync } from "node:fs";
import { workerData } from "node:worker_threads";
import { memoryDetail, temporaryDetail, type Verdict } from "./query-protocol.ts";

/** What the thread is told. */
export interface WatchdogData {
  readonly parentPid: number;
  readonly memoryBytes: number;
  readonly temporaryBytes: number;
  /** One 32-bit integer, which becomes 1 when the watchdog is at work. */
  readonly isWatching: SharedArrayBuffer;
}

const LOOK_EVERY_MS = 20;
const STANDARD_ERROR = 2;

watch(workerData as WatchdogData);

function watch(data: WatchdogData): void {
  // A watchdog that fails must not leave its query unwatched.
  process.on("uncaughtException", (error) =>
    kill({ code: "internal", detail: `The query's watchdog failed: ${error.message}` }),
  );
  let looks = 0;
  setInterval(() => {
    if (process.ppid !== data.parentPid) process.kill(process.pid, "SIGKILL");
    if (process.memoryUsage.rss() > data.memoryBytes) {
      kill({ code: "memory_limit_exceeded", detail: memoryDetail(data.memoryBytes) });
    }
    if (looks++ % 5 === 0 && temporaryBytes() > data.temporaryBytes) {
      kill({ code: "memory_limit_exceeded", detail: temporaryDetail(data.temporaryBytes) });
    }
  }, LOOK_EVERY_MS);
  const isWatching = new Int32Array(data.isWatching);
  Atomics.store(isWatching, 0, 1);
  Atomics.notify(isWatching, 0);
}

function kill(verdict: Verdict): void {
  writeSync(STANDARD_ERROR, `\n${JSON.stringify(verdict)}\n`);
  process.kill(process.pid, "SIGKILL");
}

/** SQLite removes its temporary files as it opens them: they are seen only through the open descriptors (Linux). */
function temporaryBytes(): number {
  const folder = "/proc/self/fd";
  let bytes = 0;
  for (const name of descriptorsIn(folder)) {
    try {
      const path = `${folder}/${name}`;
      if (readlinkSync(path).endsWith(" (deleted)")) bytes += statSync(path).size;
    } catch (error) {
      // Closed since it was listed.
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    }
  }
  return bytes;
}

/** None where the system has no such folder: there only each file has a limit, and on Windows none (`system-limits.ts`). */
function descriptorsIn(folder: string): readonly string[] {
  try {
    return readdirSync(folder);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw error;
  }
}
