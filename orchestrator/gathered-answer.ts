/** An answer whose responses are gathered, so that they can be pooled. Every body is bounded: an algorithm's results are small. */
import { AppError, isUnexpected, toAppError, toProblem, type Problem } from "../lib/errors.ts";
import { isOptionOn } from "../lib/model/data-request.ts";
import type { Logger } from "../lib/telemetry/logger.ts";
import { errorOfProblem, readAtMost, type OpenAnswer } from "./agent-calls.ts";
import type { DataRequestOrder } from "./data-request-order.ts";
import { allFailed, endingOf, failedOutcome, headingOf, type Arrival } from "./outcomes.ts";
import { poolAnswers, pooledOfThirdParty, type AgentAnswer, type Pooled } from "./pooling.ts";

/** How answers are gathered. */
export interface GatheringOptions {
  /** Whether the analyst sees the stewards' summaries. */
  readonly keepsSummaries: boolean;
  /** Largest answer of one party. */
  readonly maxBytes: number;
  /** Hears of errors that the answer does not tell. */
  readonly logger: Logger;
}

/** What an answer says about all parties together. */
interface PooledMembers {
  readonly pooled?: Pooled;
  readonly notes?: readonly string[];
  readonly poolingProblem?: Problem;
}

type Gathered =
  | { readonly party: string; readonly answer: AgentAnswer }
  | { readonly party: string; readonly error: AppError; readonly answer?: AgentAnswer };

/** The one piece of the answer; fails when no party has a result, or when the job moved in the middle. */
export async function* gatheredAnswer(
  order: DataRequestOrder,
  calls: readonly Promise<Arrival>[],
  { keepsSummaries, maxBytes, logger }: GatheringOptions,
): AsyncGenerator<string, void, undefined> {
  const { plan, requestId } = order;
  const gathered = await Promise.all(calls.map(async (call) => gather(await call, maxBytes, logger)));
  const whole = gathered.flatMap((entry) => ("error" in entry ? [] : [entry.answer]));
  const errors = gathered.flatMap((entry) => ("error" in entry ? [[entry.party, entry.error] as const] : []));
  const moved = errors.some(([, { code }]) => code === "job_moved");
  if (whole.length === 0 || moved) throw allFailed(plan, requestId, errors);
  yield JSON.stringify({
    ...headingOf(plan, requestId),
    responses: gathered.map((entry) => responseOf(entry, keepsSummaries)),
    ...(await pooledMembers(order, whole, errors, logger)),
    ...endingOf(plan, whole.length, gathered.length),
  });
}

async function gather(arrival: Arrival, maxBytes: number, logger: Logger): Promise<Gathered> {
  const { party } = arrival;
  if ("error" in arrival) return arrival;
  try {
    const answer = parseAnswer(party, await readWhole(party, arrival.answer, maxBytes));
    const { status, problem } = answer;
    if (status === "ok") return { party, answer };
    const error = isRecord(problem) ? errorOfProblem(problem) : new AppError("job_failed", `${party} did not finish.`);
    return { party, error: error.withParty(party), answer };
  } catch (thrown) {
    const error = toAppError(thrown).withParty(party);
    if (isUnexpected(error)) logger.error({ error, party }, "an answer could not be gathered");
    return { party, error };
  }
}

/** Nothing of an answer is handed on before it is whole: one that breaks off is asked for again at another instance. */
async function readWhole(party: string, first: OpenAnswer, maxBytes: number): Promise<Buffer> {
  for (let answer = first; ;) {
    try {
      const bytes = await readAtMost(answer.body, maxBytes);
      if (bytes === undefined) throw tooLarge(party, maxBytes);
      return bytes;
    } catch (thrown) {
      const { code, message, cause } = toAppError(thrown);
      if (code !== "stream_interrupted") throw thrown;
      answer = await answer.askAgain(new AppError(code, message, { party, cause, retryable: true }));
    }
  }
}

function parseAnswer(party: string, bytes: Buffer): AgentAnswer {
  let value: unknown;
  try {
    value = JSON.parse(bytes.toString("utf8"));
  } catch (thrown) {
    throw new AppError("stream_interrupted", `The answer of ${party} is no JSON; it broke off.`, {
      party,
      cause: thrown,
    });
  }
  if (!isRecord(value)) throw new AppError("job_failed", `The answer of ${party} is no JSON object.`, { party });
  return { ...value, provider: party };
}

function responseOf(entry: Gathered, keepsSummaries: boolean): unknown {
  if (entry.answer === undefined) return "error" in entry ? failedOutcome(entry.party, entry.error) : undefined;
  const { summary, ...rest } = entry.answer;
  const answer = keepsSummaries && summary !== undefined ? entry.answer : rest;
  return "error" in entry ? { ...answer, ...failedOutcome(entry.party, entry.error) } : answer;
}

/** A pooled answer needs every party of the plan, unless the request allows a partial one (decision 17). */
async function pooledMembers(
  { plan, request, requestId }: DataRequestOrder,
  whole: readonly AgentAnswer[],
  errors: readonly (readonly [string, AppError])[],
  logger: Logger,
): Promise<PooledMembers> {
  const [first] = whole;
  if (plan.computeProvider !== undefined && first !== undefined) {
    return { pooled: pooledOfThirdParty(first, plan.providers) };
  }
  if (errors.length > 0 && !isOptionOn(request.options, "allowPartial")) {
    const missing = errors.map(([party]) => party).join(", ");
    return {
      notes: [
        `No pooled answer, since ${missing} has none. Send "options": {"allowPartial": true} to pool the others.`,
      ],
    };
  }
  const without = whole.filter(({ summary }) => summary === undefined).map(({ provider }) => provider);
  if (without.length > 0) return { notes: [`No pooled answer, since ${without.join(", ")} sent no summary.`] };
  try {
    return { pooled: await poolAnswers(whole) };
  } catch (thrown) {
    // The stewards' own answers stand; why they do not pool (types that differ, say) is part of the answer.
    const error = toAppError(thrown);
    if (isUnexpected(error)) logger.error({ error, dataRequest: requestId }, "answers could not be pooled");
    return { notes: [`No pooled answer: ${error.message}`], poolingProblem: toProblem(error) };
  }
}

function tooLarge(party: string, maxBytes: number): AppError {
  return new AppError(
    "result_too_large",
    `The answer of ${party} is larger than ${String(maxBytes)} bytes (DYNAMOS_MAX_POOLED_ANSWER_BYTES): group by fewer values, or ask the agent directly.`,
    { party, details: { limit: maxBytes } },
  );
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
