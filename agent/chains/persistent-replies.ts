/**
 * What comes back from persistent chains to this instance of the agent: one queue for all its runs, told apart by correlation id.
 * No run can keep another's messages from coming in: each has at most its credits and a few more unsettled, and there is room for
 * those of all.
 */
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import type { Consumer, Delivery, MessageBus, Settlement } from "../../lib/bus/message-bus.ts";
import { MESSAGE_TYPES } from "../../lib/bus/message-types.ts";
import { publishToRun, sharedQueueAddress } from "../../lib/bus/run-address.ts";
import { AppError, toAppError } from "../../lib/errors.ts";
import { toFailureMessage } from "../../lib/rpc/frames.ts";
import { CancelSchema, RunReportSchema, type RunReport, type Taken } from "../../lib/rpc/gen/dynamos/v1/run_pb.ts";
import type { Logger } from "../../lib/telemetry/logger.ts";

/** What becomes of it without a consumer: its instance has died. */
const EXPIRES_MS = 60_000;

/** A run that waits for what comes back. */
export interface ReplyTaker {
  take(delivery: Delivery, report: RunReport | undefined): Promise<Settlement>;
  fail(error: AppError): void;
}

/** What it needs. */
export interface PersistentRepliesOptions {
  readonly bus: MessageBus;
  readonly queue: string;
  /** Messages in hand at a time. */
  readonly prefetch: number;
  readonly logger: Logger;
}

/** See the file comment. */
export class PersistentReplies {
  readonly #options: PersistentRepliesOptions;
  readonly #takers = new Map<string, ReplyTaker>();
  #consumer: Promise<Consumer> | undefined;

  constructor(options: PersistentRepliesOptions) {
    this.#options = options;
  }

  /** Where what comes back from a run goes. */
  addressOf(run: string): string {
    return sharedQueueAddress(this.#options.queue, run);
  }

  /** From now on the run's messages go to its taker. */
  async add(run: string, taker: ReplyTaker): Promise<void> {
    this.#takers.set(run, taker);
    this.#consumer ??= this.#consume();
    await this.#consumer;
  }

  /** Nothing of the run is kept: what still comes of it is dropped, and ended where it begins only now. */
  remove(run: string): void {
    this.#takers.delete(run);
  }

  /** Ends it, and the queue. */
  async close(): Promise<void> {
    const consumer = this.#consumer;
    if (consumer === undefined) return;
    for (const taker of this.#takers.values()) taker.fail(new AppError("unavailable", "The agent is stopping."));
    await (await consumer).close();
    await this.#options.bus.deleteQueue(this.#options.queue);
  }

  async #consume(): Promise<Consumer> {
    const { bus, queue, prefetch } = this.#options;
    try {
      await bus.declareQueue(queue, { kind: "run", expiresMs: EXPIRES_MS });
      return await bus.consume(queue, (delivery) => this.#take(delivery), {
        prefetch,
        onLost: (cause) => this.#lost(cause),
      });
    } catch (error) {
      this.#consumer = undefined;
      throw error;
    }
  }

  /** The next run opens it again. */
  #lost(cause: Error): void {
    this.#consumer = undefined;
    const error = new AppError("unavailable", "The queue for what comes back from persistent chains was lost.", {
      cause,
    });
    for (const taker of [...this.#takers.values()]) taker.fail(error);
  }

  async #take(delivery: Delivery): Promise<Settlement> {
    const run = delivery.correlationId ?? "";
    const report = delivery.type === MESSAGE_TYPES.runReport ? fromBinary(RunReportSchema, delivery.body) : undefined;
    const taker = this.#takers.get(run);
    if (taker !== undefined) return taker.take(delivery, report);
    // It had been given up before a chain took it.
    if (report?.state.case === "taken") await this.#endAtChain(report, run, report.state.value);
    return "accept";
  }

  async #endAtChain({ requestId }: RunReport, run: string, { queue }: Taken): Promise<void> {
    const reason = new AppError("cancelled", "Nobody waits for this run any more.");
    await cancelAt(this.#options.bus, sharedQueueAddress(queue, run), requestId, reason).catch((error: unknown) => {
      this.#options.logger.warn({ error: toAppError(error) }, "a run that nobody waits for could not be ended");
    });
  }
}

/** Ends a run in the chain that has it. A chain that is gone has ended it. */
export async function cancelAt(
  bus: Pick<MessageBus, "publish">,
  address: string,
  requestId: string,
  reason: AppError,
): Promise<void> {
  const body = toBinary(CancelSchema, create(CancelSchema, { requestId, reason: toFailureMessage(reason) }));
  try {
    await publishToRun(bus, address, { type: MESSAGE_TYPES.cancel, body });
  } catch (error) {
    if (toAppError(error).code !== "not_found") throw error;
  }
}
