/**
 * Kept answers as files: `<name>.answer` or `<name>.failure`, their first line the fingerprint of the question, the rest the
 * answer's bytes, or the failure as JSON. An answer that is being written is a `.draft`. All of them together have at most
 * `maxTotalBytes`: those that ended first make room.
 */
import { randomUUID } from "node:crypto";
import type { ReadStream } from "node:fs";
import { mkdir, open, readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Clock } from "../lib/clock.ts";
import { AppError, fromFailure, toFailure, type Failure } from "../lib/errors.ts";

/** How the files are kept. */
export interface KeptAnswerFilesOptions {
  readonly folder: string;
  /** Of one answer. */
  readonly maxBytes: number;
  /** Of all files together. */
  readonly maxTotalBytes: number;
  /** How long after its end. */
  readonly keepMs: number;
  readonly clock: Clock;
}

/** What is kept under a name. */
export type KeptFile =
  | { readonly state: "done"; readonly fingerprint: string; readonly body: ReadStream; readonly bytes: number }
  | { readonly state: "failed"; readonly fingerprint: string; readonly error: AppError };

interface ListedFile {
  readonly path: string;
  readonly bytes: number;
  readonly changedMs: number;
}

/** What is written is accounted for in steps of this size. */
const STEP_BYTES = 1024 * 1024;
const DRAFT = ".draft";

/** See the file comment. */
export class KeptAnswerFiles {
  readonly #options: KeptAnswerFilesOptions;
  /** Bytes set aside for what this process is writing, by path. */
  readonly #reserved = new Map<string, number>();
  #turn: Promise<unknown> = Promise.resolve();

  private constructor(options: KeptAnswerFilesOptions) {
    this.#options = options;
  }

  /** Opens the folder; what is too old in it goes. */
  static async open(options: KeptAnswerFilesOptions): Promise<KeptAnswerFiles> {
    await mkdir(options.folder, { recursive: true, mode: 0o700 });
    const files = new KeptAnswerFiles(options);
    await files.sweep();
    return files;
  }

  /** What is kept under this name, the body of an answer open for reading: whoever does not read it destroys it. */
  async find(name: string): Promise<KeptFile | undefined> {
    const failure = await readFile(this.#path(name, "failure"), "utf8").catch(goneMeanwhile);
    if (failure !== undefined) {
      const end = failure.indexOf("\n");
      const error = fromFailure(JSON.parse(failure.slice(end + 1)) as Failure);
      return { state: "failed", fingerprint: failure.slice(0, end), error };
    }
    const file = await open(this.#path(name, "answer")).catch(goneMeanwhile);
    if (file === undefined) return undefined;
    try {
      const { size } = await file.stat();
      const { buffer, bytesRead } = await file.read(Buffer.alloc(256), 0, 256, 0);
      const end = buffer.subarray(0, bytesRead).indexOf("\n");
      const fingerprint = buffer.toString("utf8", 0, end);
      return { state: "done", fingerprint, body: file.createReadStream({ start: end + 1 }), bytes: size - end - 1 };
    } catch (thrown) {
      await file.close();
      throw thrown;
    }
  }

  /** Writes an answer, which is there once it is whole. Fails with `result_too_large`, or as its pieces do. */
  async writeAnswer(name: string, fingerprint: string, pieces: AsyncIterable<string | Uint8Array>): Promise<void> {
    const { maxBytes } = this.#options;
    const draft = this.#path(name, `${randomUUID()}${DRAFT}`);
    const heading = Buffer.from(`${fingerprint}\n`);
    const file = await open(draft, "wx", 0o600);
    try {
      let bytes = 0;
      let room = 0;
      const write = async (buffer: Uint8Array): Promise<void> => {
        bytes += buffer.length;
        if (bytes - heading.length > maxBytes) throw tooLarge(maxBytes);
        if (bytes > room) {
          room = Math.max(bytes, Math.min(bytes + STEP_BYTES, maxBytes + heading.length));
          await this.#reserve(draft, room);
        }
        await file.writeFile(buffer);
      };
      await write(heading);
      for await (const piece of pieces) await write(typeof piece === "string" ? Buffer.from(piece) : piece);
      await file.close();
      await rename(draft, this.#path(name, "answer"));
    } finally {
      this.#reserved.delete(draft);
      await file.close();
      await rm(draft, { force: true });
    }
  }

  /** Writes that there is no answer, and why. */
  async writeFailure(name: string, fingerprint: string, error: AppError): Promise<void> {
    const path = this.#path(name, "failure");
    const content = Buffer.from(`${fingerprint}\n${JSON.stringify(toFailure(error))}`);
    try {
      await this.#reserve(path, content.length);
      await writeFile(path, content, { mode: 0o600 });
    } finally {
      this.#reserved.delete(path);
    }
  }

  /** Deletes what is kept under a name. */
  async forget(name: string): Promise<void> {
    await Promise.all(["answer", "failure"].map((kind) => rm(this.#path(name, kind), { force: true })));
  }

  /** Deletes what is too old, drafts of processes that died included. */
  async sweep(): Promise<void> {
    const { keepMs, clock } = this.#options;
    for (const { path, changedMs } of await this.#list()) {
      if (clock.now() - changedMs > keepMs) await rm(path, { force: true });
    }
  }

  /** Sets bytes aside for a file, where need be in place of the answers that ended first; `result_too_large` where even that is not enough. */
  #reserve(path: string, bytes: number): Promise<void> {
    const reserved = this.#turn.then(async () => {
      const { maxTotalBytes } = this.#options;
      const others = (await this.#list()).filter((file) => !this.#reserved.has(file.path));
      const ended = others
        .filter((file) => !file.path.endsWith(DRAFT))
        .sort((left, right) => left.changedMs - right.changedMs);
      this.#reserved.set(path, bytes);
      let total = sumOf([...this.#reserved.values()]) + sumOf(others.map((file) => file.bytes));
      if (total - sumOf(ended.map((file) => file.bytes)) > maxTotalBytes) throw noRoom(bytes, maxTotalBytes);
      for (const oldest of ended) {
        if (total <= maxTotalBytes) return;
        await rm(oldest.path, { force: true });
        total -= oldest.bytes;
      }
    });
    // The next one waits for this one's end, whichever it is; its outcome goes to its own caller.
    this.#turn = reserved.catch(() => undefined);
    return reserved;
  }

  async #list(): Promise<readonly ListedFile[]> {
    const { folder } = this.#options;
    const files: ListedFile[] = [];
    for (const name of await readdir(folder)) {
      const path = join(folder, name);
      const found = await stat(path).catch(goneMeanwhile);
      if (found !== undefined) files.push({ path, bytes: found.size, changedMs: found.mtimeMs });
    }
    return files;
  }

  #path(name: string, kind: string): string {
    return join(this.#options.folder, `${name}.${kind}`);
  }
}

function sumOf(numbers: readonly number[]): number {
  return numbers.reduce((sum, number) => sum + number, 0);
}

function tooLarge(maxBytes: number): AppError {
  return new AppError(
    "result_too_large",
    `The answer is larger than the ${String(maxBytes)} bytes (DYNAMOS_MAX_KEPT_ANSWER_BYTES) that are kept; ask without "Prefer: respond-async".`,
    { details: { limit: maxBytes } },
  );
}

function noRoom(bytes: number, maxTotalBytes: number): AppError {
  return new AppError(
    "result_too_large",
    `There is no room for the answer among the ${String(maxTotalBytes)} bytes (DYNAMOS_KEPT_ANSWERS_TOTAL_BYTES) that all kept answers may have; ask without "Prefer: respond-async".`,
    // Others that are being written now may take up the room.
    { details: { limit: maxTotalBytes }, retryable: bytes <= maxTotalBytes },
  );
}

function goneMeanwhile(thrown: unknown): undefined {
  if (thrown instanceof Error && (thrown as NodeJS.ErrnoException).code === "ENOENT") return undefined;
  throw thrown;
}
