/**
 * A program's life: start, run until a signal, then give everything back in reverse order, within a limit.
 * Every deployable's `main.ts` is one call of {@link runProgram}.
 */
import { toAppError } from "./errors.ts";
import { createLogger, type Logger } from "./telemetry/logger.ts";

/** How long one release may take before the next begins. */
const RELEASE_LIMIT_MS = 10_000;

/** What must be given back, in the order it was taken; released backwards. */
export class ReleaseStack {
  readonly #entries: {
    readonly name: string;
    readonly release: () => Promise<void> | void;
    readonly limitMs: number;
  }[] = [];

  /**
   * Whoever opens something pushes its release at once.
   *
   * @param limitMs how long this release may take; default 10 s.
   */
  push(name: string, release: () => Promise<void> | void, limitMs: number = RELEASE_LIMIT_MS): void {
    this.#entries.push({ name, release, limitMs });
  }

  /**
   * Releases everything, the last first, each within its limit, whatever happens to the others.
   *
   * @throws AggregateError with all that failed.
   */
  async releaseAll(): Promise<void> {
    const failures: Error[] = [];
    for (let entry = this.#entries.pop(); entry !== undefined; entry = this.#entries.pop()) {
      try {
        await withinLimit(Promise.resolve(entry.release()), entry.limitMs);
      } catch (error) {
        failures.push(new Error(`${entry.name} could not be released`, { cause: error }));
      }
    }
    if (failures.length > 0) throw new AggregateError(failures, failures.map((failure) => failure.message).join("; "));
  }
}

/** What a program gets. */
export interface ProgramContext {
  readonly releases: ReleaseStack;
  readonly logger: Logger;
  /** Aborted when the program is asked to stop. */
  readonly signal: AbortSignal;
  /** Asks the program to stop, with this exit code (default 0). */
  stop(exitCode?: number): void;
}

/** How a program is run. */
export interface ProgramOptions {
  readonly logLevel?: string;
  /** Fields of every log line. */
  readonly fields?: Readonly<Record<string, string>>;
  /** Stop when standard input closes: its other end is the parent process, which must not be outlived. */
  readonly exitWithParent?: boolean;
}

/**
 * Runs a program until SIGTERM, SIGINT, its own `stop`, or (if asked) the death of its parent; then releases everything and
 * ends the process. A second signal ends it at once. A failed start prints the error and exits with 1.
 */
export async function runProgram(
  name: string,
  start: (context: ProgramContext) => Promise<void>,
  options: ProgramOptions = {},
): Promise<void> {
  const logger = createLogger(name, options.fields, options.logLevel);
  logger.debug({ startedAtMs: performance.timeOrigin, ...startStages() }, "program loaded");
  const releases = new ReleaseStack();
  const stopping = new AbortController();
  let exitCode = 0;
  const stopped = new Promise<void>((resolve) => {
    stopping.signal.addEventListener("abort", () => resolve(), { once: true });
  });
  const stop = (code = 0): void => {
    if (stopping.signal.aborted) return;
    exitCode = code;
    stopping.abort();
  };
  let signals = 0;
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    // The second one, and not the first that comes while it is ending by itself: what it has to send yet would be lost.
    process.on(signal, () => (++signals > 1 ? process.exit(1) : stop()));
  }
  if (options.exitWithParent === true) {
    process.stdin.on("error", () => stop());
    process.stdin.on("close", () => stop());
    process.stdin.resume();
    process.stdin.unref?.();
  }
  try {
    await start({ releases, logger, signal: stopping.signal, stop });
    await stopped;
  } catch (error) {
    exitCode = 1;
    stopping.abort();
    logger.fatal({ error: toAppError(error) }, "could not start or run");
  }
  try {
    await releases.releaseAll();
  } catch (error) {
    exitCode = exitCode === 0 ? 1 : exitCode;
    logger.error({ error }, "did not stop cleanly");
  }
  process.exit(exitCode);
}

/** How long after the process began Node.js was ready to load the program, and the program was loaded; in milliseconds. */
function startStages(): { readonly nodeReadyMs: number; readonly loadedMs: number } {
  return { nodeReadyMs: performance.nodeTiming.bootstrapComplete, loadedMs: performance.now() };
}

async function withinLimit(work: Promise<void>, limitMs: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const limit = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not done after ${String(limitMs)} ms`)), limitMs);
  });
  try {
    await Promise.race([work, limit]);
  } finally {
    clearTimeout(timer);
  }
}
