/**
 * The policy enforcer: a process of its own behind the bus, so that another program can stand in its place. It takes
 * `requestApproval` messages from `policyEnforcer-in` and answers each with a `validationResponse` at its reply queue. It
 * keeps no state: agreements are read for every question, so a changed one counts at once, and replicas may share the work.
 */
import { decodeJson, encodeJson } from "../../lib/bus/json.ts";
import type { Delivery, MessageBus, Settlement } from "../../lib/bus/message-bus.ts";
import { MESSAGE_TYPES } from "../../lib/bus/message-types.ts";
import { keepConsuming } from "../../lib/bus/keep-consuming.ts";
import { openMessageBus } from "../../lib/bus/open.ts";
import { POLICY_ENFORCER_QUEUE } from "../../lib/bus/queues.ts";
import { reply } from "../../lib/bus/rpc.ts";
import { systemClock, type Clock } from "../../lib/clock.ts";
import { isUnexpected, toAppError, toFailure } from "../../lib/errors.ts";
import { listenBySettings } from "../../lib/http/listen.ts";
import { portDependencies, readinessOf } from "../../lib/http/readiness.ts";
import { createHttpServer } from "../../lib/http/server.ts";
import { KnowledgeBase } from "../../lib/knowledge/knowledge-base.ts";
import { openKnowledgeStore } from "../../lib/knowledge/open.ts";
import type { ProgramContext } from "../../lib/lifecycle.ts";
import { RequestApprovalMessage, type StewardValidation, type ValidationResponse } from "../../lib/messages.ts";
import { evaluateAgreement } from "../../lib/policy/evaluate.ts";
import type { Logger } from "../../lib/telemetry/logger.ts";
import { parseTraceContext } from "../../lib/telemetry/trace-context.ts";
import { startMetrics } from "../../lib/telemetry/metrics.ts";
import { observeServiceQueue } from "../../lib/telemetry/queue-metrics.ts";
import { startTracing, withSpan } from "../../lib/telemetry/tracing.ts";
import type { PolicyEnforcerSettings } from "./config.ts";

/** Opens what the enforcer needs, and answers until the program stops. Logs the address of its health server. */
export async function startPolicyEnforcer(
  settings: PolicyEnforcerSettings,
  { releases, logger }: Pick<ProgramContext, "releases" | "logger">,
): Promise<void> {
  const { OTEL_EXPORTER_OTLP_ENDPOINT: otlpEndpoint } = settings;
  releases.push("tracing", await startTracing("policy-enforcer", otlpEndpoint === undefined ? {} : { otlpEndpoint }));
  const metrics = startMetrics(settings, releases);
  const store = await openKnowledgeStore(settings.DYNAMOS_STORE);
  releases.push("knowledge store", () => store.close());
  const bus = await openMessageBus(settings.DYNAMOS_BUS);
  releases.push("message bus", () => bus.close());

  const knowledge = new KnowledgeBase(store);
  const consumer = await keepConsuming(bus, {
    queue: POLICY_ENFORCER_QUEUE,
    declaration: { kind: "service" },
    handler: (delivery) =>
      withSpan("policy.enforce", parseTraceContext(delivery.headers), {}, () =>
        answerQuestion(delivery, { bus, knowledge, logger, clock: systemClock }),
      ),
    clock: systemClock,
    logger,
  });
  releases.push("consumer", () => consumer.close());

  observeServiceQueue(bus, POLICY_ENFORCER_QUEUE);
  const server = createHttpServer({
    logger,
    service: "policy-enforcer",
    readiness: readinessOf(portDependencies({ store, bus }), { clock: systemClock }),
    metrics,
  });
  releases.push("HTTP server", () => server.close());
  const url = await listenBySettings(settings, (address) => server.listen(address));
  logger.info({ url }, "policy enforcer is ready");
}

/** What an answer needs. */
export interface EnforcerContext {
  readonly bus: MessageBus;
  readonly knowledge: KnowledgeBase;
  readonly logger: Logger;
  readonly clock: Clock;
}

/**
 * Decides one question and answers it. A question that is malformed, or that meets a malformed agreement, is answered with
 * the failure; where the store cannot be reached, it throws, and the bus delivers again.
 */
export async function answerQuestion(delivery: Delivery, context: EnforcerContext): Promise<Settlement> {
  let answer: ValidationResponse;
  try {
    const question = decodeJson(delivery, RequestApprovalMessage);
    answer = { type: "validationResponse", stewards: await validateStewards(question, context) };
  } catch (thrown) {
    const error = toAppError(thrown);
    if (error.retryable) throw error;
    if (isUnexpected(error)) context.logger.error({ error }, "a question met an error that its answer does not tell");
    answer = {
      type: "validationResponse",
      stewards: [],
      failure: toFailure(error) as NonNullable<ValidationResponse["failure"]>,
    };
  }
  await reply(context.bus, delivery, { type: MESSAGE_TYPES.validationResponse, body: encodeJson(answer) });
  return answer.failure === undefined ? "accept" : "reject";
}

async function validateStewards(
  question: RequestApprovalMessage,
  { knowledge, clock }: EnforcerContext,
): Promise<StewardValidation[]> {
  const nowMs = clock.now();
  return Promise.all(
    question.dataProviders.map(async (steward) => {
      const agreement = await knowledge.get("agreements", steward);
      return evaluateAgreement(
        agreement?.document,
        agreement?.revision ?? 0,
        {
          userName: question.user.userName,
          type: question.type,
          ...(question.dataSets === undefined ? {} : { dataSets: question.dataSets }),
          ...(question.algorithms === undefined ? {} : { algorithms: question.algorithms }),
        },
        steward,
        nowMs,
      );
    }),
  );
}
