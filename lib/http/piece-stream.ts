/** An answer that is made piece by piece, as the body of a response. */
import type { ServerResponse } from "node:http";
import { Readable } from "node:stream";

/**
 * The pieces as a stream, each made when the caller's socket has room for it. A caller that takes nothing for `stallMs` loses
 * its connection: otherwise a socket that nobody reads would stay for ever.
 *
 * @param first what `pieces.next()` gave already, so that a failure before it had a status (decision 9).
 */
export function pieceStream(
  first: IteratorResult<string | Uint8Array, void>,
  pieces: AsyncGenerator<string | Uint8Array, void>,
  response: ServerResponse,
  stallMs: number,
): Readable {
  return Readable.from(
    watched(first, pieces, () => response.destroy(), stallMs),
    {
      objectMode: false,
      highWaterMark: 64 * 1024,
    },
  );
}

async function* watched(
  first: IteratorResult<string | Uint8Array, void>,
  pieces: AsyncGenerator<string | Uint8Array, void>,
  onStall: () => void,
  stallMs: number,
): AsyncGenerator<Uint8Array, void> {
  let timer: NodeJS.Timeout | undefined;
  try {
    for (let next = first; next.done !== true; next = await pieces.next()) {
      timer = setTimeout(onStall, stallMs);
      yield typeof next.value === "string" ? Buffer.from(next.value) : next.value;
      clearTimeout(timer);
    }
  } finally {
    clearTimeout(timer);
    await pieces.return();
  }
}
