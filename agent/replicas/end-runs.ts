/**
 * Ending runs wherever they are: a message at the shared service queue reaches any one instance, and the runs that it ends may
 * be with another. That one is told by its control queue before the message is settled.
 */
import { decodeJson, encodeJson } from "../../lib/bus/json.ts";
import type { Consumer, Delivery, MessageBus, Settlement } from "../../lib/bus/message-bus.ts";
import { MESSAGE_TYPES } from "../../lib/bus/message-types.ts";
import { instanceControlQueue } from "../../lib/bus/queues.ts";
import { AppError, fromFailure, toAppError, toFailure } from "../../lib/errors.ts";
import { EndRunsMessage } from "../../lib/messages.ts";
import type { Logger } from "../../lib/telemetry/logger.ts";
import type { LiveRuns } from "../runs/live-runs.ts";
import type { Siblings } from "./siblings.ts";

/** A sibling that has not read this after so long has no run left that it could end. */
const WORTH_MS = 600_000;

/** Which runs: all of a job, or those of one request of it. */
export interface RunsToEnd {
  readonly jobName: string;
  readonly requestId?: string;
}

/** What ending runs works with. */
export interface EndRunsDependencies {
  readonly steward: string;
  readonly bus: MessageBus;
  readonly live: LiveRuns;
  readonly siblings: Siblings;
  readonly clock: { now(): number };
}

/**
 * Ends runs here and at every other living instance; resolves when all of them have it in their queues.
 *
 * @throws AppError `unavailable` when a living instance could not be told.
 */
export async function endRunsEverywhere(
  { steward, bus, live, siblings, clock }: EndRunsDependencies,
  runs: RunsToEnd,
  reason: AppError,
): Promise<void> {
  endRuns(live, runs, reason);
  const message: EndRunsMessage = { ...runs, reason: toFailure(reason) as EndRunsMessage["reason"] };
  const body = encodeJson(message);
  for (const { instance } of await siblings.living()) {
    try {
      const expiresAtMs = clock.now() + WORTH_MS;
      await bus.publish(instanceControlQueue(steward, instance), { type: MESSAGE_TYPES.endRuns, body, expiresAtMs });
    } catch (error) {
      if (toAppError(error).code !== "not_found") throw error;
      // Without its queue it is dead, and so are its runs; unless it lives and only lost its queue.
      if (!(await siblings.living()).some((sibling) => sibling.instance === instance)) continue;
      throw new AppError("unavailable", `Instance ${instance} could not be told to end runs.`, { cause: error });
    }
  }
}

/** Takes what siblings tell this instance, from before it is known to them; a lost queue is declared again. */
export async function hearEndRuns(
  bus: MessageBus,
  queue: string,
  {
    live,
    logger,
    onLost,
  }: { readonly live: LiveRuns; readonly logger: Logger; readonly onLost: (error: Error) => void },
): Promise<Consumer> {
  await bus.declareQueue(queue, { kind: "run" });
  return bus.consume(queue, async (delivery) => handle(live, logger, delivery), { onLost });
}

function handle(live: LiveRuns, logger: Logger, delivery: Delivery): Settlement {
  if (delivery.type !== MESSAGE_TYPES.endRuns) {
    logger.warn({ messageType: delivery.type }, "rejected a message of unknown type from another instance");
    return "reject";
  }
  const { reason, ...runs } = decodeJson(delivery, EndRunsMessage);
  const { jobName, requestId } = runs;
  endRuns(live, { jobName, ...(requestId === undefined ? {} : { requestId }) }, fromFailure(reason));
  return "accept";
}

function endRuns(live: LiveRuns, { jobName, requestId }: RunsToEnd, reason: AppError): void {
  if (requestId === undefined) live.cancelJob(jobName, reason);
  else live.cancelRequest({ requestId, jobName }, reason);
}
