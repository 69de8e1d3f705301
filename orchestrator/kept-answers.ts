/**
 * Answers to asynchronous requests (RFC 7240, `respond-async`), kept as files in the state folder until they are fetched or
 * too old (`kept-answer-files.ts`). A file is named by a hash of user and request id, so that a caller finds only what is
 * their own, and no name of a person is on the disk. Replicas that share the folder share the answers; a running one belongs
 * to the process that runs it.
 */
import { createHash } from "node:crypto";
import type { ReadStream } from "node:fs";
import { AppError, isUnexpected, toAppError } from "../lib/errors.ts";
import type { Logger } from "../lib/telemetry/logger.ts";
import { KeptAnswerFiles, type KeptAnswerFilesOptions, type KeptFile } from "./kept-answer-files.ts";
import { keyReused, type RequestName } from "./request-records.ts";

/** How answers are kept. */
export interface KeptAnswersOptions extends KeptAnswerFilesOptions {
  /** Requests that run at a time; more are `rate_limited`. */
  readonly maxRunning: number;
  readonly logger: Logger;
}

/** What there is under a name. */
export type KeptAnswer =
  | { readonly state: "running" }
  | { readonly state: "done"; readonly body: ReadStream; readonly bytes: number }
  | { readonly state: "failed"; readonly error: AppError };

interface Running {
  readonly fingerprint: string;
  readonly abort: AbortController;
  /** Resolves once it runs, or need not run. */
  readonly started: Promise<void>;
  /** Resolves when it has ended, whichever way. */
  readonly done: Promise<void>;
}

type Produce = (signal: AbortSignal) => AsyncIterable<string | Uint8Array>;

/** See the file comment. */
export class KeptAnswers {
  readonly #options: KeptAnswersOptions;
  readonly #files: KeptAnswerFiles;
  readonly #running = new Map<string, Running>();

  private constructor(options: KeptAnswersOptions, files: KeptAnswerFiles) {
    this.#options = options;
    this.#files = files;
  }

  /** Opens the folder; what is too old in it goes. */
  static async open(options: KeptAnswersOptions): Promise<KeptAnswers> {
    return new KeptAnswers(options, await KeptAnswerFiles.open(options));
  }

  /**
   * Runs an answer to its end and keeps it, unless one of this name runs here or is kept; a kept failure that may pass is
   * forgotten, and tried again. Resolves once it runs. Fails with `idempotency_key_reused` when the name stands for another
   * question, with `rate_limited` when too many run.
   */
  start(name: RequestName, produce: Produce): Promise<void> {
    const file = fileName(name.userName, name.requestId);
    const running = this.#running.get(file);
    if (running !== undefined) {
      return running.fingerprint === name.fingerprint ? running.started : Promise.reject(keyReused());
    }
    // Nothing is awaited before the name is taken: of two repeats at once the second one finds the first.
    const abort = new AbortController();
    const work = this.#begin(file, name.fingerprint, produce, abort.signal);
    const started = work.then(() => undefined);
    const done = work
      .then(
        (begun) => begun?.done,
        () => undefined,
      )
      .finally(() => this.#running.delete(file));
    this.#running.set(file, { fingerprint: name.fingerprint, abort, started, done });
    return started;
  }

  /** What there is, or undefined. The body of a finished one is open: whoever does not read it destroys it. */
  async find(userName: string, requestId: string): Promise<KeptAnswer | undefined> {
    const file = fileName(userName, requestId);
    return this.#running.has(file) ? { state: "running" } : this.#files.find(file);
  }

  /** Ends a running one and forgets a finished one; whether there was any. */
  async remove(userName: string, requestId: string, reason: AppError): Promise<boolean> {
    const file = fileName(userName, requestId);
    const running = this.#running.get(file);
    running?.abort.abort(reason);
    await running?.done;
    const found = await this.#files.find(file);
    closeBody(found);
    await this.#files.forget(file);
    return found !== undefined || running !== undefined;
  }

  /** Ends what runs. */
  async close(): Promise<void> {
    const reason = new AppError("unavailable", "The orchestrator is stopping; repeat the request under its id.");
    for (const { abort } of this.#running.values()) abort.abort(reason);
    await Promise.all([...this.#running.values()].map(({ done }) => done));
  }

  /** The work, begun; undefined where it is done already. */
  async #begin(
    file: string,
    fingerprint: string,
    produce: Produce,
    signal: AbortSignal,
  ): Promise<{ readonly done: Promise<void> } | undefined> {
    const kept = await this.#files.find(file);
    closeBody(kept);
    if (kept !== undefined && kept.fingerprint !== fingerprint) throw keyReused();
    const mayPass = kept?.state === "failed" && kept.error.retryable;
    if (kept !== undefined && !mayPass) return undefined;
    // This one is among those that run.
    const { maxRunning } = this.#options;
    if (this.#running.size > maxRunning) {
      throw new AppError("rate_limited", `${String(maxRunning)} asynchronous requests are running. Try again later.`, {
        details: { retryAfterSeconds: 5, limit: maxRunning },
      });
    }
    if (mayPass) await this.#files.forget(file);
    return { done: this.#keep(file, fingerprint, produce(signal), signal) };
  }

  async #keep(
    file: string,
    fingerprint: string,
    pieces: AsyncIterable<string | Uint8Array>,
    signal: AbortSignal,
  ): Promise<void> {
    try {
      await this.#files.sweep();
      await this.#files.writeAnswer(file, fingerprint, pieces);
    } catch (thrown) {
      const error = toAppError(signal.aborted ? signal.reason : thrown);
      if (isUnexpected(error)) this.#options.logger.error({ error }, "an answer failed while it was made");
      await this.#files
        .writeFailure(file, fingerprint, error)
        .catch((cause: unknown) =>
          this.#options.logger.error({ error: toAppError(cause) }, "a failure could not be kept"),
        );
    }
  }
}

function closeBody(kept: KeptFile | undefined): void {
  if (kept?.state === "done") kept.body.destroy();
}

function fileName(userName: string, requestId: string): string {
  return createHash("sha256")
    .update(JSON.stringify([userName, requestId]))
    .digest("hex");
}
