/** What became of each party's part of a data request, as the analyst sees it. */
import { AppError, toProblem, type Problem } from "../lib/errors.ts";
import type { OpenAnswer } from "./agent-calls.ts";
import type { Plan } from "./plans.ts";

/** A party's answer, its body unread, or why there is none. */
export type Arrival =
  { readonly party: string; readonly answer: OpenAnswer } | { readonly party: string; readonly error: AppError };

/** `ok`: a result; `refused`: by its agreement; `no_answer`: not online, or not in time; `failed`: anything else. */
export type OutcomeStatus = "ok" | "failed" | "refused" | "no_answer";

/** A party without a (whole) result. */
export interface FailedOutcome {
  readonly provider: string;
  readonly status: Exclude<OutcomeStatus, "ok">;
  readonly problem: Problem;
}

const REFUSED = new Set(["agreement_gone", "forbidden", "operation_denied", "request_denied"]);
const NO_ANSWER = new Set(["agent_offline", "agent_timeout"]);

/** The outcome that an error stands for. */
export function failedOutcome(provider: string, error: AppError): FailedOutcome {
  return { provider, status: statusOf(error.code), problem: toProblem(error) };
}

function statusOf(code: string): FailedOutcome["status"] {
  if (REFUSED.has(code)) return "refused";
  return NO_ANSWER.has(code) ? "no_answer" : "failed";
}

/**
 * The error when no party has a result: the first failed party's (a job that moved before all others, since it can be
 * followed), with every party's outcome in `responses`.
 */
export function allFailed(
  plan: Plan,
  requestId: string,
  errors: readonly (readonly [party: string, error: AppError])[],
): AppError {
  const sorted = [...errors].sort(([left], [right]) => (left < right ? -1 : 1));
  const [, first] = sorted.find(([, error]) => error.code === "job_moved") ?? sorted[0] ?? [];
  if (first === undefined) return new AppError("internal", "A plan without parties was asked.");
  return new AppError(first.code, first.message, {
    cause: first,
    retryable: sorted.some(([, { retryable }]) => retryable),
    details: {
      ...first.details,
      jobId: plan.jobName,
      dataRequestId: requestId,
      responses: sorted.map(([party, error]) => failedOutcome(party, error)),
      refused: plan.refused,
      offline: plan.offline,
    },
    ...(first.party === undefined ? {} : { party: first.party }),
  });
}

/** The members of an answer before its responses. */
export function headingOf(plan: Plan, requestId: string): Readonly<Record<string, unknown>> {
  return { jobId: plan.jobName, archetype: plan.archetype, requestId };
}

/** The members of an answer after its responses. `partial`: some party of the plan has no result. */
export function endingOf(plan: Plan, resultCount: number, partyCount: number): Readonly<Record<string, unknown>> {
  const status = resultCount === partyCount ? "ok" : resultCount > 0 ? "partial" : "failed";
  return { refused: plan.refused, offline: plan.offline, status };
}
