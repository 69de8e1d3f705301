/**
 * Ending runs wherever they are: a message at the shared service queue reaches any one instance, and the runs that it ends may
 * be with another. That one is told by its control queue before the message is settled.
 */
import { decodeJson, encodeJson } from "../../lib/bus/json.ts";
import type { Consumer, Delivery, MessageBus, Settlement } from "../../lib/bus/message-bus.ts";
import { MESSAGE_TYPES } from "../../lib/bus/message-types.ts";
import { instanceControlQueue } from "../../lib/bus/queues.ts";
import type { Clock } from "../../lib/clock.ts";
import { AppError, fromFailure, toAppError, toFailure } from "../../lib/errors.ts";
import { EndRunsMessage } from "../../lib/messages.ts";
import type { Logger } from "../../lib/telemetry/logger.ts";
import type { LiveRuns } from "../runs/live-runs.ts";
import type { Siblings } from "./siblings.ts";

const RETRY_MS = 1_000;

/** Which runs: all of a job, those of one request of it, or of that only the stream to one run of a third party. */
export interface RunsToEnd {
  readonly jobName: string;
  readonly requestId?: string;
  readonly returnAddress?: string;
}

/** What ending runs works with. */
export interface EndRunsDependencies {
  readonly steward: string;
  readonly bus: MessageBus;
  readonly live: LiveRuns;
  readonly siblings: Siblings;
}

/**
 * Ends runs here and at every other living instance; resolves when all of them have it in their queues.
 *
 * @throws AppError `unavailable` when a living instance could not be told.
 */
export async function endRunsEverywhere(
  { steward, bus, live, siblings }: EndRunsDependencies,
  runs: RunsToEnd,
  reason: AppError,
): Promise<void> {
  endRuns(live, runs, reason);
  const message: EndRunsMessage = { ...runs, reason: toFailure(reason) as EndRunsMessage["reason"] };
  const body = encodeJson(message);
  for (const { instance } of await siblings.living()) {
    try {
      await bus.publish(instanceControlQueue(steward, instance), { type: MESSAGE_TYPES.endRuns, body });
    } catch (error) {
      if (toAppError(error).code !== "not_found") throw error;
      // Without its queue it is dead, and so are its runs; unless it lives and only lost its queue.
      if (!(await siblings.living()).some((sibling) => sibling.instance === instance)) continue;
      throw new AppError("unavailable", `Instance ${instance} could not be told to end runs.`, { cause: error });
    }
  }
}

/** How what siblings tell is taken. */
export interface HearingOptions {
  readonly bus: MessageBus;
  /** This instance's control queue. */
  readonly queue: string;
  readonly live: LiveRuns;
  readonly clock: Clock;
  readonly logger: Logger;
}

/**
 * Takes what siblings tell this instance. To be opened before they know of it. A queue that was lost (to siblings that took this
 * instance for dead, or with the broker) is declared again; since something may have been missed, all runs are then held against
 * the agreement.
 */
export class EndRunsHearing {
  readonly #options: HearingOptions;
  readonly #closing = new AbortController();
  #consumer: Promise<Consumer | undefined> = Promise.resolve(undefined);

  private constructor(options: HearingOptions) {
    this.#options = options;
  }

  /** @throws AppError `unavailable` when the bus does not answer. */
  static async open(options: HearingOptions): Promise<EndRunsHearing> {
    const hearing = new EndRunsHearing(options);
    hearing.#consumer = hearing.#consume();
    await hearing.#consumer;
    return hearing;
  }

  /** Ends it, and deletes the queue. */
  async close(): Promise<void> {
    this.#closing.abort();
    await (await this.#consumer)?.close();
    await this.#options.bus.deleteQueue(this.#options.queue);
  }

  async #consume(): Promise<Consumer> {
    const { bus, queue, live, logger } = this.#options;
    await bus.declareQueue(queue, { kind: "run" });
    return bus.consume(queue, async (delivery) => handle(live, logger, delivery), {
      onLost: (error) => {
        if (this.#closing.signal.aborted) return;
        logger.warn({ error }, "this instance's queue was lost; declaring it again");
        this.#consumer = this.#consumeAgain();
      },
    });
  }

  async #consumeAgain(): Promise<Consumer | undefined> {
    const { live, clock, logger } = this.#options;
    const { signal } = this.#closing;
    let consumer: Consumer | undefined;
    while (!signal.aborted) {
      try {
        consumer ??= await this.#consume();
        await live.recheckAll();
        return consumer;
      } catch (error) {
        logger.warn({ error: toAppError(error) }, "this instance's queue is not in order yet; trying again");
        await clock.sleep(RETRY_MS, signal).catch(() => undefined); // Closing: the loop ends.
      }
    }
    return consumer;
  }
}

function handle(live: LiveRuns, logger: Logger, delivery: Delivery): Settlement {
  if (delivery.type !== MESSAGE_TYPES.endRuns) {
    logger.warn({ messageType: delivery.type }, "rejected a message of unknown type from another instance");
    return "reject";
  }
  const runs = decodeJson(delivery, EndRunsMessage);
  endRuns(live, runs, fromFailure(runs.reason));
  return "accept";
}

function endRuns(live: LiveRuns, runs: EndRunsMessage | RunsToEnd, reason: AppError): void {
  const { jobName, requestId, returnAddress } = runs;
  if (requestId === undefined) live.cancelJob(jobName, reason);
  else live.cancelRequest({ requestId, jobName, ...(returnAddress === undefined ? {} : { returnAddress }) }, reason);
}
