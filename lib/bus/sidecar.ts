/**
 * The message bus through the messaging sidecar beside this process (docs/decisions/0015). Its parts:
 *
 * - `sidecar-publisher.ts` keeps one stream for all that this process publishes;
 * - `sidecar-consumer.ts` keeps one stream per consumer, and opens it again;
 * - `wire-messages.ts` has the port's words on the wire, for both sides.
 *
 * State owned here: the connection, and this process's consumers. What is not a stream is repeated when the sidecar goes away
 * before its answer, until the call's deadline, if it comes to the same when done twice.
 */
import type { DescMessage, MessageInitShape, MessageShape } from "@bufbuild/protobuf";
import { systemClock, type Clock } from "../clock.ts";
import { AppError, toAppError } from "../errors.ts";
import { formatRpcAddress, type RpcAddress } from "../rpc/address.ts";
import { RpcClient, type UnaryMethod } from "../rpc/client.ts";
import { MessagingService } from "../rpc/gen/dynamos/v1/messaging_pb.ts";
import { checkOutgoing, prefetchOf, queueProperties } from "./message-checks.ts";
import type {
  ConsumeOptions,
  Consumer,
  DeadLetter,
  DeliveryHandler,
  MessageBus,
  OutgoingMessage,
  QueueOptions,
  QueueStatus,
} from "./message-bus.ts";
import {
  Backoff,
  brokenOff,
  isConnectionLoss,
  KEEPALIVE_MS,
  unreachable,
  type SidecarConnection,
} from "./sidecar-connection.ts";
import { SidecarConsumer } from "./sidecar-consumer.ts";
import { SidecarPublisher } from "./sidecar-publisher.ts";
import { fromWireLetter, toWireDeclaration } from "./wire-messages.ts";

/** How the bus is opened. */
export interface SidecarBusOptions {
  readonly address: RpcAddress;
  readonly clock?: Clock;
  /** How long the sidecar may take to start listening, in milliseconds. Default 20,000. */
  readonly connectLimitMs?: number;
  /** How long a call waits for the sidecar, in milliseconds. Default 10,000. */
  readonly deadlineMs?: number;
  /** How long consumers try to come back before they are lost, in milliseconds. Default 60,000. */
  readonly giveUpAfterMs?: number;
}

const { method } = MessagingService;

/** The sidecar's bus has the same deadline for its answer, which says more than ours would. */
const ANSWER_GRACE_MS = 1000;

/** When a call ends, and how long it may wait for the connection. */
interface CallTimes {
  readonly deadlineMs: number;
  readonly connectLimitMs: number;
}

function timesOf(deadlineMs: number, clock: Clock): CallTimes {
  return { deadlineMs: deadlineMs + ANSWER_GRACE_MS, connectLimitMs: Math.max(0, deadlineMs - clock.now()) };
}

/** Opens the bus; `unavailable` when no sidecar answers in time, or its bus does not. */
export async function openSidecarBus(options: SidecarBusOptions): Promise<MessageBus> {
  const {
    address,
    clock = systemClock,
    connectLimitMs = 20_000,
    deadlineMs = 10_000,
    giveUpAfterMs = 60_000,
  } = options;
  const name = `The messaging sidecar at ${formatRpcAddress(address)}`;
  const client = new RpcClient({ ...address, peer: "The messaging sidecar", keepaliveMs: KEEPALIVE_MS, clock });
  const bus = new SidecarBus({ client, name, clock, deadlineMs, giveUpAfterMs });
  try {
    await bus.connect(connectLimitMs);
    return bus;
  } catch (error) {
    await bus.close();
    throw error;
  }
}

class SidecarBus implements MessageBus {
  readonly #connection: SidecarConnection;
  readonly #publisher: SidecarPublisher;
  readonly #consumers = new Set<SidecarConsumer>();
  /** Why calls fail from now on. */
  #ended: AppError | undefined;
  #closing: Promise<void> | undefined;

  constructor(connection: SidecarConnection) {
    this.#connection = connection;
    this.#publisher = new SidecarPublisher(connection);
  }

  /** Waits until the sidecar and its bus answer. */
  async connect(limitMs: number): Promise<void> {
    await this.#call(method.ping, {}, limitMs);
    this.#publisher.open();
  }

  async declareQueue(queue: string, options: QueueOptions): Promise<void> {
    queueProperties(queue, options);
    await this.#call(method.declareQueue, toWireDeclaration(queue, options));
  }

  async deleteQueue(queue: string): Promise<void> {
    await this.#call(method.deleteQueue, { queue });
  }

  async publish(queue: string, message: OutgoingMessage): Promise<void> {
    checkOutgoing(queue, message);
    this.#assertOpen();
    await this.#publisher.publish(queue, message);
  }

  async consume(queue: string, handler: DeliveryHandler, options: ConsumeOptions = {}): Promise<Consumer> {
    const prefetch = prefetchOf(options);
    if (this.#closing !== undefined) throw new AppError("unavailable", "This message bus is being closed.");
    const consumer = new SidecarConsumer(this.#connection, { queue, prefetch, handler, options });
    this.#consumers.add(consumer);
    void consumer.ended.then(() => this.#consumers.delete(consumer));
    await consumer.start();
    return consumer;
  }

  async queueStatus(queue: string): Promise<QueueStatus | undefined> {
    const { figures } = await this.#call(method.queueStatus, { queue });
    if (figures === undefined) return undefined;
    return { ready: Number(figures.ready), consumers: figures.consumers };
  }

  deadLetters(limit: number): Promise<readonly DeadLetter[]> {
    return this.#repeated(this.#connection.deadlineMs, async (times) => {
      const letters: DeadLetter[] = [];
      const { client } = this.#connection;
      const answers = client.serverStream(method.deadLetters, { limit }, times);
      for await (const letter of answers) letters.push(fromWireLetter(letter));
      return letters;
    });
  }

  async replayDeadLetter(id: string): Promise<void> {
    const { client, clock, name, deadlineMs } = this.#connection;
    this.#assertOpen();
    try {
      await client.unary(method.replayDeadLetter, { id }, timesOf(clock.now() + deadlineMs, clock));
    } catch (thrown) {
      const error = toAppError(thrown);
      // It may have been done: whoever asked looks at the list again.
      throw isConnectionLoss(error) || error.code === "deadline_exceeded" ? brokenOff(name, error) : error;
    }
  }

  async ping(): Promise<void> {
    await this.#call(method.ping, {});
  }

  close(): Promise<void> {
    this.#closing ??= this.#shutDown();
    return this.#closing;
  }

  async #shutDown(): Promise<void> {
    try {
      await Promise.all([...this.#consumers].map((consumer) => consumer.close()));
      await this.#publisher.close();
    } finally {
      this.#ended = new AppError("unavailable", "This message bus was closed.");
      this.#connection.client.close();
    }
  }

  #call<Input extends DescMessage, Output extends DescMessage>(
    unary: UnaryMethod<Input, Output>,
    request: MessageInitShape<Input>,
    limitMs = this.#connection.deadlineMs,
  ): Promise<MessageShape<Output>> {
    return this.#repeated(limitMs, (times) => this.#connection.client.unary(unary, request, times));
  }

  /** Runs a call until it is answered, again when the connection broke, for as long as its time allows. */
  async #repeated<Answer>(limitMs: number, call: (times: CallTimes) => Promise<Answer>): Promise<Answer> {
    const { clock, name } = this.#connection;
    const deadlineMs = clock.now() + limitMs;
    const backoff = new Backoff(clock);
    for (;;) {
      this.#assertOpen();
      try {
        return await call(timesOf(deadlineMs, clock));
      } catch (thrown) {
        const error = toAppError(thrown);
        if (error.code === "deadline_exceeded") throw unreachable(name, limitMs, error);
        if (!isConnectionLoss(error)) throw error;
        if (clock.now() >= deadlineMs) throw unreachable(name, limitMs, error);
        await backoff.wait();
      }
    }
  }

  #assertOpen(): void {
    if (this.#ended !== undefined) throw this.#ended;
  }
}
