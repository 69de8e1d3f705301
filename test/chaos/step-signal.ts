/** Steps of requests, told as they happen to the faults that wait for one. */
import type { Step } from "./plan.ts";

/** Steps that clients tell. */
export type ToldStep = Extract<Step, "approved" | "firstByte">;

/** See the file comment. */
export class StepSignal {
  readonly #waiting = new Set<{ readonly step: ToldStep; readonly wake: () => void }>();

  /** A request has come to this step. */
  tell(step: ToldStep): void {
    for (const waiter of [...this.#waiting]) if (waiter.step === step) waiter.wake();
  }

  /** Resolves at the next such step, or when the signal ends the waiting. */
  async next(step: ToldStep, signal: AbortSignal): Promise<void> {
    await new Promise<void>((resolve) => {
      const waiter = {
        step,
        wake: () => {
          this.#waiting.delete(waiter);
          signal.removeEventListener("abort", waiter.wake);
          resolve();
        },
      };
      this.#waiting.add(waiter);
      signal.addEventListener("abort", waiter.wake, { once: true });
    });
  }
}
