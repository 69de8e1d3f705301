/** A client's stream of messages onto the bus. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { MessageBus } from "../lib/bus/message-bus.ts";
import { fromWireMessage } from "../lib/bus/wire-messages.ts";
import { toFailureMessage } from "../lib/rpc/frames.ts";
import type { PublishRequest, PublishResponseSchema } from "../lib/rpc/gen/dynamos/v1/messaging_pb.ts";
import { Handoff } from "../lib/rpc/handoff.ts";

type Answer = MessageInitShape<typeof PublishResponseSchema>;

/** Enough to fill the bus's transactions; beyond it the client waits, by HTTP/2's flow control. */
const MAX_BYTES_UNDER_WAY = 8 * 1024 * 1024;
const MAX_MESSAGES_UNDER_WAY = 512;
/** How often a client that waits hears that we live. */
const SIGN_OF_LIFE_MS = 1000;

/**
 * Publishes each message in the order of the requests, many at a time, and answers each by its number as it is confirmed or
 * fails. Ends when the requests have ended and all are answered, or when the signal says that the client has gone: what is
 * under way then still reaches the bus.
 */
export async function* publishAll(
  bus: MessageBus,
  requests: AsyncIterable<PublishRequest>,
  signal: AbortSignal,
): AsyncGenerator<Answer> {
  const answers = new Handoff<Answer>();
  const stop = (): void => answers.end();
  signal.addEventListener("abort", stop, { once: true });
  const underWay = new UnderWay();
  let isSignUnread = false;
  const signs = setInterval(() => {
    if (underWay.isEmpty || isSignUnread) return;
    isSignUnread = true;
    void answers.push({ number: 0n }).then(() => (isSignUnread = false));
  }, SIGN_OF_LIFE_MS);
  const reading = readAll(bus, requests, answers, underWay).finally(stop);
  // Where the client has gone, nobody waits for it.
  reading.catch(() => undefined);
  try {
    yield* answers;
    if (!signal.aborted) await reading;
  } finally {
    clearInterval(signs);
    signal.removeEventListener("abort", stop);
  }
}

async function readAll(
  bus: MessageBus,
  requests: AsyncIterable<PublishRequest>,
  answers: Handoff<Answer>,
  underWay: UnderWay,
): Promise<void> {
  for await (const request of requests) {
    const bytes = request.message?.body.byteLength ?? 0;
    await underWay.room();
    underWay.add(
      bytes,
      publish(bus, request).then((answer) => void answers.push(answer)),
    );
  }
  await underWay.all();
}

async function publish(bus: MessageBus, { number, queue, message }: PublishRequest): Promise<Answer> {
  try {
    await bus.publish(queue, fromWireMessage(message));
    return { number };
  } catch (error) {
    return { number, failure: toFailureMessage(error) };
  }
}

/** Messages that the bus has not confirmed yet. */
class UnderWay {
  readonly #all = new Set<Promise<void>>();
  #bytes = 0;
  #onLess: (() => void) | undefined;

  get isEmpty(): boolean {
    return this.#all.size === 0;
  }

  add(bytes: number, published: Promise<void>): void {
    this.#bytes += bytes;
    const tracked = published.finally(() => {
      this.#bytes -= bytes;
      this.#all.delete(tracked);
      this.#onLess?.();
    });
    this.#all.add(tracked);
  }

  /** Resolves when one more may be added. For one caller at a time. */
  async room(): Promise<void> {
    while (this.#bytes >= MAX_BYTES_UNDER_WAY || this.#all.size >= MAX_MESSAGES_UNDER_WAY) {
      await new Promise<void>((resolve) => (this.#onLess = resolve));
    }
  }

  async all(): Promise<void> {
    await Promise.all(this.#all);
  }
}
