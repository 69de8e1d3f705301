/** One consumer through the messaging sidecar: its stream, opened again when it broke, and the handlers. */
import { create } from "@bufbuild/protobuf";
import { AppError, toAppError } from "../errors.ts";
import type { DuplexCall } from "../rpc/duplex-call.ts";
import {
  ConsumeRequestSchema,
  MessagingService,
  type BusDelivery,
  type ConsumeRequest,
  type ConsumeResponse,
} from "../rpc/gen/dynamos/v1/messaging_pb.ts";
import type { ConsumeOptions, Consumer, Delivery, DeliveryHandler, Settlement } from "./message-bus.ts";
import { Backoff, isConnectionLoss, unreachable, type SidecarConnection } from "./sidecar-connection.ts";
import { fromWireDelivery, toWireSettlement } from "./wire-messages.ts";

/** What is consumed, and by whom. */
export interface Consumption {
  readonly queue: string;
  readonly prefetch: number;
  readonly handler: DeliveryHandler;
  readonly options: ConsumeOptions;
}

type Stream = DuplexCall<ConsumeRequest, ConsumeResponse>;

/** A stream that runs. A settlement belongs to the stream that its delivery came by; later it has no effect. */
interface Session {
  readonly stream: Stream;
  readonly responses: AsyncIterator<ConsumeResponse>;
}

interface Arrived {
  readonly session: Session;
  readonly delivery: BusDelivery;
}

/** How long a sidecar may take to store the last settlements after all handlers have ended. */
const CLOSE_LIMIT_MS = 10_000;

/**
 * States: starting → running, with a session or on the way to the next one → closing (no new deliveries; handlers end, and their
 * settlements are stored) or lost → ended.
 *
 * After a break the bus gives the deliveries to anybody again, also to this consumer, whose handlers for them may still run: they
 * keep their slots, so that no more than `prefetch` handlers run at a time.
 */
export class SidecarConsumer implements Consumer {
  /** Resolves when it takes no part any more. */
  readonly ended: Promise<void>;
  readonly #connection: SidecarConnection;
  readonly #consumption: Consumption;
  readonly #underWay = new Set<Promise<void>>();
  /** Aborted by `close`: tries end. */
  readonly #closing = new AbortController();
  #waiting: Arrived[] = [];
  #session: Session | undefined;
  #closed: Promise<void> | undefined;
  #running: Promise<void> = Promise.resolve();
  #end!: () => void;

  constructor(connection: SidecarConnection, consumption: Consumption) {
    this.#connection = connection;
    this.#consumption = consumption;
    this.ended = new Promise((resolve) => (this.#end = resolve));
  }

  /** Resolves once it consumes. Fails as the bus does, or with `unavailable` when the sidecar cannot be reached in time. */
  async start(): Promise<void> {
    try {
      const session = await this.#connect(this.#connection.deadlineMs);
      this.#running = this.#run(session);
    } catch (error) {
      this.#end();
      throw error;
    }
  }

  close(): Promise<void> {
    this.#closed ??= this.#stop();
    return this.#closed;
  }

  async #stop(): Promise<void> {
    this.#closing.abort(new AppError("cancelled", "The consumer is being closed."));
    for (const { session, delivery } of this.#waiting.splice(0)) this.#settle(session, delivery.number, "retry");
    void this.#session?.stream.write(create(ConsumeRequestSchema, { body: { case: "stop", value: {} } }));
    await Promise.all(this.#underWay);
    const limit = setTimeout(() => this.#session?.stream.cancel(), CLOSE_LIMIT_MS);
    await this.#running;
    clearTimeout(limit);
  }

  /** One session after the other, until it is closed or lost. */
  async #run(first: Session): Promise<void> {
    const { giveUpAfterMs } = this.#connection;
    let session = first;
    try {
      for (;;) {
        const error = await this.#serve(session);
        if (this.#closing.signal.aborted) return;
        // Anything else is the bus's word, by way of the sidecar.
        if (!isConnectionLoss(error)) return this.#lose(error);
        session = await this.#connect(giveUpAfterMs);
      }
    } catch (error) {
      if (!this.#closing.signal.aborted) this.#lose(toAppError(error));
    } finally {
      this.#end();
    }
  }

  #lose(error: AppError): void {
    this.#closing.abort(error);
    this.#consumption.options.onLost?.(error);
  }

  /** Opens a session; tries again while the sidecar is away. */
  async #connect(limitMs: number): Promise<Session> {
    const { clock, name } = this.#connection;
    const giveUpAt = clock.now() + limitMs;
    const backoff = new Backoff(clock);
    for (;;) {
      try {
        return await this.#open(giveUpAt - clock.now());
      } catch (thrown) {
        const error = toAppError(thrown);
        this.#closing.signal.throwIfAborted();
        const isOver = clock.now() >= giveUpAt;
        if (isConnectionLoss(error) || error.code === "deadline_exceeded") {
          if (isOver) throw unreachable(name, limitMs, error);
        } else if (error.code !== "unavailable" || isOver) throw error;
        await backoff.wait(this.#closing.signal);
      }
    }
  }

  async #open(limitMs: number): Promise<Session> {
    const { queue, prefetch } = this.#consumption;
    const giveUp = new AbortController();
    const onClosing = (): void => giveUp.abort(this.#closing.signal.reason);
    const onLate = (): void => giveUp.abort(new AppError("deadline_exceeded", "Consuming had not begun in time."));
    this.#closing.signal.addEventListener("abort", onClosing);
    const timer = setTimeout(onLate, limitMs);
    try {
      const times = { connectLimitMs: limitMs, signal: giveUp.signal };
      const stream = await this.#connection.client.duplex(MessagingService.method.consume, times);
      void stream.write(create(ConsumeRequestSchema, { body: { case: "start", value: { queue, prefetch } } }));
      const responses = stream.responses[Symbol.asyncIterator]();
      const first = await responses.next();
      if (first.done !== true && first.value.body.case === "started") return { stream, responses };
      stream.cancel();
      throw new AppError("internal", `${this.#connection.name} did not say that consuming has begun.`);
    } finally {
      clearTimeout(timer);
      this.#closing.signal.removeEventListener("abort", onClosing);
    }
  }

  /** Runs a session to its end; resolves with what ended it. */
  async #serve(session: Session): Promise<AppError> {
    this.#session = session;
    try {
      for (;;) {
        const next = await session.responses.next();
        if (next.done === true) return new AppError("job_failed", `${this.#connection.name} ended the consumer.`);
        if (next.value.body.case === "delivery") this.#arrive({ session, delivery: next.value.body.value });
      }
    } catch (error) {
      return toAppError(error);
    } finally {
      this.#session = undefined;
      this.#waiting = [];
    }
  }

  #arrive(arrived: Arrived): void {
    // It crossed with our Stop, and no handler saw it.
    if (this.#closing.signal.aborted) this.#settle(arrived.session, arrived.delivery.number, "retry");
    else if (this.#underWay.size < this.#consumption.prefetch) this.#start(arrived);
    else this.#waiting.push(arrived);
  }

  #start({ session, delivery: { number, message } }: Arrived): void {
    const handled = this.#decide(fromWireDelivery(message)).then((settlement) => {
      this.#underWay.delete(handled);
      this.#settle(session, number, settlement);
      const next = this.#waiting.shift();
      if (next !== undefined) this.#start(next);
    });
    this.#underWay.add(handled);
  }

  async #decide(delivery: Delivery): Promise<Settlement> {
    const { handler, options } = this.#consumption;
    try {
      return await handler(delivery);
    } catch (error) {
      options.onHandlerError?.(error, delivery);
      return "retry";
    }
  }

  #settle(session: Session, number: bigint, settlement: Settlement): void {
    if (session !== this.#session) return;
    const body = { case: "settle", value: { number, settlement: toWireSettlement(settlement) } } as const;
    void session.stream.write(create(ConsumeRequestSchema, { body }));
  }
}
