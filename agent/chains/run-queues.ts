/** The two queues of a chain that serves one attempt: the run queue, where its sidecar takes the request, and the one for what comes back. */
import { toBinary } from "@bufbuild/protobuf";
import type { Consumer, Delivery, MessageBus, Settlement } from "../../lib/bus/message-bus.ts";
import { MESSAGE_TYPES } from "../../lib/bus/message-types.ts";
import { runQueue, runReplyQueue } from "../../lib/bus/queues.ts";
import { AppError } from "../../lib/errors.ts";
import { RunRequestSchema, type RunRequest } from "../../lib/rpc/gen/dynamos/v1/run_pb.ts";
import { traceHeaders, type TraceContext } from "../../lib/telemetry/trace-context.ts";
import { CONTROL_MESSAGES, type ChainReceiver } from "./claimed-chain.ts";

/** See the file comment. {@link open} first, {@link close} at the end, whatever happened. */
export class RunQueues {
  /** Takes the request, credits, cancels, and providers' frames. */
  readonly run: string;
  /** Takes reports, and the result where this agent does. */
  readonly reply: string;
  readonly #bus: MessageBus;
  #consumer: Consumer | undefined;

  /** @param name of the run, or of the job that was started ahead. */
  constructor(bus: MessageBus, name: string) {
    this.#bus = bus;
    this.run = runQueue(name);
    this.reply = runReplyQueue(name);
  }

  /**
   * Makes both, and consumes what comes back.
   *
   * @param credits most chunks that may be in flight.
   * @throws AppError of the bus; {@link close} removes what there is.
   */
  async open(receiver: ChainReceiver, credits: number): Promise<void> {
    await this.#bus.declareQueue(this.run, { kind: "run" });
    await this.#bus.declareQueue(this.reply, { kind: "run" });
    const take = (delivery: Delivery): Promise<Settlement> => receiver.take(delivery);
    this.#consumer = await this.#bus.consume(this.reply, take, {
      prefetch: credits + CONTROL_MESSAGES,
      onLost: (cause) => receiver.fail(new AppError("unavailable", "The run's reply queue was lost.", { cause })),
    });
  }

  /** Puts the request into the run queue. */
  request(request: RunRequest, trace: TraceContext, expiresAtMs: number): Promise<void> {
    return this.#bus.publish(this.run, {
      type: MESSAGE_TYPES.sqlDataRequest,
      body: toBinary(RunRequestSchema, request),
      replyTo: this.reply,
      headers: traceHeaders(trace),
      expiresAtMs,
    });
  }

  /** Ends consuming, and removes both. May be tried again where the bus was away. */
  async close(): Promise<void> {
    const queues = [this.run, this.reply];
    const steps = [Promise.resolve(this.#consumer?.close()), ...queues.map((queue) => this.#bus.deleteQueue(queue))];
    // Each is done whatever becomes of the others.
    for (const outcome of await Promise.allSettled(steps)) if (outcome.status === "rejected") throw outcome.reason;
  }
}
