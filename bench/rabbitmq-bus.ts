/**
 * Throughput of the bus on RabbitMQ, publish confirmed and consumed, as a ratio to amqplib by itself on the same queues:
 * `node dist/bench/rabbitmq-bus.js [chunks] [chunk bytes] [chunks under way] [rounds]`. Prints one line of JSON. Rounds alternate, so
 * that whatever else the machine does meets both. The server is one of its own, or that of `DYNAMOS_TEST_AMQP`.
 */
import { connect } from "amqplib";
import { openMessageBus } from "../lib/bus/open.ts";
import { EXCHANGE } from "../lib/bus/rabbitmq-topology.ts";
import { startRabbitMq } from "../test/support/rabbitmq.ts";

type Kind = "service" | "run";
/** Sends all chunks from a queue's one end to the other; the seconds from the first publish to the last confirm and delivery. */
type Transfer = (queue: string, send: Sending) => Promise<number>;

interface Sending {
  readonly chunks: number;
  readonly body: Buffer;
  readonly underWay: number;
}

const [chunks = 1000, chunkBytes = 256 * 1024, underWay = 16, rounds = 5] = process.argv.slice(2).map(Number);
const sending: Sending = { chunks, body: Buffer.alloc(chunkBytes, 7), underWay };

async function measure(): Promise<void> {
  const server = await startRabbitMq();
  try {
    const vhost = await server.vhost();
    const bus = await openMessageBus(vhost.url);
    const result: Record<string, unknown> = { chunks, chunkBytes, underWay, rounds };
    for (const kind of ["service", "run"] as const) {
      await bus.declareQueue(kind, { kind });
      result[kind] = await compare(kind, vhost.url);
    }
    console.log(JSON.stringify(result));
    await bus.close();
    await vhost.remove();
  } finally {
    await server.close();
  }
}

async function compare(kind: Kind, url: string): Promise<Record<string, number>> {
  const seconds: Record<"ours" | "raw", number[]> = { ours: [], raw: [] };
  for (let round = 0; round < rounds; round += 1) {
    seconds.raw.push(await rawTransfer(url)(kind, sending));
    seconds.ours.push(await ourTransfer(url)(kind, sending));
  }
  const rate = (times: readonly number[]): number => (chunks * chunkBytes) / 1e6 / median(times);
  const [ours, raw] = [rate(seconds.ours), rate(seconds.raw)];
  return {
    megabytesPerSecond: Number(ours.toFixed(1)),
    rawMegabytesPerSecond: Number(raw.toFixed(1)),
    ratio: Number((ours / raw).toFixed(2)),
  };
}

function ourTransfer(url: string): Transfer {
  return async (queue, send) => {
    const bus = await openMessageBus(url);
    const gate = new Gate(send);
    await bus.consume(queue, async () => {
      gate.delivered();
      return "accept";
    });
    while (await gate.mayPublish()) void bus.publish(queue, { type: "frame", body: send.body }).then(gate.confirmed);
    const seconds = await gate.finished;
    await bus.close();
    return seconds;
  };
}

function rawTransfer(url: string): Transfer {
  return async (queue, send) => {
    const [publishing, consuming] = [await connect(url), await connect(url)];
    const [publisher, consumer] = [await publishing.createConfirmChannel(), await consuming.createChannel()];
    // What ended the connection is told by whatever then fails.
    for (const connection of [publishing, consuming]) connection.on("error", () => undefined);
    const gate = new Gate(send);
    await consumer.prefetch(16);
    await consumer.consume(queue, (message) => {
      consumer.ack(message!);
      gate.delivered();
    });
    while (await gate.mayPublish()) {
      publisher.publish(EXCHANGE, queue, send.body, { persistent: true, mandatory: true }, gate.confirmed);
    }
    const seconds = await gate.finished;
    await Promise.all([publishing.close(), consuming.close()]);
    return seconds;
  };
}

/** Keeps so many chunks under way, as credits do, and knows when all are confirmed and delivered. */
class Gate {
  /** The seconds that it took from the first chunk. */
  readonly finished: Promise<number>;
  readonly #chunks: number;
  readonly #underWay: number;
  #start = 0;
  #published = 0;
  #confirmed = 0;
  #delivered = 0;
  #finish = (): void => undefined;
  #wake = (): void => undefined;

  constructor({ chunks: all, underWay: most }: Sending) {
    this.#chunks = all;
    this.#underWay = most;
    this.finished = new Promise((resolve) => {
      this.#finish = () => resolve((performance.now() - this.#start) / 1000);
    });
  }

  async mayPublish(): Promise<boolean> {
    while (this.#published - Math.min(this.#confirmed, this.#delivered) >= this.#underWay)
      await new Promise<void>((resolve) => (this.#wake = resolve));
    if (this.#published === 0) this.#start = performance.now();
    this.#published += 1;
    return this.#published <= this.#chunks;
  }

  readonly confirmed = (): void => {
    this.#confirmed += 1;
    this.#changed();
  };

  delivered(): void {
    this.#delivered += 1;
    this.#changed();
  }

  #changed(): void {
    this.#wake();
    if (this.#confirmed >= this.#chunks && this.#delivered >= this.#chunks) this.#finish();
  }
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)]!;
}

// Last: classes are there only from their declaration on.
await measure();
