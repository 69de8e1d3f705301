/** Tries something that the doctor judges later: how long it took, or how it failed. */
import { performance } from "node:perf_hooks";
import { AppError, toAppError } from "../../lib/errors.ts";
import type { Outcome } from "./findings.ts";

/** No single try takes longer. */
const LIMIT_MS = 15_000;

/** Does the work, and says what came of it; with its result where there is one. */
export async function attempt<Result>(
  work: () => Promise<Result>,
  limitMs = LIMIT_MS,
): Promise<{ readonly outcome: Outcome; readonly result?: Result }> {
  const begin = performance.now();
  let timer: NodeJS.Timeout | undefined;
  const limit = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      reject(new AppError("deadline_exceeded", `There was no answer within ${String(limitMs)} ms.`));
    }, limitMs);
  });
  try {
    const result = await Promise.race([work(), limit]);
    return { outcome: { ok: true, ms: Math.round(performance.now() - begin) }, result };
  } catch (thrown) {
    const known = toAppError(thrown);
    // On the operator's own machine an error that is not ours may say what it says, but for URLs, which may hold a password.
    const cause = known.code === "internal" && known.cause instanceof Error ? known.cause.message : known.message;
    return { outcome: { ok: false, code: known.code, message: withoutCredentials(cause) } };
  } finally {
    clearTimeout(timer);
  }
}

/** A text whose URLs have no user and password. */
export function withoutCredentials(text: string): string {
  return text.replace(/([a-z][a-z0-9+.-]*:\/\/)\S*@/gi, "$1");
}
