/** One consumer at the bus for one client's stream: deliveries down, settlements up. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { Consumer, Delivery, MessageBus, Settlement } from "../lib/bus/message-bus.ts";
import { fromWireSettlement, toWireMessage } from "../lib/bus/wire-messages.ts";
import { AppError, toAppError } from "../lib/errors.ts";
import type { ConsumeRequest, ConsumeResponseSchema } from "../lib/rpc/gen/dynamos/v1/messaging_pb.ts";
import { Handoff } from "../lib/rpc/handoff.ts";

type Answer = MessageInitShape<typeof ConsumeResponseSchema>;

/**
 * Serves one stream to its end: the client's Stop, once all is settled; the queue's end, with the bus's error; the client's
 * going, after which what it had not settled goes back to the queue, counted.
 */
export async function* consumeFor(
  bus: MessageBus,
  requests: AsyncIterable<ConsumeRequest>,
  signal: AbortSignal,
): AsyncGenerator<Answer> {
  const client = requests[Symbol.asyncIterator]();
  const start = await startOf(client);
  const deliveries = new Deliveries();
  const end = (): void => deliveries.end();
  let endedBy: AppError | undefined;
  const consumer = await bus.consume(start.queue, (delivery) => deliveries.take(delivery), {
    prefetch: start.prefetch,
    onLost: (error) => {
      endedBy ??= toAppError(error);
      end();
    },
  });
  signal.addEventListener("abort", end, { once: true });
  if (signal.aborted) end();
  settleAll(client, deliveries, consumer).catch((error: unknown) => {
    endedBy ??= toAppError(error);
    end();
  });
  try {
    yield { body: { case: "started", value: {} } };
    yield* deliveries.answers;
    if (endedBy !== undefined) throw endedBy;
  } finally {
    signal.removeEventListener("abort", end);
    deliveries.end();
    await giveBack(consumer, deliveries);
  }
}

async function startOf(client: AsyncIterator<ConsumeRequest>): Promise<{ queue: string; prefetch: number }> {
  const first = await client.next();
  const body = first.done === true ? undefined : first.value.body;
  if (body?.case !== "start") throw new AppError("bad_request", "A consumer's first message is its start.");
  return body.value;
}

/** Takes the client's settlements, and its Stop, until the stream is over; rejects then. */
async function settleAll(
  client: AsyncIterator<ConsumeRequest>,
  deliveries: Deliveries,
  consumer: Consumer,
): Promise<never> {
  for (;;) {
    const next = await client.next();
    if (next.done === true) throw new AppError("cancelled", "The client ended its requests instead of stopping.");
    const { body } = next.value;
    if (body.case === "settle") deliveries.settle(body.value.number, fromWireSettlement(body.value.settlement));
    else if (body.case === "stop") stop(consumer, deliveries);
    else throw new AppError("bad_request", `A consumer that runs does not take "${body.case ?? "nothing"}".`);
  }
}

function stop(consumer: Consumer, deliveries: Deliveries): void {
  const end = (): void => deliveries.end();
  // Should it fail, the stream's own end, which closes again, hears of it.
  consumer.close().then(end, end);
}

/** Takes nothing more first, so that what goes back does not come again here. */
async function giveBack(consumer: Consumer, deliveries: Deliveries): Promise<void> {
  const closed = consumer.close();
  deliveries.retryAll();
  await closed;
}

/** What is with the client: numbered on its way down, remembered until it is settled. */
class Deliveries {
  readonly answers = new Handoff<Answer>();
  readonly #unsettled = new Map<bigint, (settlement: Settlement) => void>();
  #lastNumber = 0n;
  #isEnded = false;

  /** The handler of the bus's consumer: its work is the client's. */
  take(delivery: Delivery): Promise<Settlement> {
    if (this.#isEnded) return Promise.resolve("retry");
    const number = ++this.#lastNumber;
    const settled = new Promise<Settlement>((resolve) => this.#unsettled.set(number, resolve));
    void this.answers.push({ body: { case: "delivery", value: { number, message: toWireMessage(delivery) } } });
    return settled;
  }

  settle(number: bigint, settlement: Settlement): void {
    const resolve = this.#unsettled.get(number);
    if (resolve === undefined) throw new AppError("bad_request", `No delivery ${number} is unsettled.`);
    this.#unsettled.delete(number);
    resolve(settlement);
  }

  /** Nothing more goes down. */
  end(): void {
    this.#isEnded = true;
    this.answers.end();
  }

  retryAll(): void {
    for (const resolve of this.#unsettled.values()) resolve("retry");
    this.#unsettled.clear();
  }
}
