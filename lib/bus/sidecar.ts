/**
 * The message bus through the messaging sidecar beside this process (docs/decisions/0014). Its parts:
 *
 * - `sidecar-publisher.ts` keeps one stream for all that this process publishes;
 * - `sidecar-consumer.ts` keeps one stream per consumer, and opens it again;
 * - `wire-messages.ts` has the port's words on the wire, for both sides.
 *
 * State owned here: the connection, and this process's consumers. What is not a stream is repeated when the sidecar goes away
 * before its answer, until the call's deadline: all of it comes to the same when done twice.
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
import { Backoff, isConnectionLoss, KEEPALIVE_MS, unreachable, type SidecarConnection } from "./sidecar-connection.ts";
import { SidecarConsumer } from "./sidecar-consumer.ts";
import { SidecarPublisher } from "./sidecar-publisher.ts";
import { fromWireDelivery, fromWireReason, toWireDeclaration } from "./wire-messages.ts";

/** How the bus is opened. */
export interface SidecarBusOptions {
  readonly address: RpcAddress;
  readonly clock?: Clock;
  /** How long the sidecar may take to start listening, in milliseconds. Default 20,000. */
  readonly connectLimitMs?: number;
  /** How long a call waits for the sidecar, in milliseconds. Default 10,000. */
  readonly deadlineMs?: number;
  /** How long consumers try to come back before they are lost, in milliseconds. Default 300,000. */
  readonly giveUpAfterMs?: number;
}

const { method } = MessagingService;

/** Opens the bus; `unavailable` when no sidecar answers in time, or its bus does not. */
export async function openSidecarBus(options: SidecarBusOptions): Promise<MessageBus> {
  const {
    address,
    clock = systemClock,
    connectLimitMs = 20_000,
    deadlineMs = 10_000,
    giveUpAfterMs = 300_000,
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
    return { ready: Number(figures.ready), unsettled: Number(figures.unsettled), consumers: figures.consumers };
  }

  deadLetters(limit: number): Promise<readonly DeadLetter[]> {
    return this.#repeated(this.#connection.deadlineMs, async (deadlineMs) => {
      const letters: DeadLetter[] = [];
      const { client } = this.#connection;
      for await (const { queue, reason, message } of client.serverStream(
        method.deadLetters,
        { limit },
        { deadlineMs },
      )) {
        letters.push({ queue, reason: fromWireReason(reason), message: fromWireDelivery(message) });
      }
      return letters;
    });
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
    return this.#repeated(limitMs, (deadlineMs) => this.#connection.client.unary(unary, request, { deadlineMs }));
  }

  /** Runs a call until it is answered, again when the connection broke, for as long as its time allows. */
  async #repeated<Answer>(limitMs: number, call: (deadlineMs: number) => Promise<Answer>): Promise<Answer> {
    const { clock, name } = this.#connection;
    const deadlineMs = clock.now() + limitMs;
    const backoff = new Backoff(clock);
    for (;;) {
      this.#assertOpen();
      try {
        return await call(deadlineMs);
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
