/** Hands values from one who pushes to one who pulls, one at a time, so that the pusher knows when each was dealt with. */

/**
 * An async iterable that is fed by {@link push}. `push` resolves when the reader, having taken the value, asks for the next
 * one: it is done with it then. A reader that leaves lets all pushes, also later ones, resolve at once.
 */
export class Handoff<Value> implements AsyncIterable<Value> {
  readonly #waiting: { readonly value: Value; readonly done: () => void }[] = [];
  #taken: (() => void) | undefined;
  #wake: (() => void) | undefined;
  #state: "open" | "ending" | "left" = "open";

  /** Gives a value. */
  push(value: Value): Promise<void> {
    if (this.#state !== "open") return Promise.resolve();
    return new Promise((resolve) => {
      this.#waiting.push({ value, done: resolve });
      this.#wake?.();
    });
  }

  /** No more values: the reader ends after those pushed. */
  end(): void {
    if (this.#state === "open") this.#state = "ending";
    this.#wake?.();
  }

  [Symbol.asyncIterator](): AsyncIterator<Value> {
    return {
      next: () => this.#next(),
      return: () => {
        this.#leave();
        return Promise.resolve({ done: true, value: undefined });
      },
    };
  }

  async #next(): Promise<IteratorResult<Value>> {
    this.#taken?.();
    this.#taken = undefined;
    while (this.#waiting.length === 0 && this.#state === "open") {
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
    const next = this.#waiting.shift();
    if (next === undefined) return { done: true, value: undefined };
    this.#taken = next.done;
    return { done: false, value: next.value };
  }

  #leave(): void {
    this.#state = "left";
    this.#taken?.();
    for (const { done } of this.#waiting.splice(0)) done();
    this.#wake?.();
  }
}
