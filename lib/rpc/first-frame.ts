/** Looks at the first frame of a stream, which says whose it is, before somebody reads it. */
import type { Frame } from "./gen/dynamos/v1/stream_pb.ts";

/** The first frame (undefined for an empty stream), and the stream with it, to be read once. Throws what the source throws. */
export async function withFirst(
  frames: AsyncIterable<Frame>,
): Promise<readonly [first: Frame | undefined, all: AsyncIterable<Frame>]> {
  const iterator = frames[Symbol.asyncIterator]();
  const result = await iterator.next();
  if (result.done === true) return [undefined, ended()];
  const first = result.value;
  let isFirst = true;
  const next = (): Promise<IteratorResult<Frame>> => {
    if (!isFirst) return iterator.next();
    isFirst = false;
    return Promise.resolve({ done: false, value: first });
  };
  const leave = async (): Promise<IteratorResult<Frame>> => {
    await iterator.return?.();
    return { done: true, value: undefined };
  };
  return [first, { [Symbol.asyncIterator]: () => ({ next, return: leave }) }];
}

async function* ended(): AsyncGenerator<Frame> {}
