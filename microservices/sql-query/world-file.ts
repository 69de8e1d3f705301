/** Makes a world's file in a process of its own: copying is SQLite's work without a break, and can be cancelled only so. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { extname } from "node:path";
import { text } from "node:stream/consumers";
import { fileURLToPath } from "node:url";
import { AppError, toAppError } from "../../lib/errors.ts";
import type { Table } from "../../lib/model/dataset.ts";

/** What is copied from one file. */
export interface WorldPart {
  readonly path: string;
  readonly tables: readonly Table[];
}

/** What the process reads from standard input. */
export interface WorldFileRequest {
  readonly target: string;
  readonly parts: readonly WorldPart[];
  /** Most that DuckDB may put beside the target. */
  readonly temporaryBytes: number;
}

/** Writes a database with the given tables and columns to the target. */
export async function makeWorldFile(request: WorldFileRequest, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted();
  const program = fileURLToPath(new URL(`./world-child${extname(fileURLToPath(import.meta.url))}`, import.meta.url));
  const child = spawn(process.execPath, [program], {
    env: {},
    stdio: ["pipe", "ignore", "pipe"],
    signal,
    killSignal: "SIGKILL",
  });
  // A process that died early breaks this pipe; its exit code says so.
  child.stdin.on("error", () => undefined).end(JSON.stringify(request));
  try {
    const [messages, [code]] = await Promise.all([
      text(child.stderr),
      once(child, "close") as Promise<[number | null]>,
    ]);
    if (code === 0) return;
    // What the process says may name files and quote values: it is for this party's log.
    throw new AppError("job_failed", "The granted part of the data could not be prepared; see the log of this party.", {
      cause: new Error(messages.trim().slice(-2000)),
    });
  } catch (error) {
    throw signal.aborted ? toAppError(signal.reason) : error;
  }
}
