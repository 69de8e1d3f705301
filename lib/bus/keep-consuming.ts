/** Consuming for as long as a program lives: a consumer that the bus lost is begun again, and nobody need restart anything. */
import type { Clock } from "../clock.ts";
import { toAppError, type AppError } from "../errors.ts";
import type { Logger } from "../telemetry/logger.ts";
import type { ConsumeOptions, Consumer, DeliveryHandler, MessageBus, QueueOptions } from "./message-bus.ts";

/** How long to wait before beginning again; doubled each time up to the longest. */
const FIRST_RETRY_MS = 200;
const LONGEST_RETRY_MS = 5_000;

/** Which queue is consumed, and how. */
export interface KeptConsumption extends Omit<ConsumeOptions, "onLost"> {
  readonly queue: string;
  readonly declaration: QueueOptions;
  readonly handler: DeliveryHandler;
  readonly clock: Clock;
  readonly logger: Logger;
}

interface Consuming {
  readonly consumer: Consumer;
  /** Resolves when it is. */
  readonly lost: Promise<AppError>;
}

/**
 * Declares a queue and consumes it until `close`. When the consumer is lost (the bus was away for too long, the queue is
 * gone), both are done again, until they succeed: a program without its queue does nothing, and `/ready` tells meanwhile.
 *
 * @throws AppError as `declareQueue` and `consume`, when it does not succeed at the start.
 */
export async function keepConsuming(bus: MessageBus, consumption: KeptConsumption): Promise<Consumer> {
  const { queue, declaration, handler, clock, logger, ...options } = consumption;
  const closing = new AbortController();
  const begin = async (): Promise<Consuming> => {
    await bus.declareQueue(queue, declaration);
    let tell: (error: AppError) => void = () => undefined;
    const lost = new Promise<AppError>((resolve) => (tell = resolve));
    const consumer = await bus.consume(queue, handler, { ...options, onLost: (error) => tell(toAppError(error)) });
    return { consumer, lost };
  };
  let consuming: Consuming | undefined = await begin();
  const ended = new Promise<undefined>((resolve) =>
    closing.signal.addEventListener("abort", () => resolve(undefined), { once: true }),
  );
  const keeper = (async () => {
    while (consuming !== undefined) {
      const error: AppError | undefined = await Promise.race([consuming.lost, ended]);
      if (error === undefined) return;
      logger.warn({ error, queue }, "a queue was lost; beginning again");
      consuming = await beginUntilDone();
    }
  })();
  async function beginUntilDone(): Promise<Consuming | undefined> {
    for (let waitMs = FIRST_RETRY_MS; !closing.signal.aborted; waitMs = Math.min(waitMs * 2, LONGEST_RETRY_MS)) {
      try {
        const begun = await begin();
        logger.info({ queue }, "consuming again");
        return begun;
      } catch (thrown) {
        logger.warn({ error: toAppError(thrown), queue, waitMs }, "a queue could not be consumed; trying again");
        await Promise.race([clock.sleep(waitMs), ended]);
      }
    }
    return undefined;
  }
  return {
    close: async () => {
      closing.abort();
      await keeper;
      await consuming?.consumer.close();
    },
  };
}
