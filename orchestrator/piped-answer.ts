/**
 * An answer whose responses are piped as they come, one after the other, under back-pressure: of each at most one batch, or
 * one chunk and one row, is held here. An agent sends frames, of which the JSON is written here: what crosses the wire between are the
 * chunks as the chain compressed them, and the answer is neither encoded there nor decoded and searched here. The party that answers
 * first stands first; the others wait at their own sockets meanwhile.
 */
import { AppError, isUnexpected, toAppError } from "../lib/errors.ts";
import { readAnswerFrames } from "../lib/rpc/answer-frames.ts";
import { jsonAnswer } from "../lib/rpc/answer-stream.ts";
import { readParts } from "../lib/rpc/frames.ts";
import type { Logger } from "../lib/telemetry/logger.ts";
import type { OpenAnswer } from "./agent-calls.ts";
import { AnswerScanner } from "./answer-scanner.ts";
import type { DataRequestOrder } from "./data-request-order.ts";
import { allFailed, endingOf, failedOutcome, headingOf, type Arrival } from "./outcomes.ts";

/** A row, or a member such as a picture, that is larger than this ends its party's answer. */
const MAX_HELD_BYTES = 32 * 1024 * 1024;
const NOT_PASSED_ON = "an answer could not be passed on";

/** The pieces of the answer; fails before the first one when no party has a result. */
export async function* pipedAnswer(
  { plan, requestId }: DataRequestOrder,
  calls: readonly Promise<Arrival>[],
  logger: Logger,
): AsyncGenerator<string | Uint8Array, void, undefined> {
  const failures: (readonly [string, AppError])[] = [];
  let begun = 0;
  let whole = 0;
  for await (const arrival of inOrderOfArrival(calls)) {
    if ("error" in arrival) {
      failures.push([arrival.party, arrival.error]);
      continue;
    }
    yield begun++ === 0 ? `${JSON.stringify(headingOf(plan, requestId)).slice(0, -1)},"responses":[` : ",";
    if (yield* pipeAnswer(arrival.party, arrival.answer, logger)) whole++;
  }
  if (begun === 0) throw allFailed(plan, requestId, failures);
  for (const [party, error] of failures) yield `,${JSON.stringify(failedOutcome(party, error))}`;
  yield `],${JSON.stringify(endingOf(plan, whole, calls.length)).slice(1)}`;
}

async function* inOrderOfArrival(calls: readonly Promise<Arrival>[]): AsyncGenerator<Arrival, void, undefined> {
  const waiting = new Map(calls.map((call, index) => [index, call.then((arrival) => ({ index, arrival }))]));
  while (waiting.size > 0) {
    const { index, arrival } = await Promise.race(waiting.values());
    waiting.delete(index);
    yield arrival;
  }
}

/**
 * Passes on one agent's answer; returns whether it is whole. One that breaks off is asked for again at another instance while
 * nothing of it was passed on; later it is closed where the last row ended, with status and problem, so that the answer stays
 * valid JSON.
 */
async function* pipeAnswer(
  party: string,
  first: OpenAnswer,
  logger: Logger,
): AsyncGenerator<Uint8Array | string, boolean, undefined> {
  for (let next = first; ;) {
    const answer = next;
    const scanner = new AnswerScanner();
    let isHandedOn = false;
    const pieces =
      answer.format === "frames" ? framesAsJson(party, answer, logger) : jsonPassedOn(party, answer, scanner);
    try {
      const begun = await pieces.next();
      isHandedOn = true;
      if (begun.done === true) return begun.value;
      yield begun.value;
      return yield* pieces;
    } catch (thrown) {
      const error = toAppError(thrown).withParty(party);
      if (isUnexpected(error)) logger.error({ error, party }, NOT_PASSED_ON);
      const other = isHandedOn ? error : await askAgain(answer, error);
      if (other instanceof AppError) {
        yield closeBroken(party, scanner, other);
        return false;
      }
      next = other;
    } finally {
      await pieces.return(false);
      answer.destroy();
    }
  }
}

/** JSON of an answer's frames; returns whether it is whole. What fails once it has begun closes it here. */
async function* framesAsJson(
  party: string,
  { body }: OpenAnswer,
  logger: Logger,
): AsyncGenerator<string, boolean, undefined> {
  let lost: AppError | undefined;
  const read = await readAnswerFrames(party, body);
  const parts = readParts(
    noting(read.frames, (thrown) => (lost = toAppError(thrown).withParty(party))),
    party,
  );
  // What the agent itself says ended its answer is its failure; what ended the call may be another outcome.
  const statusOf = (error: AppError): string => (error === lost ? failedOutcome(party, error).status : "failed");
  try {
    const failure = yield* jsonAnswer(parts, read.heading, statusOf);
    if (failure !== undefined && isUnexpected(failure)) logger.error({ error: failure, party }, NOT_PASSED_ON);
    return failure === undefined;
  } finally {
    await parts.return(undefined);
  }
}

/** Gives on what a source gives, and throws what `fault` makes of what it throws. */
async function* noting<Item>(
  source: AsyncIterable<Item>,
  fault: (thrown: unknown) => AppError,
): AsyncGenerator<Item, void, undefined> {
  try {
    yield* source;
  } catch (thrown) {
    throw fault(thrown);
  }
}

/** An agent's own JSON; returns whether it is whole. */
async function* jsonPassedOn(
  party: string,
  answer: OpenAnswer,
  scanner: AnswerScanner,
): AsyncGenerator<Uint8Array, boolean, undefined> {
  yield* wholeRows(party, answer, scanner);
  return scanner.member("status") === "ok";
}

/** Another instance's answer, or why there is none. */
async function askAgain(answer: OpenAnswer, error: AppError): Promise<OpenAnswer | AppError> {
  if (error.code !== "stream_interrupted") return error;
  return answer.askAgain(error).catch((thrown: unknown) => toAppError(thrown));
}

/** The answer's bytes, up to where its last row ended. */
async function* wholeRows(
  party: string,
  { body }: OpenAnswer,
  scanner: AnswerScanner,
): AsyncGenerator<Uint8Array, void, undefined> {
  let held: Uint8Array[] = [];
  let heldBytes = 0;
  for await (const chunk of body) {
    const cut = scanner.scan(chunk);
    if (cut < 0) {
      held.push(chunk);
      heldBytes += chunk.length;
      if (heldBytes > MAX_HELD_BYTES) throw tooLarge(party);
      continue;
    }
    yield* held;
    if (cut > 0) yield chunk.subarray(0, cut);
    // After the end only white space may follow.
    held = scanner.isEnded ? [] : [Buffer.from(chunk.subarray(cut))];
    heldBytes = held[0]?.length ?? 0;
  }
  if (!scanner.isEnded) throw new AppError("stream_interrupted", `The answer of ${party} broke off.`, { party });
}

function closeBroken(party: string, scanner: AnswerScanner, error: AppError): string {
  const { provider, status, problem } = failedOutcome(party, error);
  if (scanner.closing === "") return JSON.stringify({ provider, status, problem });
  return `${scanner.closing}${JSON.stringify({ status, problem }).slice(1)}`;
}

function tooLarge(party: string): AppError {
  return new AppError(
    "result_too_large",
    `One row of ${party}'s answer is larger than ${String(MAX_HELD_BYTES)} bytes.`,
    {
      party,
    },
  );
}
