/**
 * Attempts (decision 2): an agent retries its own chain at most once, only for its own failures that are retryable (those of a
 * data provider have been retried there), and only while nothing of the attempt has been handed on. After that the failure is
 * `stream_interrupted`.
 */
import { AppError, toAppError } from "../../lib/errors.ts";
import type { Frame } from "../../lib/rpc/gen/dynamos/v1/stream_pb.ts";
import type { ExecutionEvent } from "./execution.ts";

/** Attempts at one data request, the first included. */
export const MAX_ATTEMPTS = 2;

/** Told before each further attempt. */
export type OnRetry = (failed: AppError, nextAttempt: number) => void;

/**
 * Runs attempts until one succeeds or no other is allowed. Frames come out as of one execution: a Start is held back until
 * something follows it, so that a failed attempt leaves no trace.
 *
 * @param party who retries.
 * @param firstAttempt greater than that of any earlier life of this request.
 * @param run runs the attempt with this number.
 */
export async function* withAttempts(
  party: string,
  firstAttempt: number,
  run: (attempt: number) => AsyncIterable<ExecutionEvent>,
  signal: AbortSignal,
  onRetry: OnRetry,
): AsyncGenerator<ExecutionEvent, void, undefined> {
  for (let attempt = firstAttempt; ; attempt += 1) {
    let handedOn = false;
    let heldStart: Frame | undefined;
    try {
      for await (const event of run(attempt)) {
        if (event.kind === "frame" && event.frame.body.case === "start") {
          heldStart = event.frame;
          continue;
        }
        handedOn = true;
        if (event.kind === "handingOn") continue;
        if (heldStart !== undefined) yield { kind: "frame", frame: heldStart };
        heldStart = undefined;
        yield event;
      }
      return;
    } catch (error) {
      const failure = toAppError(error);
      if (signal.aborted) throw toAppError(signal.reason);
      if (handedOn && failure.retryable) {
        throw new AppError(
          "stream_interrupted",
          `${failure.message} Rows had been handed on already, so it was not repeated.`,
          {
            cause: failure,
            details: { ...failure.details, reason: failure.code },
            ...(failure.party === undefined ? {} : { party: failure.party }),
          },
        );
      }
      const isOwn = failure.party === undefined || failure.party === party;
      if (!failure.retryable || !isOwn || attempt - firstAttempt + 1 >= MAX_ATTEMPTS) throw failure;
      onRetry(failure, attempt + 1);
    }
  }
}
