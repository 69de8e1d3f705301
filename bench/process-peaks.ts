/** The most memory that each program of a running exchange ever had resident, looked up again and again while it works. */
import { setTimeout as sleep } from "node:timers/promises";
import { processFigures, type BenchExchange } from "./bench-exchange.ts";

const LOOK_EVERY_MS = 100;

/** Does work; resolves with its result, and with the peak (VmHWM) in MiB of each program: of several processes, that of the largest. */
export async function withPeaks<Result>(
  bench: BenchExchange,
  work: () => Promise<Result>,
): Promise<{ readonly result: Result; readonly peaks: ReadonlyMap<string, number> }> {
  const peaks = new Map<string, number>();
  const look = async (): Promise<void> => {
    for (const { program, peakMiB } of await processFigures(bench)) {
      // A shell that waits to become a chain's process is none of the programs.
      if (program === "other") continue;
      peaks.set(program, Math.max(peaks.get(program) ?? 0, peakMiB));
    }
  };
  const ending = new AbortController();
  const watching = (async () => {
    while (!ending.signal.aborted) {
      await look();
      await sleep(LOOK_EVERY_MS, undefined, { signal: ending.signal }).catch(() => undefined);
    }
  })();
  try {
    const result = await work();
    await look();
    return { result, peaks };
  } finally {
    ending.abort();
    await watching;
  }
}
