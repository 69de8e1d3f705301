/**
 * What is made of some files, made again when they change.
 *
 * The files' contents are compared at short intervals. Kubernetes renews a mounted Secret by swapping a symbolic link above the
 * files (`..data`), which tells nobody who watches the files themselves, and a watch of the folder misses what lies behind links of
 * somebody else's; reading a few kilobytes misses nothing.
 */
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import type { Clock } from "../clock.ts";
import { AppError, toAppError } from "../errors.ts";

/** Between two looks at the files. A kubelet takes up to a minute and more to bring a changed Secret. */
const LOOK_EVERY_MS = 5_000;

/** Which files, and what to make of them. */
export interface FollowedFilesOptions<Value> {
  /** Paths; each may be a symbolic link. */
  readonly paths: readonly string[];
  /** Makes the value of the files' contents, in the order of the paths; `configuration_invalid` where they are no good. */
  readonly make: (contents: readonly Buffer[]) => Value;
  /** Changed files were taken. */
  readonly onTaken: (value: Value) => void;
  /** Changed files are no good: what was made of the earlier ones stays. Told once per change. */
  readonly onRefused: (error: AppError) => void;
  readonly clock: Clock;
  /** Default 5,000. */
  readonly lookEveryMs?: number | undefined;
}

/** See the file comment. Two files that belong together may be seen half changed: that is refused, and seen again a look later. */
export class FollowedFiles<Value> {
  readonly #options: FollowedFilesOptions<Value>;
  readonly #closing = new AbortController();
  #value: Value;
  #seen: string;
  #fault: AppError | undefined;
  #following: Promise<void> = Promise.resolve();

  private constructor(options: FollowedFilesOptions<Value>, value: Value, seen: string) {
    this.#options = options;
    this.#value = value;
    this.#seen = seen;
  }

  /** Reads the files for the first time. Fails with `configuration_invalid`, naming the file, where they are no good. */
  static async open<Value>(options: FollowedFilesOptions<Value>): Promise<FollowedFiles<Value>> {
    const contents = await Promise.all(options.paths.map(readNamed));
    const files = new FollowedFiles(options, options.make(contents), digest(contents));
    files.#following = files.#follow();
    return files;
  }

  /** Made of the latest files that were good. */
  get value(): Value {
    return this.#value;
  }

  /** Why the files as they are now were refused; undefined where they were taken. */
  get fault(): AppError | undefined {
    return this.#fault;
  }

  /** Stops looking. */
  async close(): Promise<void> {
    this.#closing.abort();
    await this.#following;
  }

  async #follow(): Promise<void> {
    const { clock, lookEveryMs = LOOK_EVERY_MS } = this.#options;
    while (await this.#pause(clock, lookEveryMs)) await this.#look();
  }

  /** False when it was closed. */
  #pause(clock: Clock, ms: number): Promise<boolean> {
    const { signal } = this.#closing;
    return clock.sleep(ms, signal).then(
      () => !signal.aborted,
      () => false,
    );
  }

  async #look(): Promise<void> {
    const { paths, make, onTaken } = this.#options;
    let contents: readonly Buffer[];
    try {
      contents = await Promise.all(paths.map(readNamed));
    } catch (thrown) {
      this.#seen = "";
      return this.#refuse(thrown);
    }
    const found = digest(contents);
    if (found === this.#seen) return;
    this.#seen = found;
    try {
      this.#value = make(contents);
    } catch (thrown) {
      return this.#refuse(thrown);
    }
    this.#fault = undefined;
    onTaken(this.#value);
  }

  #refuse(thrown: unknown): void {
    const fault = toAppError(thrown);
    // Files that stay unreadable are one change.
    if (fault.message === this.#fault?.message) return;
    this.#fault = fault;
    this.#options.onRefused(fault);
  }
}

async function readNamed(path: string): Promise<Buffer> {
  try {
    return await readFile(path);
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code ?? "unknown error";
    throw new AppError("configuration_invalid", `The file ${path} cannot be read: ${code}.`, {
      cause,
      place: { file: path },
    });
  }
}

function digest(contents: readonly Buffer[]): string {
  const hash = createHash("sha256");
  for (const content of contents) hash.update(String(content.length)).update("\n").update(content);
  return hash.digest("hex");
}
