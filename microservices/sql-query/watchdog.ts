/**
 * A thread beside a query: SQLite works without a break, so nothing else in its process can look at the clock. It looks at
 * memory, at disk used for sorting, and whether the parent still lives, and kills the process: the one way to stop it
 * that always works. `PRAGMA hard_heap_limit` does not: better-sqlite3's SQLite is built without memory accounting.
 */
import { readdirSync, readlinkSync, rmSync, statSync, writeSync } from "node:fs";
import { workerData } from "node:worker_threads";
import { memoryDetail, temporaryDetail, timeDetail, type Verdict } from "./query-protocol.ts";
import { processorSeconds } from "./system-limits.ts";
import { NO_QUERY, QUERY, WATCHING, type WatchdogData } from "./watchdog-state.ts";

const LOOK_EVERY_MS = 20;
/** Between queries the process waits in a read, whose end tells it that its parent is gone. */
const REST_MS = 1000;
const STANDARD_ERROR = 2;

try {
  watch(workerData as WatchdogData);
} catch (error) {
  // A watchdog that fails must not leave its query unwatched.
  kill({ code: "internal", detail: `The query's watchdog failed: ${error instanceof Error ? error.message : ""}` });
}

function watch(data: WatchdogData): never {
  const state = new Int32Array(data.state);
  Atomics.store(state, WATCHING, 1);
  Atomics.notify(state, WATCHING);
  let watched = NO_QUERY;
  let processorMs = 0;
  for (let looks = 0; ; looks++) {
    const query = Atomics.load(state, QUERY);
    if (query !== watched && query !== NO_QUERY) {
      // It has only begun: most are over before there is anything to see.
      processorMs = processorMsUsed();
    } else {
      look(data, looks);
      if (query !== NO_QUERY && processorMsUsed() - processorMs > 1000 * processorSeconds(data.timeMs)) {
        kill({ code: "time_limit_exceeded", detail: timeDetail(data.timeMs) });
      }
    }
    watched = query;
    Atomics.wait(state, QUERY, query, query === NO_QUERY ? REST_MS : LOOK_EVERY_MS);
  }
}

function look(data: WatchdogData, looks: number): void {
  if (process.ppid !== data.parentPid) {
    rmSync(data.folder, { recursive: true, force: true });
    process.kill(process.pid, "SIGKILL");
  }
  if (process.memoryUsage.rss() > data.memoryBytes) {
    kill({ code: "memory_limit_exceeded", detail: memoryDetail(data.memoryBytes) });
  }
  if (looks % 5 === 0 && temporaryBytes() > data.temporaryBytes) {
    kill({ code: "memory_limit_exceeded", detail: temporaryDetail(data.temporaryBytes) });
  }
}

/** Of all threads. */
function processorMsUsed(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
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
