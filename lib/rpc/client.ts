/**
 * A typed client for a service on localhost.
 *
 * Back-pressure: one message is under way at a time; the source is asked for the next when the transport has taken this
 * one. Connecting is tried again, up to a limit, because the other program may still be starting; a call that has begun is
 * never repeated.
 */
import { create, type DescMessage, type DescService, type MessageShape } from "@bufbuild/protobuf";
import { Client, credentials, Metadata, type ClientWritableStream, type ServiceError } from "@grpc/grpc-js";
import { systemClock, type Clock } from "../clock.ts";
import { AppError, toAppError } from "../errors.ts";
import { traceHeaders, type TraceContext } from "../telemetry/trace-context.ts";
import { MAX_RPC_MESSAGE_BYTES } from "./server.ts";
import { methodDefinition } from "./service.ts";
import { fromGrpcStatus } from "./status.ts";

/** Where a client connects to. */
export interface RpcClientOptions {
  /** On 127.0.0.1. */
  readonly port: number;
  /** What is there, for error messages: `sql-algorithm`, `the sidecar`. */
  readonly peer: string;
  /** How long the other side may take to start listening; default 20,000 ms. */
  readonly connectLimitMs?: number;
  readonly clock?: Clock;
}

/** One call. */
export interface CallOptions {
  /** Cancels the call with the signal's reason. */
  readonly signal?: AbortSignal;
  /** Absolute (ms since the epoch). */
  readonly deadlineMs?: number | undefined;
  readonly trace?: TraceContext | undefined;
}

/** A client-streaming method with its message types. */
export type StreamingMethod<Input extends DescMessage, Output extends DescMessage> = DescService["methods"][number] & {
  readonly methodKind: "client_streaming";
  readonly input: Input;
  readonly output: Output;
};

/** A connection to one program; see the file comment. */
export class RpcClient {
  readonly #client: Client;
  readonly #peer: string;
  readonly #connectLimitMs: number;
  readonly #clock: Clock;

  constructor(options: RpcClientOptions) {
    this.#peer = `${options.peer} (port ${options.port})`;
    this.#connectLimitMs = options.connectLimitMs ?? 20_000;
    this.#clock = options.clock ?? systemClock;
    this.#client = new Client(`127.0.0.1:${options.port}`, credentials.createInsecure(), {
      "grpc.max_receive_message_length": MAX_RPC_MESSAGE_BYTES,
      "grpc.max_send_message_length": MAX_RPC_MESSAGE_BYTES,
      "grpc.initial_reconnect_backoff_ms": 20,
      "grpc.max_reconnect_backoff_ms": 200,
      // Each program has its own connections, and buffering for retries would hide the reader's pace.
      "grpc.use_local_subchannel_pool": 1,
      "grpc.enable_retries": 0,
      "grpc.per_rpc_retry_buffer_size": 0,
    });
  }

  /** Begins connecting, so that the first call finds the connection there. */
  connectAhead(): void {
    this.#client.getChannel().getConnectivityState(true);
  }

  /**
   * Sends a stream and resolves with the answer. The source is closed (`return`) whatever happens.
   *
   * @throws AppError as the other side threw it; what the source throws, after cancelling the call; the signal's reason;
   * `job_failed` when the other side does not start within its limit or goes away; `deadline_exceeded`.
   */
  async stream<Input extends DescMessage, Output extends DescMessage>(
    method: StreamingMethod<Input, Output>,
    source: AsyncIterable<MessageShape<Input>>,
    options: CallOptions = {},
  ): Promise<MessageShape<Output>> {
    const { signal } = options;
    await this.#connected(options).catch((error: unknown) => {
      leave(source[Symbol.asyncIterator]());
      throw error;
    });
    const { path, requestSerialize, responseDeserialize } = methodDefinition<Input, Output>(method);
    const call = new Call<MessageShape<Input>, MessageShape<Output>>(this.#peer);
    call.writable = this.#client.makeClientStreamRequest(
      path,
      requestSerialize,
      responseDeserialize,
      traceMetadata(options.trace),
      options.deadlineMs === undefined ? {} : { deadline: options.deadlineMs },
      (error, answer) => call.settle(error, answer),
    );
    const onAbort = (): void => call.abort(toAppError(signal?.reason));
    signal?.addEventListener("abort", onAbort, { once: true });
    if (signal?.aborted) onAbort();
    try {
      const [answer] = await Promise.all([call.answer, call.send(source)]);
      return answer ?? create(method.output);
    } finally {
      signal?.removeEventListener("abort", onAbort);
    }
  }

  /** Ends the connection; calls under way fail. */
  close(): void {
    this.#client.close();
  }

  #connected({ signal, deadlineMs = Infinity }: CallOptions): Promise<void> {
    const limit = Math.min(this.#clock.now() + this.#connectLimitMs, deadlineMs);
    return new Promise((resolve, reject) => {
      if (signal?.aborted) return reject(toAppError(signal.reason));
      const onAbort = (): void => reject(toAppError(signal?.reason));
      signal?.addEventListener("abort", onAbort, { once: true });
      this.#client.waitForReady(limit, (error) => {
        signal?.removeEventListener("abort", onAbort);
        if (error === undefined) resolve();
        else reject(this.#unreachable(error, limit === deadlineMs));
      });
    });
  }

  #unreachable(cause: Error, isDeadline: boolean): AppError {
    if (isDeadline)
      return new AppError("deadline_exceeded", `${this.#peer} had not started by the deadline.`, { cause });
    return new AppError("job_failed", `${this.#peer} did not start listening within ${this.#connectLimitMs} ms.`, {
      cause,
    });
  }
}

/** One call's two ends: the answer, and the writing. Whichever fails first ends the other. */
class Call<Input, Output> {
  readonly answer: Promise<Output | undefined>;
  writable!: ClientWritableStream<Input>;
  readonly #peer: string;
  readonly #over = new AbortController();
  #resolve!: (answer: Output | undefined) => void;
  #reject!: (error: AppError) => void;
  #abortedBy: AppError | undefined;

  constructor(peer: string) {
    this.#peer = peer;
    this.answer = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
  }

  /** The other side answered, or the call failed. */
  settle(error: ServiceError | null, answer: Output | undefined): void {
    if (error === null) this.#resolve(answer);
    else this.#reject(this.#abortedBy ?? fromGrpcStatus(error, this.#peer));
    this.#over.abort();
  }

  /** Cancels the call; it fails with `error`. */
  abort(error: AppError): void {
    this.#abortedBy ??= error;
    this.writable.cancel();
  }

  /** Writes what the source yields until it ends or the call is over. What the source throws becomes the call's error. */
  async send(source: AsyncIterable<Input>): Promise<void> {
    const iterator = source[Symbol.asyncIterator]();
    try {
      for (;;) {
        const next = await this.#unlessOver(iterator.next());
        if (next === undefined) break;
        if (next.done === true) {
          this.writable.end();
          return;
        }
        await this.#unlessOver(this.#write(next.value));
      }
      leave(iterator);
    } catch (error) {
      this.abort(toAppError(error));
    }
  }

  #write(message: Input): Promise<void> {
    return new Promise((resolve) => {
      // A failed write ends the call, which says why.
      this.writable.write(message, () => resolve());
    });
  }

  /** What the work comes to, or undefined when the call is over first. */
  #unlessOver<T>(work: Promise<T>): Promise<T | undefined> {
    const { signal } = this.#over;
    if (signal.aborted) return Promise.resolve(undefined);
    return new Promise((resolve, reject) => {
      const onOver = (): void => resolve(undefined);
      signal.addEventListener("abort", onOver, { once: true });
      work.then(resolve, reject).finally(() => signal.removeEventListener("abort", onOver));
    });
  }
}

/** Tells a source that nobody reads on. */
function leave(iterator: AsyncIterator<unknown>): void {
  // Not awaited: a generator in the middle of its own waiting ends when that does. Its errors come too late to count.
  void iterator.return?.().catch(() => undefined);
}

function traceMetadata(trace: TraceContext | undefined): Metadata {
  const metadata = new Metadata();
  if (trace !== undefined) for (const [name, value] of Object.entries(traceHeaders(trace))) metadata.set(name, value);
  return metadata;
}
