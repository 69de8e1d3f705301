/** Request and reply over the bus: a question goes to a shared queue, its answer to the one process that waits for it. */

import { randomUUID } from "node:crypto";
import { systemClock, type Clock } from "../clock.ts";
import { AppError, toAppError } from "../errors.ts";
import { OVER } from "../over.ts";
import type { Consumer, Delivery, MessageBus, MessageHeaders, OutgoingMessage } from "./message-bus.ts";

/** How a call is made. */
export interface CallOptions {
  /** Milliseconds to wait for the answer. Default 10,000; `deadlineMs` wins where both are given and it is earlier. */
  readonly timeoutMs?: number;
  /** Absolute end of waiting, ms since the epoch. */
  readonly deadlineMs?: number;
  readonly signal?: AbortSignal;
  readonly headers?: MessageHeaders;
  /** How long the question itself is worth something, beyond its answer: it is delivered until then. Default: as long as somebody waits. */
  readonly expiresAtMs?: number;
  /** Default: a new UUID. A repeated call under the same id reaches a callee that does its work once. */
  readonly messageId?: string;
  /** What the call fails with when no answer comes in time. Default: `deadline_exceeded` naming queue, type and time. */
  readonly timeoutError?: () => AppError;
}

/** Who calls. */
export interface RpcClientOptions {
  /** This instance's reply queue, see `instanceReplyQueue`; declared as a run queue, deleted by `close`. */
  readonly replyQueue: string;
  readonly clock?: Clock;
}

interface PendingCall {
  readonly resolve: (answer: Delivery) => void;
  readonly reject: (error: unknown) => void;
}

const DEFAULT_TIMEOUT_MS = 10_000;

/**
 * Makes calls and holds who waits for what. The reply queue is opened with the first call, and again with the next one
 * after it was lost; calls that were waiting then fail with `unavailable`. An answer that nobody waits for any more
 * (late, repeated, cancelled) is accepted and dropped: its caller has been told the outcome already.
 */
export class RpcClient {
  readonly #bus: MessageBus;
  readonly #replyQueue: string;
  readonly #clock: Clock;
  readonly #pending = new Map<string, PendingCall>();
  #consumer: Promise<Consumer> | undefined;
  #isClosed = false;

  constructor(bus: MessageBus, options: RpcClientOptions) {
    this.#bus = bus;
    this.#replyQueue = options.replyQueue;
    this.#clock = options.clock ?? systemClock;
  }

  /** How many calls wait for an answer. */
  get pendingCalls(): number {
    return this.#pending.size;
  }

  /**
   * Sends a message and resolves with its answer. Fails with `not_found` when there is no such queue, with
   * `timeoutError` when no answer came in time, with the signal's reason (`cancelled`) when aborted. The question
   * expires then, so that nobody works on it afterwards, unless `expiresAtMs` says otherwise.
   */
  async call(queue: string, type: string, body: Uint8Array, options: CallOptions = {}): Promise<Delivery> {
    const now = this.#clock.now();
    const waitUntilMs = Math.floor(
      Math.min(now + (options.timeoutMs ?? DEFAULT_TIMEOUT_MS), options.deadlineMs ?? Number.POSITIVE_INFINITY),
    );
    const correlationId = randomUUID();
    const stop = new AbortController();
    const question: OutgoingMessage = {
      type,
      body,
      correlationId,
      replyTo: this.#replyQueue,
      expiresAtMs: options.expiresAtMs ?? waitUntilMs,
      ...(options.headers === undefined ? {} : { headers: options.headers }),
      ...(options.messageId === undefined ? {} : { messageId: options.messageId }),
    };
    const timeoutError =
      options.timeoutError ??
      (() =>
        new AppError("deadline_exceeded", `No answer to "${type}" from "${queue}" within ${waitUntilMs - now} ms.`));
    try {
      return await new Promise<Delivery>((resolve, reject) => {
        this.#pending.set(correlationId, { resolve, reject });
        this.#send(queue, question).catch(reject);
        this.#rejectAfter(waitUntilMs - now, timeoutError, stop.signal, reject);
        rejectWhenAborted(options.signal, stop.signal, reject);
      });
    } finally {
      stop.abort(OVER);
      this.#pending.delete(correlationId);
    }
  }

  async #send(queue: string, question: OutgoingMessage): Promise<void> {
    await this.#open();
    // The time may have passed, or the caller gone, while the reply queue was being opened.
    if (this.#pending.has(question.correlationId ?? "")) await this.#bus.publish(queue, question);
  }

  #rejectAfter(ms: number, error: () => AppError, stop: AbortSignal, reject: (error: unknown) => void): void {
    this.#clock.sleep(Math.max(0, ms), stop).then(
      () => reject(error()),
      // The call has ended, and with it this wait.
      () => undefined,
    );
  }

  /** Waiting calls fail with `unavailable`; the reply queue goes. */
  async close(): Promise<void> {
    this.#isClosed = true;
    this.#failPending(new AppError("unavailable", `The caller behind "${this.#replyQueue}" was closed.`));
    const consumer = this.#consumer;
    if (consumer === undefined) return;
    this.#consumer = undefined;
    await (await consumer).close();
    await this.#bus.deleteQueue(this.#replyQueue);
  }

  /** The consumer of the reply queue, opened when there is none. */
  async #open(): Promise<void> {
    if (this.#isClosed) throw new AppError("unavailable", `The caller behind "${this.#replyQueue}" was closed.`);
    this.#consumer ??= this.#consume();
    try {
      await this.#consumer;
    } catch (error) {
      this.#consumer = undefined;
      throw error;
    }
  }

  async #consume(): Promise<Consumer> {
    await this.#bus.declareQueue(this.#replyQueue, { kind: "run" });
    return this.#bus.consume(this.#replyQueue, (answer) => this.#receive(answer), {
      onLost: (error) => this.#lost(error),
    });
  }

  async #receive(answer: Delivery): Promise<"accept"> {
    this.#pending.get(answer.correlationId ?? "")?.resolve(answer);
    return "accept";
  }

  #lost(cause: Error): void {
    this.#consumer = undefined;
    this.#failPending(
      new AppError("unavailable", `The reply queue "${this.#replyQueue}" was lost while waiting.`, { cause }),
    );
  }

  #failPending(error: AppError): void {
    for (const call of this.#pending.values()) call.reject(error);
  }
}

function rejectWhenAborted(signal: AbortSignal | undefined, stop: AbortSignal, reject: (error: unknown) => void): void {
  if (signal === undefined) return;
  const abort = (): void => reject(toAppError(signal.reason ?? new DOMException("Aborted", "AbortError")));
  if (signal.aborted) abort();
  else signal.addEventListener("abort", abort, { once: true, signal: stop });
}

/**
 * Answers a question at its `replyTo`, tied to it by its `correlationId`. False when nobody is there to hear it: the
 * question named no reply queue, or that is gone with its caller.
 */
export async function reply(
  bus: MessageBus,
  question: Delivery,
  answer: Pick<OutgoingMessage, "type" | "body" | "headers">,
): Promise<boolean> {
  if (question.replyTo === undefined) return false;
  const correlation = question.correlationId === undefined ? {} : { correlationId: question.correlationId };
  try {
    await bus.publish(question.replyTo, { ...answer, ...correlation });
    return true;
  } catch (error) {
    if (error instanceof AppError && error.code === "not_found") return false;
    throw error;
  }
}
