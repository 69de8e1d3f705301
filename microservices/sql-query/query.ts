/**
 * Runs one query in a process of its own (decision 13), and gives its result as a stream of batches. However it ends
 * (last row, error, limit, cancel, reader gone), the process is dead and its temporary folder removed before the stream is over.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { extname, join } from "node:path";
import type { Readable, Writable } from "node:stream";
import { fileURLToPath } from "node:url";
import type { RecordBatch, Schema } from "apache-arrow";
import { BatchDecoder } from "../../lib/data/ipc.ts";
import { AppError, fromFailure, toAppError } from "../../lib/errors.ts";
import type { DataSet } from "../../lib/model/dataset.ts";
import { FRAME, readFrames, type Frame } from "./frames.ts";
import {
  memoryDetail,
  type ChildFailure,
  type ChildRequest,
  type QueryLimits,
  type Verdict,
} from "./query-protocol.ts";
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
  readonly limits: QueryLimits;
  readonly signal: AbortSignal;
  /** Folder in which the query's own temporary folder is made; it needs room for `limits.temporaryBytes`. */
  readonly temporaryFolder: string;
}

/** A result, as soon as its columns are known. The batches must be read, or their iterator closed, to free the process. */
export interface QueryResult {
  readonly schema: Schema;
  readonly batches: AsyncIterable<RecordBatch>;
}

/**
 * Starts a query and resolves with its schema.
 *
 * @throws AppError here or from the batches: `query_invalid`, `type_mismatch`, `time_limit_exceeded`, `memory_limit_exceeded`,
 * `result_too_large`, `batch_too_large`, `data_invalid`, `job_failed`, or what the signal was aborted with.
 */
export async function runQuery(request: QueryRequest): Promise<QueryResult> {
  if (request.sql.length > request.limits.queryCharacters) {
    throw new AppError(
      "query_invalid",
      `The query has ${String(request.sql.length)} characters; the limit is ${String(request.limits.queryCharacters)}.`,
    );
  }
  request.signal.throwIfAborted();
  const process = await QueryProcess.start(request);
  try {
    const first = await process.next();
    if (first?.kind !== FRAME.schema)
      throw new AppError("internal", "The query's process did not begin with a schema.");
    const decoder = new BatchDecoder(first.payload);
    return { schema: decoder.schema, batches: readBatches(process, decoder) };
  } catch (error) {
    await process.stop();
    throw error;
  }
}

async function* readBatches(process: QueryProcess, decoder: BatchDecoder): AsyncGenerator<RecordBatch> {
  try {
    for (let frame = await process.next(); frame?.kind === FRAME.batch; frame = await process.next()) {
      yield decoder.decode(frame.payload);
    }
  } finally {
    await process.stop();
  }
}

/**
 * The process of one query: running, then stopped. Why it was stopped, if this side did it, is kept: it is the error that the
 * reader gets.
 */
class QueryProcess {
  readonly #child: ChildProcess;
  readonly #frames: AsyncGenerator<Frame>;
  readonly #exited: Promise<unknown>;
  readonly #folder: string;
  readonly #request: QueryRequest;
  readonly #onAbort = (): void => this.#kill(toAppError(this.#request.signal.reason));
  #messages = "";
  #killedFor: AppError | undefined;
  #workedMs = 0;

  static async start(request: QueryRequest): Promise<QueryProcess> {
    return new QueryProcess(request, await mkdtemp(join(request.temporaryFolder, "query-")));
  }

  private constructor(request: QueryRequest, folder: string) {
    this.#request = request;
    this.#folder = folder;
    this.#child = spawnChild(request.limits, folder);
    this.#exited = once(this.#child, "close");
    // Seen by `next`, which finds no frame; the child's own errors (it could not be started) come as its code.
    this.#exited.catch((error: unknown) => this.#kill(toAppError(error)));
    const [input, , errors, output] = this.#child.stdio as unknown as [Writable, null, Readable, Readable];
    errors.setEncoding("utf8").on("data", (text: string) => (this.#messages = (this.#messages + text).slice(-4096)));
    // A process that is killed before it has read its request breaks this pipe; how it ended says why.
    input.on("error", () => undefined).end(JSON.stringify(childRequest(request)));
    this.#frames = readFrames(output);
    request.signal.addEventListener("abort", this.#onAbort, { once: true });
    if (request.signal.aborted) this.#onAbort();
  }

  /** The next frame, undefined after the end; throws the failure that the process sent, or that it died of. */
  async next(): Promise<Frame | undefined> {
    const started = performance.now();
    const timer = setTimeout(
      () => this.#kill(timeLimit(this.#request.limits)),
      this.#request.limits.timeMs - this.#workedMs,
    );
    try {
      const next = await this.#frames.next();
      if (this.#killedFor) throw this.#killedFor;
      if (next.done === true) throw await this.#deathCause();
      const frame = next.value;
      if (frame.kind === FRAME.failure) throw childError(frame.payload);
      return frame.kind === FRAME.end ? undefined : frame;
    } finally {
      clearTimeout(timer);
      this.#workedMs += performance.now() - started;
    }
  }

  /** Kills the process if it still runs; resolves when it is gone and its folder removed. */
  async stop(): Promise<void> {
    this.#request.signal.removeEventListener("abort", this.#onAbort);
    this.#child.kill("SIGKILL");
    (this.#child.stdio[3] as Readable | undefined)?.destroy();
    await this.#exited.catch(() => undefined);
    await rm(this.#folder, { recursive: true, force: true });
  }

  #kill(reason: AppError): void {
    this.#killedFor ??= reason;
    this.#child.kill("SIGKILL");
  }

  /** Why the process ended without saying so. */
  async #deathCause(): Promise<AppError> {
    await this.#exited.catch(() => undefined);
    if (this.#killedFor) return this.#killedFor;
    const verdict = /^\{"code".*\}$/m.exec(this.#messages)?.[0];
    if (verdict !== undefined) {
      const { code, detail } = JSON.parse(verdict) as Verdict;
      return new AppError(code, detail);
    }
    const { exitCode, signalCode } = this.#child;
    // V8 aborts where no memory is left for it; so does the C++ runtime.
    if (
      ["SIGABRT", "SIGTRAP", "SIGILL", "SIGSEGV"].includes(String(signalCode)) ||
      /out of memory/i.test(this.#messages)
    ) {
      return new AppError("memory_limit_exceeded", memoryDetail(this.#request.limits.memoryBytes));
    }
    if (signalCode === "SIGXCPU") return timeLimit(this.#request.limits);
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

function timeLimit(limits: QueryLimits): AppError {
  return new AppError("time_limit_exceeded", `The query took longer than ${String(limits.timeMs)} ms, the limit.`, {
    details: { limit: "timeMs", value: limits.timeMs },
  });
}

function childRequest({ world, sql, limits }: QueryRequest): ChildRequest {
  return { worldPath: world.path, dataSets: world.dataSets, sql, limits, parentPid: process.pid };
}

/** JavaScript's own share; batches and the rows that types are taken from. */
const JAVASCRIPT_HEAP_MIB = 96;
/** Starts the process under the limits of its system. The environment is empty but for the folder. */
function spawnChild(limits: QueryLimits, folder: string): ChildProcess {
  const program = fileURLToPath(new URL(`./query-child${extname(fileURLToPath(import.meta.url))}`, import.meta.url));
  const node = [
    process.execPath,
    `--max-old-space-size=${String(JAVASCRIPT_HEAP_MIB)}`,
    "--max-semi-space-size=4",
    program,
  ];
  const command = limitedCommand(process.platform, limits, node);
  return spawn(command[0] ?? "", command.slice(1), {
    cwd: folder,
    env: { SQLITE_TMPDIR: folder, TMPDIR: folder },
    stdio: ["pipe", "ignore", "pipe", "pipe"],
  });
}
