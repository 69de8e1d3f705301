/** Work that is done one after the other, and waiting that ends when a signal says so. */
import { toAppError } from "../../lib/errors.ts";

/** One at a time, in the order in which they asked. */
export class Turns {
  /** Resolves when all who asked so far are done, or have left; never rejects. */
  #done: Promise<unknown> = Promise.resolve();

  /**
   * Does the work when those before are done, however they ended. Who is aborted while waiting leaves at once, and the work is never
   * begun; work that has begun keeps its turn until it has ended, so that it has to follow the signal itself.
   *
   * @throws what the work throws, or what the signal was aborted with.
   */
  async take<Result>(work: () => Promise<Result>, signal?: AbortSignal): Promise<Result> {
    const before = this.#done;
    let end = (): void => undefined;
    const mine = new Promise<void>((resolve) => {
      end = resolve;
    });
    this.#done = before.then(() => mine);
    try {
      await (signal === undefined ? before : beforeAbort(before, signal));
      return await work();
    } finally {
      end();
    }
  }
}

/** The result, unless the signal comes first (or has come): then its reason as an `AppError`, while the work goes on. */
export async function beforeAbort<Result>(work: Promise<Result>, signal: AbortSignal): Promise<Result> {
  let onAbort = (): void => undefined;
  const aborted = new Promise<never>((_, reject) => {
    onAbort = () => reject(toAppError(signal.reason));
    signal.addEventListener("abort", onAbort, { once: true });
    if (signal.aborted) onAbort();
  });
  try {
    return await Promise.race([aborted, work]);
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}
