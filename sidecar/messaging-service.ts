/**
 * The message bus as a gRPC service: `messaging-publishing.ts` takes a client's stream of messages, `messaging-consuming.ts`
 * runs one consumer for a client; the other calls are one call of the bus each.
 *
 * State owned here: how many streams are open, so that the sidecar ends after its clients.
 */
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { MessageBus } from "../lib/bus/message-bus.ts";
import { fromWireDeclaration, toWireLetter } from "../lib/bus/wire-messages.ts";
import { isUnexpected, toAppError, type AppError } from "../lib/errors.ts";
import {
  MessagingService as MessagingServiceDefinition,
  type DeadLettersRequest,
  type DeadLettersResponseSchema,
} from "../lib/rpc/gen/dynamos/v1/messaging_pb.ts";
import { implement, type Implementation } from "../lib/rpc/service.ts";
import type { Logger } from "../lib/telemetry/logger.ts";
import { consumeFor } from "./messaging-consuming.ts";
import { publishAll } from "./messaging-publishing.ts";

/** What the service needs. */
export interface MessagingServiceOptions {
  readonly bus: MessageBus;
  readonly logger: Logger;
}

/** See the file comment. */
export class MessagingService {
  readonly #options: MessagingServiceOptions;
  readonly #waiting: (() => void)[] = [];
  #openStreams = 0;

  constructor(options: MessagingServiceOptions) {
    this.#options = options;
  }

  /** Streams of clients that publish or consume. */
  get openStreams(): number {
    return this.#openStreams;
  }

  /** Resolves when no client's stream is open. */
  idle(): Promise<void> {
    if (this.#openStreams === 0) return Promise.resolve();
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  /** For a server of `lib/rpc`. */
  get implementation(): Implementation {
    const { bus } = this.#options;
    return implement(MessagingServiceDefinition, {
      declareQueue: (request) =>
        this.#told(async () => {
          await bus.declareQueue(request.queue, fromWireDeclaration(request));
          return {};
        }),
      deleteQueue: ({ queue }) =>
        this.#told(async () => {
          await bus.deleteQueue(queue);
          return {};
        }),
      publish: (requests, { signal }) => this.#counted(publishAll(bus, requests, signal)),
      consume: (requests, { signal }) => this.#counted(consumeFor(bus, requests, signal)),
      queueStatus: ({ queue }) =>
        this.#told(async () => {
          const figures = await bus.queueStatus(queue);
          if (figures === undefined) return {};
          const { ready, consumers } = figures;
          return { figures: { ready: BigInt(ready), consumers } };
        }),
      deadLetters: (request) => this.#deadLetters(request),
      replayDeadLetter: ({ id }) =>
        this.#told(async () => {
          await bus.replayDeadLetter(id);
          return {};
        }),
      ping: () =>
        this.#told(async () => {
          await bus.ping();
          return {};
        }),
    });
  }

  async *#deadLetters({
    limit,
  }: DeadLettersRequest): AsyncGenerator<MessageInitShape<typeof DeadLettersResponseSchema>> {
    const letters = await this.#told(() => this.#options.bus.deadLetters(limit));
    for (const letter of letters) yield toWireLetter(letter);
  }

  /** Runs a stream's handler, and counts it as open meanwhile. */
  async *#counted<Answer>(answers: AsyncIterable<Answer>): AsyncGenerator<Answer> {
    this.#openStreams += 1;
    try {
      yield* answers;
    } catch (error) {
      throw this.#logged(error);
    } finally {
      this.#openStreams -= 1;
      if (this.#openStreams === 0) for (const resolve of this.#waiting.splice(0)) resolve();
    }
  }

  /** The client learns an unexpected error's code alone; here is its log. */
  async #told<Answer>(work: () => Promise<Answer>): Promise<Answer> {
    try {
      return await work();
    } catch (error) {
      throw this.#logged(error);
    }
  }

  #logged(thrown: unknown): AppError {
    const error = toAppError(thrown);
    if (isUnexpected(error)) this.#options.logger.error({ error }, "a call failed unexpectedly");
    return error;
  }
}
