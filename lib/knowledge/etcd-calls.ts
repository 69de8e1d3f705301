/**
 * Calls to etcd: each with a deadline, repeated only where that cannot do anything twice, their failures as our own.
 *
 * What is repeated until the deadline: everything that provably was not carried out (no connection, a token that ran out,
 * a server that is too busy), and, after a connection broke, what changes nothing or the same again.
 */
import { setMaxListeners } from "node:events";
import { type ClientDuplexStream } from "@grpc/grpc-js";
import {
  type IDeleteRangeRequest,
  type IDeleteRangeResponse,
  type ILeaseGrantRequest,
  type ILeaseGrantResponse,
  type ILeaseKeepAliveRequest,
  type ILeaseKeepAliveResponse,
  type ILeaseRevokeRequest,
  type ILeaseRevokeResponse,
  type ILeaseTimeToLiveRequest,
  type ILeaseTimeToLiveResponse,
  type IPutRequest,
  type IPutResponse,
  type IRangeRequest,
  type IRangeResponse,
  type ITxnRequest,
  type ITxnResponse,
  type IWatchRequest,
  type IWatchResponse,
} from "etcd3";
import { type Clock } from "../clock.ts";
import { AppError, toAppError } from "../errors.ts";
import { type EtcdConnection, type EtcdConnections, storeClosed } from "./etcd-connection.ts";
import { EtcdFailure, type GrpcFailure, toStoreError } from "./etcd-errors.ts";
import { type EtcdKeys } from "./etcd-keys.ts";
import { describePlace } from "./etcd-url.ts";
import { type StoreMetrics } from "./store-metrics.ts";

/** The unary methods that we use, by service. */
interface Methods {
  readonly "KV.range": readonly [IRangeRequest, IRangeResponse];
  readonly "KV.put": readonly [IPutRequest, IPutResponse];
  readonly "KV.deleteRange": readonly [IDeleteRangeRequest, IDeleteRangeResponse];
  readonly "KV.txn": readonly [ITxnRequest, ITxnResponse];
  readonly "Lease.leaseGrant": readonly [ILeaseGrantRequest, ILeaseGrantResponse];
  readonly "Lease.leaseRevoke": readonly [ILeaseRevokeRequest, ILeaseRevokeResponse];
  readonly "Lease.leaseTimeToLive": readonly [ILeaseTimeToLiveRequest, ILeaseTimeToLiveResponse];
}

/** A call of the port, while it lasts: what all its requests share. */
export interface StoreCall {
  /** Name of the operation, for metrics. */
  readonly operation: string;
  /** The key or prefix that it is about, for messages; may be empty. */
  readonly about: string;
  /** When it must be over, by {@link performance.now}. */
  readonly deadline: number;
}

/** Whether a request may be repeated though it may have been carried out. */
export type Repetition = "safe" | "unsafe";

/** How often a token is renewed within one call: once because it ran out, once more because of a race. */
const TOKEN_RENEWALS = 2;
/** How often a request is repeated at most, however short the time between. */
const MAX_REPETITIONS = 20;
const REPEAT_AFTER_MS = { first: 10, most: 500 };

/** See the file comment. */
export class EtcdCalls {
  readonly #connections: EtcdConnections;
  readonly #keys: EtcdKeys;
  readonly #clock: Clock;
  readonly #metrics: StoreMetrics;
  readonly #timeoutMs: number;
  readonly #closing = new AbortController();

  constructor(
    connections: EtcdConnections,
    keys: EtcdKeys,
    options: { readonly clock: Clock; readonly metrics: StoreMetrics; readonly timeoutMs: number },
  ) {
    this.#connections = connections;
    this.#keys = keys;
    this.#clock = options.clock;
    this.#metrics = options.metrics;
    this.#timeoutMs = options.timeoutMs;
    // Every call under way listens.
    setMaxListeners(0, this.#closing.signal);
  }

  /** Aborted by {@link EtcdCalls.close}. */
  get closed(): AbortSignal {
    return this.#closing.signal;
  }

  /**
   * Does the work of one call of the port: gives it its deadline, measures it, and translates its failures. The work may
   * handle an {@link EtcdFailure} that is the server's final word itself.
   */
  async during<Result>(
    operation: string,
    about: string,
    work: (call: StoreCall) => Promise<Result>,
    isWrite = false,
  ): Promise<Result> {
    const startedAt = performance.now();
    let outcome = "ok";
    try {
      return await work({ operation, about, deadline: startedAt + this.#timeoutMs });
    } catch (thrown) {
      const error = this.translate(thrown, about, isWrite);
      outcome = toAppError(error).code;
      throw error;
    } finally {
      this.#metrics.called(operation, outcome, (performance.now() - startedAt) / 1000);
    }
  }

  /** One request. Fails with {@link EtcdFailure} or {@link AppError}. */
  async unary<Method extends keyof Methods>(
    call: StoreCall,
    method: Method,
    request: Methods[Method][0],
    repetition: Repetition,
  ): Promise<Methods[Method][1]> {
    return this.repeat(call, repetition, (connection) => this.#once(connection, call, method, request));
  }

  /** Renews a lease once; gives the time to live that it has from now on, in seconds: 0 when it has ended. */
  async keepAlive(call: StoreCall, leaseId: string): Promise<number> {
    return this.repeat(call, "safe", (connection) => this.#keepAliveOnce(connection, call, leaseId));
  }

  /** A connection, when one can be had before the deadline. */
  async connection(call: StoreCall): Promise<EtcdConnection> {
    return this.repeat(call, "safe", async (connection) => connection);
  }

  /** A stream of watch requests and responses. Cancel it in the end; it fails when its connection does. */
  openWatch(connection: EtcdConnection): ClientDuplexStream<IWatchRequest, IWatchResponse> {
    return openStream<IWatchRequest, IWatchResponse>(connection, "Watch", "watch", {});
  }

  /** Gives a connection up that misbehaves, so that the next request goes to another member. */
  retire(connection: EtcdConnection): void {
    this.#connections.retire(connection);
  }

  /** The port's error for a failure, whatever it is. */
  translate(thrown: unknown, about: string, isWrite: boolean): unknown {
    if (this.closed.aborted) return storeClosed();
    if (!(thrown instanceof EtcdFailure)) return thrown;
    const { place } = this.#connections;
    // Only where the keys lie: names of users may follow.
    const keys = about === "" ? "" : `${this.#keys.prefix}${about.split("/").slice(0, 3).join("/")}`;
    return toStoreError(thrown, { place: describePlace(place), user: place.user, keys, isWrite });
  }

  /** Ends everything under way. */
  close(): void {
    this.#closing.abort();
    this.#connections.close();
  }

  /** See the file comment. */
  async repeat<Result>(
    call: StoreCall,
    repetition: Repetition,
    attempt: (connection: EtcdConnection) => Promise<Result>,
  ): Promise<Result> {
    let renewals = 0;
    let reason: EtcdFailure | undefined;
    for (let repetitions = 0; ; repetitions++) {
      let connection: EtcdConnection | undefined;
      try {
        connection = await this.#connected(call);
        return await attempt(connection);
      } catch (error) {
        if (error instanceof TooLate) throw reason ?? error;
        if (!(error instanceof EtcdFailure) || this.closed.aborted) throw error;
        reason = error;
        this.#drawConclusions(error, connection);
        if (error.kind === "token" && connection !== undefined) {
          if (++renewals > TOKEN_RENEWALS) throw error;
          await this.#connections.renewToken(connection);
        }
        if (!isRepeatable(error, repetition) || repetitions >= MAX_REPETITIONS) throw error;
        const pauseMs =
          Math.min(REPEAT_AFTER_MS.most, REPEAT_AFTER_MS.first * 2 ** repetitions) * (0.5 + Math.random() / 2);
        if (performance.now() + pauseMs >= call.deadline) throw error;
        await this.#clock.sleep(pauseMs, this.closed);
      }
    }
  }

  /** After some failures the connection is of no more use. */
  #drawConclusions(error: EtcdFailure, connection: EtcdConnection | undefined): void {
    if (connection === undefined) return;
    const hasOthers = this.#connections.place.endpoints.length > 1;
    const isUseless =
      error.kind === "broken" ||
      error.kind === "not-sent" ||
      // This member may be the only one in trouble.
      ((error.kind === "late" || error.kind === "troubled") && hasOthers);
    if (isUseless) this.#connections.retire(connection);
  }

  async #connected(call: StoreCall): Promise<EtcdConnection> {
    return withDeadline(this.#connections.current(), call, this.closed);
  }

  #once<Method extends keyof Methods>(
    connection: EtcdConnection,
    call: StoreCall,
    method: Method,
    request: Methods[Method][0],
  ): Promise<Methods[Method][1]> {
    const [service, name] = method.split(".") as ["KV" | "Lease", string];
    return new Promise((resolve, reject) => {
      const answered = (failure: GrpcFailure | null, response: Methods[Method][1]): void => {
        this.closed.removeEventListener("abort", onClosing);
        if (failure === null) resolve(response);
        else reject(new EtcdFailure(failure));
      };
      const options = { deadline: this.#grpcDeadline(call) };
      const pending = connection
        .service(service)
        [name]?.(request, connection.metadata(), options, answered) as Cancellable;
      const onClosing = (): void => pending.cancel();
      this.closed.addEventListener("abort", onClosing, { once: true });
    });
  }

  async #keepAliveOnce(connection: EtcdConnection, call: StoreCall, leaseId: string): Promise<number> {
    const options = { deadline: this.#grpcDeadline(call) };
    const stream = openStream<ILeaseKeepAliveRequest, ILeaseKeepAliveResponse>(
      connection,
      "Lease",
      "leaseKeepAlive",
      options,
    );
    const onClosing = (): void => stream.cancel();
    this.closed.addEventListener("abort", onClosing, { once: true });
    try {
      stream.write({ ID: leaseId });
      for await (const response of stream as AsyncIterable<ILeaseKeepAliveResponse>) return Number(response.TTL);
      throw new EtcdFailure({ code: 14, details: "the stream ended" });
    } catch (error) {
      throw toEtcdFailure(error);
    } finally {
      this.closed.removeEventListener("abort", onClosing);
      stream.cancel();
    }
  }

  /** gRPC counts by the machine's clock from this moment; ours by one that nobody sets. */
  #grpcDeadline(call: StoreCall): number {
    return this.#clock.now() + Math.max(1, call.deadline - performance.now());
  }
}

interface Cancellable {
  cancel(): void;
}

function openStream<Request, Response>(
  connection: EtcdConnection,
  service: "Watch" | "Lease",
  method: string,
  options: object,
): ClientDuplexStream<Request, Response> {
  const stream = connection.service(service)[method]?.(connection.metadata(), options) as ClientDuplexStream<
    Request,
    Response
  >;
  // Whoever reads the stream is told; after the last read, cancelling it is an error event nobody waits for.
  stream.on("error", () => undefined);
  const onEnded = (): void => stream.cancel();
  connection.ended.addEventListener("abort", onEnded, { once: true });
  stream.once("status", () => connection.ended.removeEventListener("abort", onEnded));
  return stream;
}

/** A stream's error, sorted. */
export function toEtcdFailure(error: unknown): unknown {
  if (error instanceof EtcdFailure || error instanceof AppError) return error;
  if (error instanceof Error && "details" in error && "code" in error && typeof error.code === "number") {
    return new EtcdFailure({ code: error.code, details: String(error.details) });
  }
  return error;
}

function isRepeatable({ kind }: EtcdFailure, repetition: Repetition): boolean {
  if (kind === "not-sent" || kind === "not-taken" || kind === "token") return true;
  return repetition === "safe" && (kind === "broken" || kind === "troubled");
}

/** There was no connection before the deadline. */
class TooLate extends EtcdFailure {
  constructor() {
    super({ code: 4, details: "no member accepted a connection in time" }, "not-sent");
  }
}

/** What the promise gives, unless the deadline comes first, or the store is closed. */
function withDeadline<Value>(promise: Promise<Value>, call: StoreCall, closed: AbortSignal): Promise<Value> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new TooLate()), Math.max(1, call.deadline - performance.now()));
    const onClosed = (): void => reject(storeClosed());
    closed.addEventListener("abort", onClosed, { once: true });
    if (closed.aborted) onClosed();
    const settled = promise.finally(() => {
      clearTimeout(timer);
      closed.removeEventListener("abort", onClosed);
    });
    settled.then(resolve, reject);
  });
}
