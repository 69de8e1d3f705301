/**
 * Small streams of many runs by one call (`whole_streams.proto`): a call of its own costs six times what handing on a small stream
 * in one message does, so in a chain of many runs those that are whole in one message (`frame-groups.ts`) share one.
 *
 * {@link SharedStreams} sends, {@link WholeStreams} takes. To who takes a stream it makes no difference how it came.
 */
import { create } from "@bufbuild/protobuf";
import { AppError, toAppError } from "../errors.ts";
import { parseTraceContext, traceHeaders } from "../telemetry/trace-context.ts";
import type { CallOptions, RpcClient } from "./client.ts";
import type { DuplexCall } from "./duplex-call.ts";
import { isLast, separated } from "./frame-groups.ts";
import { fromFailureMessage, toFailureMessage } from "./frames.ts";
import type { StreamReceipt } from "./gen/dynamos/v1/microservice_pb.ts";
import type { Failure, Frame } from "./gen/dynamos/v1/stream_pb.ts";
import {
  WholeStreamAnswerSchema,
  WholeStreamSchema,
  WholeStreamsService,
  type WholeStream,
  type WholeStreamAnswer,
} from "./gen/dynamos/v1/whole_streams_pb.ts";
import { implement, type CallContext, type Implementation } from "./service.ts";

/** Numbers of streams: an unsigned integer of 32 bits. */
const MAX_NUMBER = 2 ** 32 - 1;

/** A call that ends as soon as it was opened is opened again, but not for ever. */
const MOST_OPENS = 3;

/** Whether frames in one message are a stream from its start to its end. */
export function isWhole(frames: readonly Frame[]): boolean {
  const last = frames.at(-1);
  return frames[0]?.body.case === "start" && last !== undefined && isLast(last);
}

type Call = DuplexCall<WholeStream, WholeStreamAnswer>;

/** A stream that waits for its answer. */
interface Waiting {
  readonly resolve: (receipt: StreamReceipt) => void;
  readonly reject: (error: AppError) => void;
}

/** The sender's side: one call of a client, opened when it is first needed, and anew where it broke. */
export class SharedStreams {
  readonly #client: RpcClient;
  readonly #waiting = new Map<number, Waiting>();
  #opening: Promise<Call> | undefined;
  /** Open, and not ended as far as is known: whoever waits in it hears of its end. */
  #call: Call | undefined;
  #lastNumber = 0;

  constructor(client: RpcClient) {
    this.#client = client;
  }

  /**
   * Sends a stream that is whole in one message, and resolves with the answer.
   *
   * @throws AppError as `RpcClient.stream`, but for the deadline, which whoever takes the stream is only told.
   */
  async send(frames: Frame, options: CallOptions): Promise<StreamReceipt> {
    const { signal, deadlineMs = 0, trace } = options;
    for (let opens = 0; this.#call === undefined; opens++) {
      if (opens === MOST_OPENS) throw this.#ended();
      // For as long as this stream may wait: the call is everybody's, and knows of nobody's limits.
      await this.#client.ready(options);
      await this.#open();
    }
    const call = this.#call;
    if (signal?.aborted) throw toAppError(signal.reason);
    const number = this.#nextNumber();
    let onAbort = (): void => undefined;
    const answer = new Promise<StreamReceipt>((resolve, reject) => {
      this.#waiting.set(number, { resolve, reject });
      onAbort = () => {
        const reason = toAppError(signal?.reason);
        reject(reason);
        const cancel = { case: "cancel" as const, value: toFailureMessage(reason) };
        void call.write(create(WholeStreamSchema, { number, body: cancel }));
      };
    });
    signal?.addEventListener("abort", onAbort, { once: true });
    try {
      const body = { case: "frames" as const, value: frames };
      const headers = trace === undefined ? {} : traceHeaders(trace);
      // Whether it got there the answer says, or the call's end.
      void call.write(
        create(WholeStreamSchema, { number, body, deadlineMs: BigInt(Math.ceil(deadlineMs)), ...headers }),
      );
      return await answer;
    } finally {
      signal?.removeEventListener("abort", onAbort);
      this.#waiting.delete(number);
    }
  }

  #nextNumber(): number {
    do this.#lastNumber = this.#lastNumber >= MAX_NUMBER ? 1 : this.#lastNumber + 1;
    while (this.#waiting.has(this.#lastNumber));
    return this.#lastNumber;
  }

  #open(): Promise<Call> {
    if (this.#opening !== undefined) return this.#opening;
    const opened = this.#client.duplex(WholeStreamsService.method.take, { signal: this.#client.closed });
    this.#opening = opened;
    opened.then(
      (call) => {
        this.#call = call;
        void this.#read(call);
      },
      () => (this.#opening = undefined),
    );
    return opened;
  }

  async #read(call: Call): Promise<void> {
    let ended = this.#ended();
    try {
      for await (const { number, outcome } of call.responses) {
        const waiting = this.#waiting.get(number);
        if (outcome.case === "receipt") waiting?.resolve(outcome.value);
        else if (outcome.case === "failure") waiting?.reject(failureOf(outcome.value));
      }
    } catch (error) {
      ended = toAppError(error);
    }
    this.#call = undefined;
    this.#opening = undefined;
    call.cancel();
    for (const { reject } of this.#waiting.values()) reject(ended);
  }

  #ended(): AppError {
    return new AppError("job_failed", "The element after this one ended the call that runs share.");
  }
}

/** Takes one stream, and answers once. */
type TakeStream = (frames: AsyncIterable<Frame>, context: CallContext) => Promise<StreamReceipt>;

/** The taker's side. */
export class WholeStreams {
  readonly #take: TakeStream;
  readonly #calls = new Set<TakenCall>();
  #isClosed = false;

  /** @param take what `Process` or `Output` does with a stream. */
  constructor(take: TakeStream) {
    this.#take = take;
  }

  /** For the server. */
  get implementation(): Implementation {
    return implement(WholeStreamsService, { take: (streams, context) => this.#answers(streams, context) });
  }

  /** Ends the calls, each when what came by it is answered: a server that closes need not wait for who made them. */
  close(): void {
    this.#isClosed = true;
    for (const call of this.#calls) call.endWhenIdle();
  }

  async *#answers(streams: AsyncIterable<WholeStream>, context: CallContext): AsyncGenerator<WholeStreamAnswer> {
    const call = new TakenCall(this.#take, context.signal);
    this.#calls.add(call);
    try {
      if (this.#isClosed) return;
      void call.read(streams);
      yield* call.answers();
    } finally {
      this.#calls.delete(call);
      call.end();
    }
  }
}

/** One call that comes in: its streams under way, and the answers that are ready. */
class TakenCall {
  readonly #take: TakeStream;
  readonly #running = new Map<number, AbortController>();
  readonly #ready: WholeStreamAnswer[] = [];
  #isEnded = false;
  #isEnding = false;
  #wake: () => void = () => undefined;

  constructor(take: TakeStream, signal: AbortSignal) {
    this.#take = take;
    signal.addEventListener("abort", () => this.end(toAppError(signal.reason)), { once: true });
  }

  /** Takes what comes, until the sender has no more. */
  async read(streams: AsyncIterable<WholeStream>): Promise<void> {
    try {
      for await (const stream of streams) this.#came(stream);
      this.end();
    } catch (error) {
      this.end(toAppError(error));
    }
  }

  /** Until the end. */
  async *answers(): AsyncGenerator<WholeStreamAnswer> {
    for (;;) {
      for (let next = this.#ready.shift(); next !== undefined; next = this.#ready.shift()) yield next;
      if (this.#isEnded || (this.#isEnding && this.#running.size === 0)) return;
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }

  endWhenIdle(): void {
    this.#isEnding = true;
    this.#wake();
  }

  /** What is under way has lost its sender. */
  end(reason: AppError = new AppError("cancelled", "The element before ended the call that runs shared.")): void {
    this.#isEnded = true;
    for (const aborting of this.#running.values()) aborting.abort(reason);
    this.#wake();
  }

  #came({ number, body, deadlineMs, ...headers }: WholeStream): void {
    if (body.case === "cancel") this.#running.get(number)?.abort(failureOf(body.value));
    if (body.case !== "frames" || this.#isEnded) return;
    if (this.#running.has(number)) {
      this.end(new AppError("data_invalid", "The element before gave two streams at a time one number."));
      return;
    }
    const aborting = new AbortController();
    this.#running.set(number, aborting);
    const context: CallContext = {
      signal: aborting.signal,
      deadlineMs: deadlineMs === 0n ? undefined : Number(deadlineMs),
      trace: parseTraceContext({ traceparent: headers.traceparent, tracestate: headers.tracestate }),
    };
    this.#take(inOrder(body.value), context).then(
      (receipt) => this.#answer(number, { case: "receipt", value: receipt }),
      (error: unknown) => this.#answer(number, { case: "failure", value: toFailureMessage(error) }),
    );
  }

  #answer(number: number, outcome: WholeStreamAnswer["outcome"]): void {
    this.#running.delete(number);
    this.#ready.push(create(WholeStreamAnswerSchema, { number, outcome }));
    this.#wake();
  }
}

/** What is wrong with one stream's message is that stream's failure, and not the call's. */
async function* inOrder(message: Frame): AsyncGenerator<Frame> {
  yield* separated(message);
}

/** The failure that a message tells, or why it cannot be read: of one stream, either way. */
function failureOf(message: Failure): AppError {
  try {
    return fromFailureMessage(message);
  } catch (error) {
    return toAppError(error);
  }
}
