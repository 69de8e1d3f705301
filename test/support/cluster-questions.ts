/** Questions to the system on a cluster, and the client that repeats them as `docs/errors.md` says. */
import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import type { CallOptions, ExchangeClient, GatheredAnswer } from "../../cli/client.ts";
import { AppError } from "../../lib/errors.ts";
import type { RequestApproval } from "../../lib/model/data-request.ts";
import { ANALYST, SALARY_QUERY } from "./exchange.ts";
import { slowQuery } from "./running-chains.ts";

const LIMIT_MS = 120_000;
const FIRST_WAIT_MS = 100;
const LONGEST_WAIT_MS = 2_000;
/** Codes of failures that are for good under their key: the same key gives no other outcome of these: what broke off is not begun again, and a job that is gone needs an approval. */
export const NEEDS_NEW_KEY: ReadonlySet<string> = new Set(["stream_interrupted", "already_exists", "job_unknown"]);

/** An answer, and what came before it. */
export interface RepeatedAnswer {
  readonly answer: GatheredAnswer;
  /** Codes, or words, of the attempts that were not answered. */
  readonly failures: readonly string[];
}

/** Average salary by sex, at home or through the third party. */
export function salaryRequest(
  options: { readonly through?: boolean; readonly providers?: string[] } = {},
): RequestApproval {
  const { through = false, providers = ["VU", "UVA"] } = options;
  const together = through ? { options: { aggregate: true } } : {};
  return {
    type: "sqlDataRequest",
    user: ANALYST,
    dataProviders: providers,
    ...together,
    data_request: {
      type: "sqlDataRequest",
      query: SALARY_QUERY,
      algorithm: "average",
      algorithmColumns: { Geslacht: "Aanst_22" },
      ...together,
    },
  };
}

/** One row per provider, after as many steps as asked for. */
export function slowRequest(steps: number, providers: string[], through = false): RequestApproval {
  const together = through ? { options: { aggregate: true } } : {};
  return {
    type: "sqlDataRequest",
    user: ANALYST,
    dataProviders: providers,
    ...together,
    data_request: { type: "sqlDataRequest", query: slowQuery(steps), ...together },
  };
}

/** All rows of an answer, whoever gave them. */
export function rowsOf({ responses }: GatheredAnswer): unknown[] {
  return responses.flatMap(({ rows = [] }) => rows);
}

/**
 * Asks, and asks again under the same `Idempotency-Key` after a broken connection or a failure that may pass, until all parties have
 * answered; under a new one only where the documentation says so. Fails with what may not be repeated, and after two minutes.
 */
export async function askUntilAnswered(client: ExchangeClient, request: RequestApproval): Promise<RepeatedAnswer> {
  const failures: string[] = [];
  const signal = AbortSignal.timeout(LIMIT_MS);
  let idempotencyKey: string = randomUUID();
  for (let round = 0; ; round += 1) {
    const found = await attempt(client, request, { idempotencyKey, signal });
    if (typeof found !== "string") return { answer: found, failures };
    if (signal.aborted) throw new Error(`No answer within ${String(LIMIT_MS)} ms: ${[...failures, found].join(", ")}`);
    failures.push(found);
    if (NEEDS_NEW_KEY.has(found)) idempotencyKey = randomUUID();
    await sleep(Math.min(FIRST_WAIT_MS * 2 ** round, LONGEST_WAIT_MS));
  }
}

/** The answer of all parties, or in a word what may pass; fails with what may not. */
async function attempt(
  client: ExchangeClient,
  request: RequestApproval,
  options: CallOptions,
): Promise<GatheredAnswer | string> {
  try {
    const answer = await client.ask(request, options);
    const problem = answer.responses.find(({ status }) => status !== "ok")?.problem;
    if (problem === undefined) return answer.offline.length === 0 ? answer : "agent_offline";
    if (problem.retryable || NEEDS_NEW_KEY.has(problem.code)) return problem.code;
    throw new AppError("internal", `A party failed for good: ${problem.code}: ${problem.detail}`);
  } catch (error) {
    if (error instanceof TypeError || options.signal?.aborted === true) return "broken connection";
    if (!(error instanceof AppError)) throw error;
    if (error.retryable || NEEDS_NEW_KEY.has(error.code) || isOfflineAlone(error)) return error.code;
    throw error;
  }
}

/** Nobody refused; those who would answer are not there. */
function isOfflineAlone({ code, details }: AppError): boolean {
  const isEmpty = (list: unknown): boolean => !Array.isArray(list) || list.length === 0;
  return code === "no_authorized_providers" && isEmpty(details["refused"]) && !isEmpty(details["offline"]);
}
