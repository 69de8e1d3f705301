/** What arrives at `<STEWARD>-in`, shared by this agent's replicas: compositions, policy updates, data requests, cancels. */
import { MESSAGE_TYPES } from "../lib/bus/message-types.ts";
import { decodeJson, encodeJson } from "../lib/bus/json.ts";
import type { Delivery, Settlement } from "../lib/bus/message-bus.ts";
import { reply } from "../lib/bus/rpc.ts";
import { AppError, fromFailure, toAppError, toFailure } from "../lib/errors.ts";
import { CancelMessage, CompositionMessage, PolicyUpdate, type CompositionAcknowledgement } from "../lib/messages.ts";
import { jobNameForLogs } from "../lib/model/names.ts";
import { expectChain } from "./chain-run.ts";
import type { AgentContext } from "./context.ts";
import { handleProviderRequest } from "./provider-requests.ts";
import { endRunsEverywhere } from "./replicas/end-runs.ts";

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
        return await handleCancel(context, delivery);
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

/** Registers this party's part of a plan. Runs of an older plan with another role, archetype or third party end: the plan they follow is gone. */
async function handleComposition(context: AgentContext, delivery: Delivery): Promise<Settlement> {
  const composition = decodeJson(delivery, CompositionMessage);
  const { job_name: jobName, role, archetype_id: archetype } = composition;
  await acknowledging(context, delivery, jobName, async () => {
    const previous = (await context.jobs.register(composition))?.composition;
    const isMoved =
      previous !== undefined &&
      (previous.role !== role ||
        previous.archetype_id !== archetype ||
        previous.compute_provider !== composition.compute_provider);
    if (isMoved) {
      const detail = `The agreement changed: the job now runs as ${archetype}. Ask again.`;
      await endRunsEverywhere(context, { jobName }, new AppError("job_moved", detail));
    }
    context.logger.info({ job: jobNameForLogs(jobName), role, archetype }, "composed");
    // In nobody's way: whoever asked for the approval has it without.
    expectChain(context, composition).catch((error: unknown) => {
      context.logger.warn({ error: toAppError(error) }, "no chain could be started ahead for an approval");
    });
  });
  return "accept";
}

/** Leaves a job: it was stopped, or others answer now. Its runs end, unless a newer plan than the update's brought it back. */
async function handlePolicyUpdate(context: AgentContext, delivery: Delivery): Promise<Settlement> {
  const update = decodeJson(delivery, PolicyUpdate);
  const { jobName, outcome, detail } = update;
  await acknowledging(context, delivery, jobName, async () => {
    if (!(await context.jobs.supersede(update))) return;
    const reason = new AppError(outcome === "stopped" ? "agreement_gone" : "job_moved", detail);
    await endRunsEverywhere(context, { jobName }, reason);
    context.logger.info({ job: jobNameForLogs(jobName), outcome }, "left a job");
  });
  return "accept";
}

async function handleCancel(context: AgentContext, delivery: Delivery): Promise<Settlement> {
  const { reason, ...runs } = decodeJson(delivery, CancelMessage);
  const { place: _place, party, details, ...rest } = reason;
  const failure = fromFailure({
    ...rest,
    ...(party === undefined ? {} : { party }),
    ...(details === undefined ? {} : { details }),
  });
  await endRunsEverywhere(context, runs, failure);
  return "accept";
}

/** Does the work and tells the sender how it went; an outcome that cannot be told (nobody waits) is no failure. */
async function acknowledging(
  context: AgentContext,
  delivery: Delivery,
  jobName: string,
  work: () => Promise<void>,
): Promise<void> {
  let failure: CompositionAcknowledgement["failure"];
  try {
    await work();
  } catch (error) {
    const known = toAppError(error).withParty(context.steward);
    if (known.retryable && known.code !== "conflict") throw known;
    context.logger.warn({ error: known, job: jobNameForLogs(jobName) }, "a job's change was refused");
    failure = toFailure(known) as NonNullable<CompositionAcknowledgement["failure"]>;
  }
  const body: CompositionAcknowledgement = {
    steward: context.steward,
    jobName,
    ...(failure === undefined ? {} : { failure }),
  };
  await reply(context.bus, delivery, { type: MESSAGE_TYPES.compositionAcknowledgement, body: encodeJson(body) });
}
