/** Asks the policy enforcer, whichever program that is, over the bus; what it answers is checked before it counts. */
import { decodeJson, encodeJson } from "../lib/bus/json.ts";
import type { Delivery } from "../lib/bus/message-bus.ts";
import { MESSAGE_TYPES } from "../lib/bus/message-types.ts";
import { POLICY_ENFORCER_QUEUE } from "../lib/bus/queues.ts";
import type { RpcClient } from "../lib/bus/rpc.ts";
import { AppError, fromFailure, toAppError } from "../lib/errors.ts";
import { ValidationResponse, type RequestApprovalMessage, type StewardValidation } from "../lib/messages.ts";
import { traceHeaders, type TraceContext } from "../lib/telemetry/trace-context.ts";

const PARTY = "policyEnforcer";

/** How long an answer may take, in milliseconds. */
export const POLICY_TIMEOUT_MS = 5_000;
/** A question may be in the hands of a replica that died, or hangs: after this it is asked once more, and another takes it. */
const ASK_AGAIN_MS = 1_500;

/**
 * The answers of the stewards that the question names, each once. Fails with `unavailable` (party `policyEnforcer`) when no
 * answer comes in time or one lacks a steward: nothing is allowed that was not said to be.
 */
export async function askPolicyEnforcer(
  rpc: RpcClient,
  question: RequestApprovalMessage,
  trace: TraceContext | undefined,
  signal?: AbortSignal,
): Promise<readonly StewardValidation[]> {
  const answer = await call(rpc, question, trace, signal);
  if (answer.failure !== undefined) throw fromFailure(answer.failure).withParty(PARTY);
  return question.dataProviders.map((steward) => {
    const validation = answer.stewards.find((candidate) => candidate.steward === steward);
    if (validation === undefined) throw unavailable(`The policy enforcer said nothing about ${steward}.`);
    // A refusal counts, whatever else the answer lists.
    return validation.refusal === undefined
      ? validation
      : { ...validation, allowedArchetypes: [], allowedComputeProviders: [], dataSets: [] };
  });
}

async function call(
  rpc: RpcClient,
  question: RequestApprovalMessage,
  trace: TraceContext | undefined,
  signal: AbortSignal | undefined,
): Promise<ValidationResponse> {
  const ask = (timeoutMs: number): Promise<Delivery> =>
    rpc.call(POLICY_ENFORCER_QUEUE, MESSAGE_TYPES.requestApproval, encodeJson(question), {
      timeoutMs,
      timeoutError: () => new NoAnswer(),
      ...(signal === undefined ? {} : { signal }),
      ...(trace === undefined ? {} : { headers: traceHeaders(trace) }),
    });
  try {
    const first = await ask(ASK_AGAIN_MS).catch((thrown: unknown) => {
      if (thrown instanceof NoAnswer) return undefined;
      throw thrown;
    });
    return decodeJson(first ?? (await ask(POLICY_TIMEOUT_MS - ASK_AGAIN_MS)), ValidationResponse);
  } catch (thrown) {
    const error = toAppError(thrown);
    if (error.code === "cancelled" || error.party !== undefined) throw error;
    throw unavailable("The policy enforcer cannot be asked, or its answer is malformed.", error);
  }
}

/** Nobody answered in time. */
class NoAnswer extends AppError {
  constructor() {
    super("unavailable", `The policy enforcer did not answer within ${String(POLICY_TIMEOUT_MS)} ms.`, {
      party: PARTY,
    });
  }
}

function unavailable(message: string, cause?: unknown): AppError {
  return new AppError("unavailable", message, { party: PARTY, ...(cause === undefined ? {} : { cause }) });
}
