/** A port for a process that must be found again at the same place when it is started anew. */
import { randomInt } from "node:crypto";
import { createServer } from "node:net";

/**
 * Below the range from which systems give outgoing connections their ports, so that no connection takes one while its process
 * is away; and beside the range of chains (`lib/jobs/local-ports.ts`).
 */
const FIRST = 25_000;
const LAST = 31_999;
const TRIES = 100;

/** A port of 127.0.0.1 on which nobody listens now. */
export async function freePort(): Promise<number> {
  for (let tries = 0; tries < TRIES; tries++) {
    const port = randomInt(FIRST, LAST + 1);
    if (await isFree(port)) return port;
  }
  throw new Error(`No free port found between ${String(FIRST)} and ${String(LAST)} in ${String(TRIES)} tries.`);
}

function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once("error", () => resolve(false));
    server.listen({ host: "127.0.0.1", port, exclusive: true }, () => server.close(() => resolve(true)));
  });
}
