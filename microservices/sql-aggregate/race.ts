/** Several streams as one, in whatever order their items come. */

/** An item, and the number of the stream that it is from. */
export interface RacedItem<Item> {
  readonly source: number;
  readonly item: Item;
}

/**
 * Merges streams. Of each stream at most one item is asked for ahead of the consumer, so a slow consumer holds all of them
 * back, and a slow stream none of the others. An abort or a failure of one stream ends all of them; leaving the loop does too.
 *
 * Not `Promise.race` over the pending items: each race would leave its reactions on the promise of a stream that is slow.
 */
export async function* race<Item>(
  streams: readonly AsyncIterable<Item>[],
  signal: AbortSignal,
): AsyncGenerator<RacedItem<Item>, void, undefined> {
  const iterators = streams.map((stream) => stream[Symbol.asyncIterator]());
  const arrivals: Arrival<Item>[] = [];
  let wake = (): void => undefined;
  const arrive = (arrival: Arrival<Item>): void => {
    arrivals.push(arrival);
    wake();
  };
  const ask = (source: number): void => {
    const iterator = iterators[source] as AsyncIterator<Item>;
    iterator.next().then(
      (result) => arrive({ source, result }),
      (error: unknown) => arrive({ source, error }),
    );
  };
  const onAbort = (): void => wake();
  signal.addEventListener("abort", onAbort);
  const open = new Set(iterators.keys());
  try {
    for (const source of open) ask(source);
    while (open.size > 0) {
      signal.throwIfAborted();
      const arrival = arrivals.shift();
      if (arrival === undefined) {
        await new Promise<void>((resolve) => (wake = resolve));
        continue;
      }
      const { source } = arrival;
      if ("error" in arrival) {
        open.delete(source);
        throw new StreamFailed(source, arrival.error);
      }
      if (arrival.result.done === true) {
        open.delete(source);
        continue;
      }
      yield { source, item: arrival.result.value };
      ask(source);
    }
  } finally {
    signal.removeEventListener("abort", onAbort);
    for (const source of open) giveUp(iterators[source] as AsyncIterator<Item>);
  }
}

/** One of the streams failed; the cause is its error. */
export class StreamFailed extends Error {
  /** The number of the stream. */
  readonly source: number;

  constructor(source: number, cause: unknown) {
    super(`Stream ${source} failed.`, { cause });
    this.name = "StreamFailed";
    this.source = source;
  }
}

type Arrival<Item> =
  | { readonly source: number; readonly result: IteratorResult<Item> }
  | { readonly source: number; readonly error: unknown };

/**
 * Tells a stream that nothing more will be read. Not waited for: one that hangs in its next item would hang here, too. Its
 * errors are of no use any more: the reason for the end is on its way already.
 */
function giveUp(iterator: AsyncIterator<unknown>): void {
  iterator.return?.().then(
    () => undefined,
    () => undefined,
  );
}
