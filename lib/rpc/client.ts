/**
 * A typed client for a service on this machine or in this pod.
 *
 * Back-pressure: of a client stream, one message is under way at a time; the source is asked for the next when the transport
 * has taken this one. Connecting is tried again, up to a limit, because the other program may still be starting; a call that
 * has begun is never repeated.
 */
import { create, type DescMessage, type MessageInitShape, type MessageShape } from "@bufbuild/protobuf";
import {
  Client,
  connectivityState,
  credentials,
  Metadata,
  type ClientWritableStream,
  type ServiceError,
} from "@grpc/grpc-js";
import { systemClock, type Clock } from "../clock.ts";
import { AppError, toAppError } from "../errors.ts";
import { traceHeaders, type TraceContext } from "../telemetry/trace-context.ts";
import { formatRpcAddress, type RpcAddress } from "./address.ts";
import { DuplexCall } from "./duplex-call.ts";
import { MAX_RPC_MESSAGE_BYTES } from "./server.ts";
import { methodDefinition, type Method } from "./service.ts";
import { fromGrpcStatus } from "./status.ts";

/** Where a client connects to. */
export type RpcClientOptions = RpcAddress & {
  /** What is there, for error messages: `sql-algorithm`, `the sidecar`. */
  readonly peer: string;
  /** How long the other side may take to start listening; default 20,000 ms. */
  readonly connectLimitMs?: number;
  /** How long the other side may be silent before it is asked for a sign of life, which it must give in the same time. Default: never. */
  readonly keepaliveMs?: number;
  readonly clock?: Clock;
};

/** One call. */
export interface CallOptions {
  /** Cancels the call with the signal's reason. */
  readonly signal?: AbortSignal;
  /** Absolute (ms since the epoch). */
  readonly deadlineMs?: number | undefined;
  readonly trace?: TraceContext | undefined;
  /** How long the other side may take to start listening; default: the client's limit. */
  readonly connectLimitMs?: number;
  /** Told the other side's initial metadata, once, when they come. Of streams. */
  readonly onMetadata?: (metadata: Metadata) => void;
}

/** A method of one kind with its message types. */
type MethodOfKind<Kind extends string, Input extends DescMessage, Output extends DescMessage> = Method<
  Input,
  Output
> & { readonly methodKind: Kind };

/** A client-streaming method with its message types. */
export type StreamingMethod<Input extends DescMessage, Output extends DescMessage> = MethodOfKind<
  "client_streaming",
  Input,
  Output
>;

/** A unary method with its message types. */
export type UnaryMethod<Input extends DescMessage, Output extends DescMessage> = MethodOfKind<"unary", Input, Output>;

/** A connection to one program; see the file comment. */
export class RpcClient {
  readonly #client: Client;
  readonly #peer: string;
  readonly #connectLimitMs: number;
  readonly #clock: Clock;
  readonly #closing = new AbortController();

  constructor(options: RpcClientOptions) {
    const place = "port" in options ? `port ${options.port}` : options.socketPath;
    this.#peer = `${options.peer} (${place})`;
    this.#connectLimitMs = options.connectLimitMs ?? 20_000;
    this.#clock = options.clock ?? systemClock;
    const { keepaliveMs } = options;
    this.#client = new Client(formatRpcAddress(options), credentials.createInsecure(), {
      "grpc.max_receive_message_length": MAX_RPC_MESSAGE_BYTES,
      "grpc.max_send_message_length": MAX_RPC_MESSAGE_BYTES,
      // The parts of a chain start at once, and each waits for the next one to listen: it is to be found soon after it does.
      "grpc.initial_reconnect_backoff_ms": 10,
      "grpc.max_reconnect_backoff_ms": 40,
      // Each program has its own connections, and buffering for retries would hide the reader's pace.
      "grpc.use_local_subchannel_pool": 1,
      "grpc.enable_retries": 0,
      // Nobody asks; each call would be noted.
      "grpc.enable_channelz": 0,
      "grpc.per_rpc_retry_buffer_size": 0,
      ...(keepaliveMs === undefined
        ? {}
        : { "grpc.keepalive_time_ms": keepaliveMs, "grpc.keepalive_timeout_ms": keepaliveMs }),
    });
  }

  /** Begins connecting, so that the first call finds the connection there. */
  connectAhead(): void {
    this.#client.getChannel().getConnectivityState(true);
  }

  /**
   * Resolves when the connection is there.
   *
   * @throws AppError as {@link stream} does before it sends anything.
   */
  ready(options: CallOptions = {}): Promise<void> {
    return this.#connected(options);
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
      grpcOptions(options),
      (error, answer) => call.settle(error, answer),
    );
    if (options.onMetadata !== undefined) call.writable.once("metadata", options.onMetadata);
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

  /**
   * Sends one request, and resolves with its answer.
   *
   * @throws AppError as {@link stream} does.
   */
  async unary<Input extends DescMessage, Output extends DescMessage>(
    method: UnaryMethod<Input, Output>,
    request: MessageInitShape<Input>,
    options: CallOptions = {},
  ): Promise<MessageShape<Output>> {
    const { signal } = options;
    await this.#connected(options);
    const { path, requestSerialize, responseDeserialize } = methodDefinition<Input, Output>(method);
    return new Promise((resolve, reject) => {
      const onAbort = (): void => {
        call.cancel();
        reject(toAppError(signal?.reason));
      };
      const call = this.#client.makeUnaryRequest(
        path,
        requestSerialize,
        responseDeserialize,
        create(method.input, request),
        traceMetadata(options.trace),
        grpcOptions(options),
        (error, answer) => {
          signal?.removeEventListener("abort", onAbort);
          if (error === null) resolve(answer ?? create(method.output));
          else reject(fromGrpcStatus(error, this.#peer));
        },
      );
      signal?.addEventListener("abort", onAbort, { once: true });
      if (signal?.aborted) onAbort();
    });
  }

  /**
   * Sends one request; the answers are pulled. Leaving their iteration cancels the call.
   *
   * @throws AppError as {@link stream} does, from the iteration.
   */
  async *serverStream<Input extends DescMessage, Output extends DescMessage>(
    method: MethodOfKind<"server_streaming", Input, Output>,
    request: MessageInitShape<Input>,
    options: CallOptions = {},
  ): AsyncGenerator<MessageShape<Output>> {
    const call = await this.#duplex<Input, Output>(method, options);
    try {
      await call.write(create(method.input, request));
      call.end();
      yield* call.responses;
    } finally {
      call.cancel();
    }
  }

  /**
   * Opens a call whose two directions are independent; resolves once there is a connection.
   *
   * @throws AppError when there is none, as {@link stream} does.
   */
  duplex<Input extends DescMessage, Output extends DescMessage>(
    method: MethodOfKind<"bidi_streaming", Input, Output>,
    options: CallOptions = {},
  ): Promise<DuplexCall<MessageShape<Input>, MessageShape<Output>>> {
    return this.#duplex(method, options);
  }

  /** Aborted by {@link close}: for calls that last as long as the connection. */
  get closed(): AbortSignal {
    return this.#closing.signal;
  }

  /** Ends the connection; calls under way fail. */
  close(): void {
    if (!this.closed.aborted) this.#closing.abort(new AppError("cancelled", "This connection was closed."));
    this.#client.close();
  }

  async #duplex<Input extends DescMessage, Output extends DescMessage>(
    method: Method<Input, Output>,
    options: CallOptions,
  ): Promise<DuplexCall<MessageShape<Input>, MessageShape<Output>>> {
    await this.#connected(options);
    const { path, requestSerialize, responseDeserialize } = methodDefinition<Input, Output>(method);
    const stream = this.#client.makeBidiStreamRequest(
      path,
      requestSerialize,
      responseDeserialize,
      traceMetadata(options.trace),
      grpcOptions(options),
    );
    return new DuplexCall(stream, this.#peer, options.signal);
  }

  #connected({ signal, deadlineMs = Infinity, connectLimitMs = this.#connectLimitMs }: CallOptions): Promise<void> {
    const limit = Math.min(this.#clock.now() + connectLimitMs, deadlineMs);
    return new Promise((resolve, reject) => {
      if (signal?.aborted) return reject(toAppError(signal.reason));
      let isOver = false;
      const end = (settle: () => void): void => {
        isOver = true;
        signal?.removeEventListener("abort", onAbort);
        settle();
      };
      const onAbort = (): void => end(() => reject(toAppError(signal?.reason)));
      signal?.addEventListener("abort", onAbort, { once: true });
      // Not grpc-js's waitForReady: that asks a closed channel to connect again, which then lives on until the deadline.
      const check = (error?: Error): void => {
        if (isOver) return;
        if (this.closed.aborted) return end(() => reject(toAppError(this.closed.reason)));
        if (error !== undefined) {
          return end(() => reject(this.#unreachable(error, limit === deadlineMs, connectLimitMs)));
        }
        const channel = this.#client.getChannel();
        const state = channel.getConnectivityState(true);
        if (state === connectivityState.READY) return end(resolve);
        channel.watchConnectivityState(state, limit, check);
      };
      check();
    });
  }

  #unreachable(cause: Error, isDeadline: boolean, connectLimitMs: number): AppError {
    if (isDeadline)
      return new AppError("deadline_exceeded", `${this.#peer} had not started by the deadline.`, { cause });
    return new AppError("job_failed", `${this.#peer} did not start listening within ${connectLimitMs} ms.`, {
      cause,
    });
  }
}

/** One call's two ends: the answer, and the writing. Whichever fails first ends the other. */
class Call<Input, Output> {
  readonly answer: Promise<Output | undefined>;
  writable!: ClientWritableStream<Input>;
  readonly #peer: string;
  readonly #onOver = new Set<() => void>();
  #isOver = false;
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
    this.#isOver = true;
    for (const tell of this.#onOver) tell();
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
    if (this.#isOver) return Promise.resolve(undefined);
    return new Promise((resolve, reject) => {
      const onOver = (): void => resolve(undefined);
      this.#onOver.add(onOver);
      work.then(
        (value) => {
          this.#onOver.delete(onOver);
          resolve(value);
        },
        (error: unknown) => {
          this.#onOver.delete(onOver);
          reject(toAppError(error));
        },
      );
    });
  }
}

/** Tells a source that nobody reads on. */
function leave(iterator: AsyncIterator<unknown>): void {
  // Not awaited: a generator in the middle of its own waiting ends when that does. Its errors come too late to count.
  void iterator.return?.().catch(() => undefined);
}

function grpcOptions({ deadlineMs }: CallOptions): { deadline?: number } {
  return deadlineMs === undefined ? {} : { deadline: deadlineMs };
}

function traceMetadata(trace: TraceContext | undefined): Metadata {
  const metadata = new Metadata();
  if (trace !== undefined) for (const [name, value] of Object.entries(traceHeaders(trace))) metadata.set(name, value);
  return metadata;
}
