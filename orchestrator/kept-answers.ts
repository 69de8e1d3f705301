/**
 * Answers to asynchronous requests (RFC 7240, `respond-async`), kept as files in the state folder until they are fetched or
 * too old. Each has at most `maxBytes`. A file is named by a hash of user and request id, so that a caller finds only what is
 * their own, and no name of a person is on the disk. Replicas that share the folder share the answers; a running one belongs
 * to the process that runs it.
 */
import { createHash, randomUUID } from "node:crypto";
import { createReadStream, type ReadStream } from "node:fs";
import { mkdir, open, readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Clock } from "../lib/clock.ts";
import { AppError, fromFailure, toAppError, toFailure, type Failure } from "../lib/errors.ts";
import type { Logger } from "../lib/telemetry/logger.ts";

/** How answers are kept. */
export interface KeptAnswersOptions {
  readonly folder: string;
  readonly maxBytes: number;
  /** How long after its end. */
  readonly keepMs: number;
  /** Requests that run at a time; more are `rate_limited`. */
  readonly maxRunning: number;
  readonly clock: Clock;
  readonly logger: Logger;
}

/** What there is under a name. */
export type KeptAnswer =
  | { readonly state: "running" }
  | { readonly state: "done"; readonly body: ReadStream; readonly bytes: number }
  | { readonly state: "failed"; readonly error: AppError };

interface Running {
  readonly abort: AbortController;
  readonly done: Promise<void>;
}

/** See the file comment. */
export class KeptAnswers {
  readonly #options: KeptAnswersOptions;
  readonly #running = new Map<string, Running>();

  private constructor(options: KeptAnswersOptions) {
    this.#options = options;
  }

  /** Opens the folder; what is too old in it goes. */
  static async open(options: KeptAnswersOptions): Promise<KeptAnswers> {
    await mkdir(options.folder, { recursive: true, mode: 0o700 });
    const answers = new KeptAnswers(options);
    await answers.#sweep();
    return answers;
  }

  /** Whether an answer of this name is running here or kept; then a repeat need not start anything. */
  async has(userName: string, requestId: string): Promise<boolean> {
    return (await this.find(userName, requestId, false)) !== undefined;
  }

  /** Runs an answer to its end and keeps it. */
  start(
    userName: string,
    requestId: string,
    produce: (signal: AbortSignal) => AsyncIterable<string | Uint8Array>,
  ): void {
    const { maxRunning } = this.#options;
    if (this.#running.size >= maxRunning) {
      throw new AppError("rate_limited", `${String(maxRunning)} asynchronous requests are running. Try again later.`, {
        details: { retryAfterSeconds: 5, limit: maxRunning },
      });
    }
    const name = fileName(userName, requestId);
    const abort = new AbortController();
    const done = this.#keep(name, produce(abort.signal), abort.signal).finally(() => {
      this.#running.delete(name);
    });
    this.#running.set(name, { abort, done });
  }

  /** What there is, or undefined. The body of a finished one is opened for reading. */
  async find(userName: string, requestId: string, opensBody = true): Promise<KeptAnswer | undefined> {
    const name = fileName(userName, requestId);
    if (this.#running.has(name)) return { state: "running" };
    const failure = await readIfThere(this.#path(name, "failure"));
    if (failure !== undefined) return { state: "failed", error: fromFailure(JSON.parse(failure) as Failure) };
    const path = this.#path(name, "json");
    const bytes = await sizeIfThere(path);
    if (bytes === undefined) return undefined;
    const body = createReadStream(path);
    if (!opensBody) body.destroy();
    return { state: "done", body, bytes };
  }

  /** Ends a running one and forgets a finished one; whether there was any. */
  async remove(userName: string, requestId: string, reason: AppError): Promise<boolean> {
    const name = fileName(userName, requestId);
    const running = this.#running.get(name);
    running?.abort.abort(reason);
    await running?.done;
    const found = (await this.find(userName, requestId, false)) !== undefined;
    await this.#forget(name);
    return found || running !== undefined;
  }

  /** Ends what runs. */
  async close(): Promise<void> {
    const reason = new AppError("unavailable", "The orchestrator is stopping; repeat the request under its id.");
    for (const { abort } of this.#running.values()) abort.abort(reason);
    await Promise.all([...this.#running.values()].map(({ done }) => done));
  }

  async #keep(name: string, pieces: AsyncIterable<string | Uint8Array>, signal: AbortSignal): Promise<void> {
    try {
      await this.#sweep();
      await this.#write(name, pieces);
    } catch (thrown) {
      const error = toAppError(signal.aborted ? signal.reason : thrown);
      await writeFile(this.#path(name, "failure"), JSON.stringify(toFailure(error)), { mode: 0o600 }).catch(
        (cause: unknown) => this.#options.logger.error({ error: toAppError(cause) }, "a failure could not be kept"),
      );
    }
  }

  async #write(name: string, pieces: AsyncIterable<string | Uint8Array>): Promise<void> {
    const { maxBytes } = this.#options;
    const draft = this.#path(name, `${randomUUID()}.draft`);
    const file = await open(draft, "wx", 0o600);
    try {
      let bytes = 0;
      for await (const piece of pieces) {
        const buffer = typeof piece === "string" ? Buffer.from(piece) : piece;
        bytes += buffer.length;
        if (bytes > maxBytes) throw tooLarge(maxBytes);
        await file.writeFile(buffer);
      }
      await file.close();
      await rename(draft, this.#path(name, "json"));
    } finally {
      await file.close();
      await rm(draft, { force: true });
    }
  }

  async #forget(name: string): Promise<void> {
    await Promise.all(["json", "failure"].map((kind) => rm(this.#path(name, kind), { force: true })));
  }

  /** Deletes what is too old, drafts of processes that died included. */
  async #sweep(): Promise<void> {
    const { folder, keepMs, clock } = this.#options;
    for (const file of await readdir(folder)) {
      const path = join(folder, file);
      const changedMs = (await stat(path).catch(goneMeanwhile))?.mtimeMs;
      if (changedMs !== undefined && clock.now() - changedMs > keepMs) await rm(path, { force: true });
    }
  }

  #path(name: string, kind: string): string {
    return join(this.#options.folder, `${name}.${kind}`);
  }
}

function tooLarge(maxBytes: number): AppError {
  return new AppError(
    "result_too_large",
    `The answer is larger than the ${String(maxBytes)} bytes (DYNAMOS_MAX_KEPT_ANSWER_BYTES) that are kept; ask without "Prefer: respond-async".`,
    { details: { limit: maxBytes } },
  );
}

function fileName(userName: string, requestId: string): string {
  return createHash("sha256")
    .update(JSON.stringify([userName, requestId]))
    .digest("hex");
}

async function readIfThere(path: string): Promise<string | undefined> {
  return readFile(path, "utf8").catch(goneMeanwhile);
}

async function sizeIfThere(path: string): Promise<number | undefined> {
  return (await stat(path).catch(goneMeanwhile))?.size;
}

function goneMeanwhile(thrown: unknown): undefined {
  if (thrown instanceof Error && (thrown as NodeJS.ErrnoException).code === "ENOENT") return undefined;
  throw thrown;
}
