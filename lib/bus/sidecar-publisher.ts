/** All that this process publishes, through one stream to the messaging sidecar. */
import { create } from "@bufbuild/protobuf";
import { AppError, toAppError } from "../errors.ts";
import type { DuplexCall } from "../rpc/duplex-call.ts";
import { fromFailureMessage } from "../rpc/frames.ts";
import {
  MessagingService,
  PublishRequestSchema,
  type PublishRequest,
  type PublishResponse,
} from "../rpc/gen/dynamos/v1/messaging_pb.ts";
import { MAX_RPC_MESSAGE_BYTES } from "../rpc/server.ts";
import type { OutgoingMessage } from "./message-bus.ts";
import { Backoff, brokenOff, type SidecarConnection } from "./sidecar-connection.ts";
import { toWireMessage } from "./wire-messages.ts";

/** A message on its way. */
interface Entry {
  readonly request: PublishRequest;
  readonly resolve: () => void;
  readonly reject: (error: AppError) => void;
  readonly startedMs: number;
  readonly expiresAtMs: number | undefined;
}

type Stream = DuplexCall<PublishRequest, PublishResponse>;

/** How long a message waits for a bus that takes nothing, while the sidecar says so. */
const MAX_BLOCKED_MS = 600_000;
const CHECK_MS = 200;

/** Beyond a body of 1 MiB, headers and names may have so much. */
const MAX_HEADER_BYTES = MAX_RPC_MESSAGE_BYTES / 2;

/**
 * States of a message: waiting (the stream is not there, or the sidecar reads no further) → sent → confirmed or failed. When the
 * stream breaks, what was sent fails with `unavailable`, and what waits goes out on the next stream, in its order.
 *
 * A message fails, in either state, when nothing has been heard from the sidecar for the deadline. As long as it says that the bus
 * takes its time (a broker that has blocked publishers), a message waits, up to its own end or {@link MAX_BLOCKED_MS}.
 */
export class SidecarPublisher {
  readonly #connection: SidecarConnection;
  readonly #waiting = new Map<bigint, Entry>();
  readonly #sent = new Map<bigint, Entry>();
  readonly #closing = new AbortController();
  #lastNumber = 0n;
  #lastHeardMs = 0;
  #checking: NodeJS.Timeout | undefined;
  #run: Promise<void> | undefined;
  #onMore: (() => void) | undefined;
  #onIdle: (() => void) | undefined;

  constructor(connection: SidecarConnection) {
    this.#connection = connection;
  }

  /** Begins the stream, which also tells the sidecar that somebody is there. */
  open(): void {
    this.#run ??= this.#keepOpen();
  }

  /** See the port. */
  publish(queue: string, message: OutgoingMessage): Promise<void> {
    checkHeaders(message);
    const number = ++this.#lastNumber;
    const request = create(PublishRequestSchema, { number, queue, message: toWireMessage(message) });
    return new Promise((resolve, reject) => {
      const startedMs = this.#connection.clock.now();
      this.#waiting.set(number, { request, resolve, reject, startedMs, expiresAtMs: message.expiresAtMs });
      this.#checking ??= setInterval(() => this.#checkDeadlines(), CHECK_MS);
      this.open();
      this.#onMore?.();
    });
  }

  /** Resolves when everything is confirmed or has failed, and the stream has ended. */
  async close(): Promise<void> {
    while (this.#waiting.size + this.#sent.size > 0) await new Promise<void>((resolve) => (this.#onIdle = resolve));
    this.#closing.abort();
    this.#onMore?.();
    await this.#run;
  }

  async #keepOpen(): Promise<void> {
    const { signal } = this.#closing;
    const { client, clock } = this.#connection;
    const backoff = new Backoff(clock);
    while (!signal.aborted) {
      try {
        const stream = await client.duplex(MessagingService.method.publish, { signal });
        await this.#serve(stream, backoff);
      } catch (error) {
        this.#failSent(toAppError(error));
      }
      // Aborted: the end.
      await backoff.wait(signal).catch(() => undefined);
    }
  }

  /** Sends what waits, and takes the answers, until the stream is over. */
  async #serve(stream: Stream, backoff: Backoff): Promise<void> {
    const over = new AbortController();
    const sending = this.#sendAll(stream, over.signal);
    try {
      for await (const answer of stream.responses) {
        backoff.reset();
        this.#answer(answer);
      }
      this.#failSent(new AppError("job_failed", "The sidecar ended the stream."));
    } finally {
      over.abort();
      this.#onMore?.();
      await sending;
    }
  }

  async #sendAll(stream: Stream, over: AbortSignal): Promise<void> {
    while (!over.aborted && !this.#closing.signal.aborted) {
      const [next] = this.#waiting;
      if (next === undefined) {
        await new Promise<void>((resolve) => (this.#onMore = resolve));
        continue;
      }
      const [number, entry] = next;
      this.#waiting.delete(number);
      this.#sent.set(number, entry);
      await stream.write(entry.request);
    }
  }

  #answer({ number, failure }: PublishResponse): void {
    this.#lastHeardMs = this.#connection.clock.now();
    const entry = this.#take(number);
    if (failure === undefined) entry?.resolve();
    else entry?.reject(fromFailureMessage(failure));
  }

  #checkDeadlines(): void {
    const { clock, name, deadlineMs } = this.#connection;
    const now = clock.now();
    for (const [number, { startedMs, expiresAtMs = Infinity }] of [...this.#sent, ...this.#waiting]) {
      const isSilent = now >= Math.max(startedMs, this.#lastHeardMs) + deadlineMs;
      const isOver = now >= Math.max(startedMs + deadlineMs, Math.min(startedMs + MAX_BLOCKED_MS, expiresAtMs));
      if (isSilent || isOver) this.#take(number)?.reject(unconfirmed(name, now - startedMs));
    }
  }

  #failSent(cause: AppError): void {
    for (const number of [...this.#sent.keys()]) this.#take(number)?.reject(brokenOff(this.#connection.name, cause));
  }

  /** Forgets a message; undefined when its deadline was first. */
  #take(number: bigint): Entry | undefined {
    const entry = this.#sent.get(number) ?? this.#waiting.get(number);
    this.#sent.delete(number);
    this.#waiting.delete(number);
    if (this.#waiting.size + this.#sent.size === 0) {
      clearInterval(this.#checking);
      this.#checking = undefined;
      this.#onIdle?.();
    }
    return entry;
  }
}

function unconfirmed(name: string, afterMs: number): AppError {
  return new AppError(
    "unavailable",
    `${name} did not confirm a message within ${afterMs} ms: it may or may not be in the queue.`,
  );
}

/** One message that is too large for the transport would end the stream of all. */
function checkHeaders({ type, headers = {} }: OutgoingMessage): void {
  const bytes = Object.entries(headers).reduce((sum, pair) => sum + Buffer.byteLength(pair.join("")) + 16, 0);
  if (bytes <= MAX_HEADER_BYTES) return;
  throw new AppError(
    "message_too_large",
    `The headers of a message of type "${type}" have ${bytes} bytes; the limit is ${MAX_HEADER_BYTES}.`,
    { details: { limit: MAX_HEADER_BYTES } },
  );
}
