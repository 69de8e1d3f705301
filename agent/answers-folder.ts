/**
 * Where one process keeps its answers: a folder of its own beside those of other replicas, which may share the state folder.
 * What a process that died left behind is removed once nobody has touched it for long: whether a process of another host or
 * container lives cannot be told by its id.
 */
import { mkdir, readdir, rm, stat, utimes } from "node:fs/promises";
import { join } from "node:path";
import type { Clock } from "../lib/clock.ts";
import { type AppError, toAppError } from "../lib/errors.ts";

/** How often a living process touches its folder. */
const TOUCH_MS = 30_000;
/** A folder that was not touched for this long is nobody's. Long enough for a machine that was asleep. */
const ABANDONED_MS = 20 * TOUCH_MS;

/** How a folder is opened. */
export interface AnswersFolderOptions {
  /** The folder that replicas share. */
  readonly shared: string;
  /** Names this process among them. */
  readonly instance: string;
  readonly clock: Clock;
  /** Hears of what could not be touched or removed. */
  readonly report: (error: AppError) => void;
}

/** See the file comment. */
export class AnswersFolder {
  readonly path: string;
  readonly #options: AnswersFolderOptions;
  readonly #closing = new AbortController();
  #keeping: Promise<void> = Promise.resolve();

  private constructor(options: AnswersFolderOptions) {
    this.#options = options;
    this.path = join(options.shared, options.instance);
  }

  /** Makes the folder, and removes those that nobody touched for long. */
  static async open(options: AnswersFolderOptions): Promise<AnswersFolder> {
    const folder = new AnswersFolder(options);
    await folder.#touch();
    await folder.#removeAbandoned();
    folder.#keeping = folder.#keep();
    return folder;
  }

  /** Removes it. */
  async close(): Promise<void> {
    this.#closing.abort();
    await this.#keeping;
    await rm(this.path, { recursive: true, force: true });
  }

  async #keep(): Promise<void> {
    const { clock, report } = this.#options;
    const { signal } = this.#closing;
    const waited = (): Promise<boolean> =>
      clock.sleep(TOUCH_MS, signal).then(
        () => true,
        () => false,
      );
    while (await waited()) {
      try {
        await this.#touch();
        await this.#removeAbandoned();
      } catch (error) {
        report(toAppError(error));
      }
    }
  }

  async #touch(): Promise<void> {
    const now = new Date(this.#options.clock.now());
    await mkdir(this.path, { recursive: true, mode: 0o700 });
    await utimes(this.path, now, now);
  }

  async #removeAbandoned(): Promise<void> {
    const { shared, clock } = this.#options;
    for (const name of await readdir(shared)) {
      const path = join(shared, name);
      const touchedMs = await touchedAt(path);
      if (touchedMs === undefined || clock.now() - touchedMs < ABANDONED_MS) continue;
      await rm(path, { recursive: true, force: true });
    }
  }
}

/** Undefined where another process has removed it meanwhile. */
async function touchedAt(path: string): Promise<number | undefined> {
  try {
    return (await stat(path)).mtimeMs;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}
