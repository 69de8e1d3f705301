/** Keeps an exchange whole while somebody uses it: a process that ends by itself is started anew, as a cluster would. */
import { toAppError } from "../../lib/errors.ts";
import type { Exchange } from "./exchange.ts";

/** A process that lived for less has not recovered. */
const SOUND_LIFE_MS = 10_000;
/** So often in a row a process may end early; half an exchange would answer with riddles. */
const MAX_EARLY_ENDS = 3;

/**
 * Watches all processes until the signal; resolves then.
 *
 * @throws Error that names a process which ends again and again, or does not start any more.
 */
export async function supervise(exchange: Exchange, write: (line: string) => void, signal: AbortSignal): Promise<void> {
  await Promise.all([...exchange.services.keys()].map((name) => keepRunning(exchange, name, write, signal)));
}

async function keepRunning(
  exchange: Exchange,
  name: string,
  write: (line: string) => void,
  signal: AbortSignal,
): Promise<void> {
  const stopped = new Promise<"stopped">((resolve) => {
    if (signal.aborted) resolve("stopped");
    signal.addEventListener("abort", () => resolve("stopped"), { once: true });
  });
  let earlyEnds = 0;
  for (;;) {
    const startedMs = performance.now();
    const end = await Promise.race([exchange.services.get(name)?.exited ?? stopped, stopped]);
    if (end === "stopped" || signal.aborted) return;
    earlyEnds = performance.now() - startedMs < SOUND_LIFE_MS ? earlyEnds + 1 : 0;
    const how = end.signal ?? `code ${String(end.code)}`;
    if (earlyEnds > MAX_EARLY_ENDS) throw new Error(`${name} ends again and again, at last with ${how}; see its log.`);
    write(`  ${name} has ended with ${how}; starting it anew`);
    try {
      await exchange.start(name);
    } catch (thrown) {
      // The beginning of the end: whoever stops the exchange stops what is starting, too.
      if (signal.aborted) return;
      throw toAppError(thrown);
    }
  }
}
