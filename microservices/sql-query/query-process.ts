/**
 * A process that runs queries (decision 13), seen from the one that asks: started ahead, then asked one query after another until
 * it has served as many as it may, one failed, or it was killed. Whatever ended it is the error that the reader gets.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync } from "node:fs";
import { rm } from "node:fs/promises";
import { extname, join } from "node:path";
import type { Readable, Writable } from "node:stream";
import { fileURLToPath } from "node:url";
import { AppError, fromFailure, toAppError } from "../../lib/errors.ts";
import type { DataSet } from "../../lib/model/dataset.ts";
import { FRAME, frameBytes, readFrames, type Frame } from "./frames.ts";
import {
  memoryDetail,
  timeDetail,
  type ChildEnd,
  type ChildFailure,
  type ChildRequest,
  type ChildSettings,
  type QueryLimits,
  type Verdict,
} from "./query-protocol.ts";
import type { PushedQuestion } from "./pushdown.ts";
import { limitedCommand } from "./system-limits.ts";

/** What a query can see: a database file with exactly the granted tables and columns, and their declaration. */
export interface World {
  readonly path: string;
  readonly dataSets: readonly DataSet[];
}

/** One query. */
export interface QueryRequest {
  readonly sql: string;
  readonly world: World;
  readonly signal: AbortSignal;
  /** See `ChildRequest`. */
  readonly pushed?: PushedQuestion;
}

/** What all queries of a process have in common. */
export interface QueryProcessOptions {
  readonly limits: QueryLimits;
  /** Folder in which each process makes its own; it needs room for `limits.temporaryBytes`. */
  readonly temporaryFolder: string;
  /** How many queries the process may serve. */
  readonly queries: number;
  /** See `ChildSettings`. */
  readonly mostMemoryKept?: number | undefined;
}

/** The query that a process is at. */
interface Running {
  readonly signal: AbortSignal;
  readonly onAbort: () => void;
  workedMs: number;
}

/** Far beyond any start, also on a machine that has no time. */
const START_LIMIT_MS = 60_000;

/** See the file comment. One query at a time. */
export class QueryProcess {
  readonly #options: QueryProcessOptions;
  readonly #folder: string;
  readonly #child: ChildProcess;
  readonly #frames: AsyncGenerator<Frame>;
  readonly #exited: Promise<unknown>;
  #running: Running | undefined;
  #messages = "";
  #killedFor: AppError | undefined;
  #isReady = false;
  #isReusable = false;

  /** Starts the process; it gets ready by itself. Throws what making its folder throws. */
  constructor(options: QueryProcessOptions) {
    this.#options = options;
    this.#folder = mkdtempSync(join(options.temporaryFolder, "query-"));
    this.#child = spawnChild(options, this.#folder);
    this.#exited = once(this.#child, "close");
    // Seen by `next`, which finds no frame; the child's own errors (it could not be started) come as its code.
    this.#exited.catch((error: unknown) => this.#kill(toAppError(error)));
    const [input, , errors, output] = this.#child.stdio as unknown as [Writable, null, Readable, Readable];
    errors.setEncoding("utf8").on("data", (text: string) => (this.#messages = (this.#messages + text).slice(-4096)));
    // A process that is killed before it has read its request breaks this pipe; how it ended says why.
    input.on("error", () => undefined);
    this.#frames = readFrames(output);
  }

  /** Whether it waits for a query: alive, and done with the one before, if there was one. */
  get isFree(): boolean {
    const { exitCode, signalCode } = this.#child;
    return this.#running === undefined && this.#killedFor === undefined && exitCode === null && signalCode === null;
  }

  /** Hands a query over, once the process is ready; its frames come from {@link next}. */
  async begin({ sql, world, signal, pushed }: QueryRequest): Promise<void> {
    const onAbort = (): void => this.#kill(toAppError(signal.reason));
    this.#running = { signal, onAbort, workedMs: 0 };
    this.#isReusable = false;
    signal.addEventListener("abort", onAbort, { once: true });
    if (signal.aborted) onAbort();
    const request: ChildRequest = {
      worldPath: world.path,
      dataSets: world.dataSets,
      sql,
      ...(pushed ? { pushed } : {}),
    };
    (this.#child.stdin as Writable).write(frameBytes(FRAME.request, Buffer.from(JSON.stringify(request))));
    if (this.#isReady) return;
    // Not the query's time.
    await this.#read(START_LIMIT_MS, startLimit);
    this.#isReady = true;
  }

  /** The next frame, undefined after the end; throws the failure that the process sent, or that it died of. */
  async next(): Promise<Frame | undefined> {
    const running = this.#running;
    if (running === undefined) throw new AppError("internal", "A query's process was read without a query.");
    const { limits } = this.#options;
    const started = performance.now();
    try {
      const frame = await this.#read(limits.timeMs - running.workedMs, () => timeLimit(limits));
      if (frame.kind !== FRAME.end) return frame;
      this.#isReusable = (JSON.parse(Buffer.from(frame.payload).toString()) as ChildEnd).servesAgain;
      return undefined;
    } finally {
      running.workedMs += performance.now() - started;
    }
  }

  async #read(limitMs: number, fault: () => AppError): Promise<Frame> {
    const timer = setTimeout(() => this.#kill(fault()), limitMs);
    try {
      const next = await this.#frames.next();
      if (this.#killedFor) throw this.#killedFor;
      if (next.done === true) throw await this.#deathCause();
      if (next.value.kind === FRAME.failure) throw childError(next.value.payload);
      return next.value;
    } finally {
      clearTimeout(timer);
    }
  }

  /** After the end frame: whether the process is free for another query. If not, it must be stopped. */
  finish(): boolean {
    this.#release();
    return this.#isReusable && this.isFree;
  }

  /** Kills the process if it still runs; resolves when it is gone and its folder removed. */
  async stop(): Promise<void> {
    this.#release();
    this.#child.kill("SIGKILL");
    (this.#child.stdio[3] as Readable | undefined)?.destroy();
    await this.#exited.catch(() => undefined);
    await rm(this.#folder, { recursive: true, force: true });
  }

  #release(): void {
    this.#running?.signal.removeEventListener("abort", this.#running.onAbort);
    this.#running = undefined;
  }

  #kill(reason: AppError): void {
    this.#killedFor ??= reason;
    this.#child.kill("SIGKILL");
  }

  /** Why the process ended without saying so. */
  async #deathCause(): Promise<AppError> {
    await this.#exited.catch(() => undefined);
    if (this.#killedFor) return this.#killedFor;
    const { limits } = this.#options;
    const verdict = /^\{"code".*\}$/m.exec(this.#messages)?.[0];
    if (verdict !== undefined) {
      const { code, detail } = JSON.parse(verdict) as Verdict;
      return new AppError(code, detail);
    }
    const { exitCode, signalCode } = this.#child;
    // V8 aborts where no memory is left for it; so does the C++ runtime.
    if (["SIGABRT", "SIGTRAP", "SIGILL"].includes(String(signalCode)) || /out of memory/i.test(this.#messages)) {
      return new AppError("memory_limit_exceeded", memoryDetail(limits.memoryBytes));
    }
    if (signalCode === "SIGXCPU") return timeLimit(limits);
    return new AppError(
      "job_failed",
      `The query's process ended with ${String(signalCode ?? exitCode)} before its result was complete.`,
    );
  }
}

function childError(payload: Uint8Array): AppError {
  const { frames, ...failure } = JSON.parse(Buffer.from(payload).toString()) as ChildFailure;
  if (frames === undefined) return fromFailure(failure);
  const cause = new Error("An error came up in the query's process, here:");
  cause.stack = `${cause.message}\n${frames}`;
  return new AppError(failure.code, failure.detail, { cause });
}

function startLimit(): AppError {
  return new AppError("job_failed", `The query's process was not ready within ${String(START_LIMIT_MS)} ms.`);
}

function timeLimit(limits: QueryLimits): AppError {
  return new AppError("time_limit_exceeded", timeDetail(limits.timeMs), {
    details: { limit: "timeMs", value: limits.timeMs },
  });
}

/** JavaScript's own share; batches and the rows that types are taken from. */
const JAVASCRIPT_HEAP_MIB = 96;

/**
 * Starts the process under the limits of its system. The environment is empty but for the folder: SQLite sorts in the folder that
 * the process is in, which is another for each query.
 */
function spawnChild({ limits, queries, mostMemoryKept }: QueryProcessOptions, folder: string): ChildProcess {
  const program = fileURLToPath(new URL(`./query-child${extname(fileURLToPath(import.meta.url))}`, import.meta.url));
  const settings: ChildSettings = {
    folder,
    limits,
    queries,
    parentPid: process.pid,
    ...(mostMemoryKept === undefined ? {} : { mostMemoryKept }),
  };
  const node = [
    process.execPath,
    `--max-old-space-size=${String(JAVASCRIPT_HEAP_MIB)}`,
    // So that rows in their millions need as much memory as some thousands do (docs/decisions/0025).
    "--max-semi-space-size=2",
    "--heap-growing-percent=10",
    program,
    JSON.stringify(settings),
  ];
  const command = limitedCommand(process.platform, limits, queries, node);
  return spawn(command[0] ?? "", command.slice(1), {
    cwd: folder,
    env: { SQLITE_TMPDIR: ".", TMPDIR: folder },
    stdio: ["pipe", "ignore", "pipe", "pipe"],
  });
}
