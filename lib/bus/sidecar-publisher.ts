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
import { Backoff, brokenOff, unreachable, type SidecarConnection } from "./sidecar-connection.ts";
import { toWireMessage } from "./wire-messages.ts";

/** A message on its way. */
interface Entry {
  readonly request: PublishRequest;
  readonly resolve: () => void;
  readonly reject: (error: AppError) => void;
  readonly timer: NodeJS.Timeout;
}

type Stream = DuplexCall<PublishRequest, PublishResponse>;

/** Beyond a body of 1 MiB, headers and names may have so much. */
const MAX_HEADER_BYTES = MAX_RPC_MESSAGE_BYTES / 2;

/**
 * States of a message: waiting (the stream is not there, or the sidecar reads no further) → sent → confirmed or failed. When the
 * stream breaks, what was sent fails with `unavailable`, and what waits goes out on the next stream, in its order. A message that
 * is not confirmed by its deadline fails, in either state.
 */
export class SidecarPublisher {
  readonly #connection: SidecarConnection;
  readonly #waiting = new Map<bigint, Entry>();
  readonly #sent = new Map<bigint, Entry>();
  readonly #closing = new AbortController();
  #lastNumber = 0n;
  #run: Promise<void> | undefined;
  #onMore: (() => void) | undefined;
  #onLess: (() => void) | undefined;

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
    const { name, deadlineMs } = this.#connection;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#take(number)?.reject(
          unreachable(name, deadlineMs, new AppError("deadline_exceeded", "No confirm came.")),
        );
      }, deadlineMs);
      this.#waiting.set(number, { request, resolve, reject, timer });
      this.open();
      this.#onMore?.();
    });
  }

  /** Resolves when everything is confirmed or has failed, and the stream has ended. */
  async close(): Promise<void> {
    while (this.#waiting.size + this.#sent.size > 0) await new Promise<void>((resolve) => (this.#onLess = resolve));
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
    const entry = this.#take(number);
    if (failure === undefined) entry?.resolve();
    else entry?.reject(fromFailureMessage(failure));
  }

  #failSent(cause: AppError): void {
    for (const number of [...this.#sent.keys()]) this.#take(number)?.reject(brokenOff(this.#connection.name, cause));
  }

  /** Forgets a message; undefined when its deadline was first. */
  #take(number: bigint): Entry | undefined {
    const entry = this.#sent.get(number) ?? this.#waiting.get(number);
    this.#sent.delete(number);
    this.#waiting.delete(number);
    clearTimeout(entry?.timer);
    if (this.#waiting.size + this.#sent.size === 0) this.#onLess?.();
    return entry;
  }
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
