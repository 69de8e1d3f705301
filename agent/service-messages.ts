/** What arrives at `<STEWARD>-in`, shared by this agent's replicas: compositions, policy updates, data requests, cancels. */
import { MESSAGE_TYPES } from "../lib/bus/message-types.ts";
import { decodeJson, encodeJson } from "../lib/bus/json.ts";
import type { Delivery, Settlement } from "../lib/bus/message-bus.ts";
import { reply } from "../lib/bus/rpc.ts";
import { AppError, fromFailure, toAppError, toFailure } from "../lib/errors.ts";
import { CancelMessage, CompositionMessage, PolicyUpdate, type CompositionAcknowledgement } from "../lib/messages.ts";
import { jobNameForLogs } from "../lib/model/names.ts";
import type { AgentContext } from "./context.ts";
import { handleProviderRequest } from "./provider-requests.ts";

/** Handles one message. A message that cannot be understood is rejected: it goes to the dead letters. */
export async function handleServiceMessage(context: AgentContext, delivery: Delivery): Promise<Settlement> {
  try {
    switch (delivery.type) {
      case MESSAGE_TYPES.compositionRequest:
        return await handleComposition(context, delivery);
      case MESSAGE_TYPES.policyUpdate:
        return await handlePolicyUpdate(context, delivery);
      case MESSAGE_TYPES.sqlDataRequest:
        return await handleProviderRequest(context, delivery);
      case MESSAGE_TYPES.cancel:
        return handleCancel(context, delivery);
      default:
        context.logger.warn({ messageType: delivery.type }, "rejected a message of unknown type");
        return "reject";
    }
  } catch (error) {
    const failure = toAppError(error);
    context.logger.error({ error: failure, messageType: delivery.type }, "a message could not be handled");
    return failure.code === "bad_request" ? "reject" : "retry";
  }
}

/** Registers this party's part of a plan. Runs of an older plan with another role or archetype end: the plan they follow is gone. */
async function handleComposition(context: AgentContext, delivery: Delivery): Promise<Settlement> {
  const composition = decodeJson(delivery, CompositionMessage);
  const previous = await acknowledging(context, delivery, composition.job_name, () =>
    context.jobs.register(composition),
  );
  const changed =
    previous !== undefined &&
    (previous.composition.role !== composition.role || previous.composition.archetype_id !== composition.archetype_id);
  if (changed) {
    const reason = new AppError(
      "job_moved",
      `The agreement changed: the job now runs as ${composition.archetype_id}. Ask again.`,
    );
    context.live.cancelJob(composition.job_name, reason);
  }
  context.logger.info(
    { job: jobNameForLogs(composition.job_name), role: composition.role, archetype: composition.archetype_id },
    "composed",
  );
  return "accept";
}

/** Leaves a job: it was stopped, or others answer now. Its runs end. */
async function handlePolicyUpdate(context: AgentContext, delivery: Delivery): Promise<Settlement> {
  const update = decodeJson(delivery, PolicyUpdate);
  await acknowledging(context, delivery, update.jobName, () => context.jobs.supersede(update));
  const code = update.outcome === "stopped" ? "agreement_gone" : "job_moved";
  context.live.cancelJob(update.jobName, new AppError(code, update.detail));
  context.logger.info({ job: jobNameForLogs(update.jobName), outcome: update.outcome }, "left a job");
  return "accept";
}

function handleCancel(context: AgentContext, delivery: Delivery): Settlement {
  const { requestId, jobName, reason } = decodeJson(delivery, CancelMessage);
  const { place: _place, party, details, ...rest } = reason;
  const failure = fromFailure({
    ...rest,
    ...(party === undefined ? {} : { party }),
    ...(details === undefined ? {} : { details }),
  });
  context.live.cancelRequest({ requestId, jobName }, failure);
  return "accept";
}

/** Does the work and tells the sender how it went; an outcome that cannot be told (nobody waits) is no failure. */
async function acknowledging<Result>(
  context: AgentContext,
  delivery: Delivery,
  jobName: string,
  work: () => Promise<Result>,
): Promise<Result | undefined> {
  let result: Result | undefined;
  let failure: CompositionAcknowledgement["failure"];
  try {
    result = await work();
  } catch (error) {
    const known = toAppError(error).withParty(context.steward);
    if (known.retryable) throw known;
    failure = toFailure(known) as NonNullable<CompositionAcknowledgement["failure"]>;
  }
  const body: CompositionAcknowledgement = {
    steward: context.steward,
    jobName,
    ...(failure === undefined ? {} : { failure }),
  };
  await reply(context.bus, delivery, { type: MESSAGE_TYPES.compositionAcknowledgement, body: encodeJson(body) });
  return result;
}
