/**
 * Data requests through the front door: sent to every answering party of the plan at once, the answers gathered into one,
 * each party's outcome named. Rows without an algorithm are piped (`piped-answer.ts`), answers that pool are gathered
 * (`gathered-answer.ts`); `docs/decisions/0009-answers-and-pooling.md` has the shape and the reasons.
 */
import { encodeJson } from "../lib/bus/json.ts";
import { MESSAGE_TYPES } from "../lib/bus/message-types.ts";
import { agentQueue } from "../lib/bus/queues.ts";
import { AppError, isUnexpected, toAppError, toFailure } from "../lib/errors.ts";
import { isOptionOn, type DataRequest } from "../lib/model/data-request.ts";
import { withSpan } from "../lib/telemetry/tracing.ts";
import { askAgent } from "./agent-calls.ts";
import type { OrchestratorContext } from "./context.ts";
import { currentPlan } from "./current-plan.ts";
import { CancelledByCaller, type DataRequestOrder } from "./data-request-order.ts";
import { gatheredAnswer } from "./gathered-answer.ts";
import type { Arrival } from "./outcomes.ts";
import { pipedAnswer } from "./piped-answer.ts";
import { answeringParties, partiesOf, type Plan } from "./plans.ts";

/** How often a job that moves in the middle is followed. */
const MAX_MOVES = 3;

/**
 * The pieces of the JSON answer. The first comes once there is a result; where no party has one, the first `next` fails with
 * the problem instead, so that failures have a status (decision 9).
 */
export async function* answerDataRequest(
  order: DataRequestOrder,
  context: OrchestratorContext,
): AsyncGenerator<string | Uint8Array, void, undefined> {
  const leaveGathering = isGathered(order.request) ? context.gathering.take() : undefined;
  const call = new CallScope(order, context);
  let ending: "left" | "failed" | "complete" = "left";
  try {
    yield* followPlan(order, context, call);
    ending = "complete";
  } catch (thrown) {
    ending = "failed";
    throw call.reasonOf(thrown);
  } finally {
    if ((ending === "left" || call.signal.aborted) && call.isWorthCancelling) {
      cancelAtParties(call.plan, order.requestId, context);
    }
    call.close();
    leaveGathering?.();
  }
}

async function* followPlan(
  order: DataRequestOrder,
  context: OrchestratorContext,
  call: CallScope,
): AsyncGenerator<string | Uint8Array, void, undefined> {
  for (let moves = 0; ; moves++) {
    const { plan } = call;
    const pools = isGathered(order.request);
    const asked = { ...order, plan, request: pools ? withSummary(order.request, plan) : order.request };
    const accessToken = await order.accessTokenFor(plan);
    const arrivals = answeringParties(plan).map((party) => open(party, asked, accessToken, context, call.signal));
    try {
      yield* pools
        ? gatheredAnswer(asked, arrivals, {
            keepsSummaries: isOptionOn(order.request.options, "summary"),
            maxBytes: context.limits.maxPooledAnswerBytes,
            logger: context.logger,
          })
        : pipedAnswer(asked, arrivals, context.logger);
      return;
    } catch (thrown) {
      const error = toAppError(thrown);
      // An agent may know of a changed agreement before the plan follows it.
      if (!["job_moved", "agreement_gone"].includes(error.code) || moves >= MAX_MOVES) throw error;
      const newer = await currentPlan(plan.jobName, context, call.signal);
      if (newer.version === plan.version) throw error;
      call.plan = newer;
    }
  }
}

/** Answers of algorithms are small, and pool; rows are piped. */
function isGathered({ algorithm }: DataRequest): boolean {
  return (algorithm ?? "").trim() !== "";
}

/** Where stewards compute at home, each sends the mergeable summary along; what is pooled is made of these. */
function withSummary(request: DataRequest, plan: Plan): DataRequest {
  if (plan.computeProvider !== undefined) return request;
  return { ...request, options: { ...request.options, summary: true } };
}

async function open(
  party: string,
  { plan, request, requestId, trace }: DataRequestOrder,
  accessToken: string,
  context: OrchestratorContext,
  signal: AbortSignal,
): Promise<Arrival> {
  const body: DataRequest = {
    ...request,
    user: plan.user,
    requestMetadata: { ...request.requestMetadata, jobId: plan.jobName },
  };
  // What is pooled is parsed as a whole, and small.
  const mayBeFrames = !isGathered(request);
  try {
    const answer = await withSpan("orchestrator.ask", trace, { "dynamos.steward": party }, (span) =>
      askAgent({ party, request: body, requestId, accessToken, trace: span, signal, mayBeFrames }, context),
    );
    return { party, answer };
  } catch (thrown) {
    const error = toAppError(thrown).withParty(party);
    if (isUnexpected(error))
      context.logger.error({ error, party, dataRequest: requestId }, "an agent could not be asked");
    return { party, error };
  }
}

/** Ends all calls of one request: when its caller goes, at its deadline, and at its end. */
class CallScope {
  readonly signal: AbortSignal;
  /** Whose parties are asked now. */
  plan: Plan;
  readonly #order: DataRequestOrder;
  readonly #ending = new AbortController();
  readonly #timer: NodeJS.Timeout;

  constructor(order: DataRequestOrder, { limits }: OrchestratorContext) {
    this.#order = order;
    this.plan = order.plan;
    this.signal = AbortSignal.any([order.signal, this.#ending.signal]);
    const ms = limits.requestDeadlineMs + limits.deadlineGraceMs;
    this.#timer = setTimeout(() => {
      this.#ending.abort(new AppError("agent_timeout", `The agent did not answer within ${String(ms)} ms.`));
    }, ms);
  }

  /** Whether agents may be at work that nobody will read: not so where a caller went who may ask again, without a word. */
  get isWorthCancelling(): boolean {
    const { isRepeatable, signal } = this.#order;
    return !(isRepeatable && signal.aborted) || signal.reason instanceof CancelledByCaller;
  }

  /** What ended the calls, where something did; else what was thrown. */
  reasonOf(thrown: unknown): unknown {
    return this.#order.signal.aborted ? toAppError(this.#order.signal.reason) : thrown;
  }

  close(): void {
    clearTimeout(this.#timer);
    this.#ending.abort(new AppError("cancelled", "The request has ended."));
  }
}

/** Cancels at every party (decision 22). Nobody waits for it, and a party that does not hear it ends at its own deadline. */
export function cancelAtParties(
  plan: Plan,
  requestId: string,
  { bus, clock, limits, logger }: OrchestratorContext,
): void {
  const reason = toFailure(new AppError("cancelled", "Nobody waits for this request any more."));
  const body = encodeJson({ requestId, jobName: plan.jobName, reason });
  const expiresAtMs = clock.now() + limits.requestDeadlineMs;
  for (const party of partiesOf(plan)) {
    bus.publish(agentQueue(party), { type: MESSAGE_TYPES.cancel, body, expiresAtMs }).catch((thrown: unknown) => {
      logger.warn({ error: toAppError(thrown), party, dataRequest: requestId }, "a cancel could not be sent");
    });
  }
}
