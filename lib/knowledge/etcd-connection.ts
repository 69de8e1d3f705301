/**
 * One connection to one member of etcd at a time, made anew whenever it breaks: with credentials that are read again, and
 * to the next member.
 *
 * Of `etcd3` it uses the wire protocol (`Host`: one gRPC client per service), and not its `ConnectionPool`: that one reads
 * credentials once, repeats writes whose fate is unknown, and leaks a channel per authentication.
 * See `docs/decisions/0013-etcd-adapter.md`.
 */
import { setMaxListeners } from "node:events";
import { Channel, type ChannelCredentials, Metadata, connectivityState, credentials } from "@grpc/grpc-js";
import { type IAuthenticateResponse, type Services } from "etcd3";
import { Host } from "etcd3/lib/connection-pool.js";
import { type Clock } from "../clock.ts";
import { AppError } from "../errors.ts";
import { EtcdFailure, type GrpcFailure } from "./etcd-errors.ts";
import { type EtcdCredentials, type EtcdPlace, readCredentials } from "./etcd-url.ts";
import { type StoreMetrics } from "./store-metrics.ts";

/** How long one member may take to accept a connection, in milliseconds. */
const CONNECT_MS = 3000;
/** Between two rounds over all members that failed, in milliseconds: doubled each time, half of it random. */
const BACKOFF_MS = { first: 50, most: 2000 };

/** Not below 5 s: etcd's default for the shortest interval that it allows (`--grpc-keepalive-min-time`). */
const KEEPALIVE_MS = { every: 10_000, answerWithin: 5000 };

/** Larger than any page that we ask for need be; a larger one is asked for in parts. */
const MAX_RESPONSE_BYTES = 64 * 1024 * 1024;

const CHANNEL_OPTIONS = {
  "grpc.keepalive_time_ms": KEEPALIVE_MS.every,
  "grpc.keepalive_timeout_ms": KEEPALIVE_MS.answerWithin,
  "grpc.max_receive_message_length": MAX_RESPONSE_BYTES,
  "grpc.max_send_message_length": -1,
  // A connection of this process alone: others must not lend it their credentials.
  "grpc.use_local_subchannel_pool": 1,
  "grpc.enable_http_proxy": 0,
  // A channel never connects twice: the next connection is ours to make.
  "grpc.client_idle_timeout_ms": 2 ** 31 - 1,
};

type ServiceName = keyof typeof Services;

/** The gRPC client of one service: its methods by name. */
export type ServiceClient = Readonly<Record<string, (...parameters: unknown[]) => unknown>>;

/** A connection that has answered at least once. */
export class EtcdConnection {
  readonly endpoint: string;
  /** Aborted when the connection is given up: whoever has a stream on it makes a new one on the next. */
  readonly ended: AbortSignal;
  readonly #host: Host;
  readonly #channel: Channel;
  readonly #end = new AbortController();
  #token: string | undefined;

  constructor(endpoint: string, channelCredentials: ChannelCredentials) {
    this.endpoint = endpoint;
    this.ended = this.#end.signal;
    // Every stream on it listens.
    setMaxListeners(0, this.ended);
    this.#channel = new Channel(endpoint, channelCredentials, CHANNEL_OPTIONS);
    this.#host = new Host(endpoint, channelCredentials, { channelOverride: this.#channel });
  }

  /** The client of a service. */
  service(name: ServiceName): ServiceClient {
    return this.#host.getServiceClient(name) as unknown as ServiceClient;
  }

  /** What every call carries: the token, and that a member without a leader is to refuse instead of waiting. */
  metadata(): Metadata {
    const metadata = new Metadata();
    metadata.set("hasleader", "true");
    if (this.#token !== undefined) metadata.set("token", this.#token);
    return metadata;
  }

  /**
   * Makes the first call, or renews the token: fails with {@link EtcdFailure} when there is nobody, or nobody who lets us
   * in. Nothing has been carried out then.
   */
  async enter(user: string | undefined, password: string | undefined, deadlineMs: number): Promise<void> {
    try {
      if (user === undefined) await this.#unary("Maintenance", "status", {}, deadlineMs);
      else await this.#authenticate(user, password ?? "", deadlineMs);
    } catch (error) {
      if (!(error instanceof EtcdFailure)) throw error;
      const isDoubtful = error.kind === "late" || error.kind === "broken" || error.kind === "troubled";
      throw isDoubtful ? new EtcdFailure(error.failure, "not-sent") : error;
    }
  }

  async #authenticate(name: string, password: string, deadlineMs: number): Promise<void> {
    try {
      const request = { name, password };
      const response = await this.#unary<IAuthenticateResponse>("Auth", "authenticate", request, deadlineMs);
      this.#token = response.token;
    } catch (error) {
      // As etcd's own clients do: whoever has a user may also use an etcd that has none.
      if (!(error instanceof EtcdFailure && error.kind === "no-users")) throw error;
    }
  }

  /** Calls back once, when the transport is gone. */
  onBroken(listener: () => void): void {
    this.#channel.watchConnectivityState(connectivityState.READY, Infinity, () => listener());
  }

  close(): void {
    if (this.ended.aborted) return;
    this.#end.abort();
    this.#host.close();
    this.#channel.close();
  }

  #unary<Response>(service: ServiceName, method: string, request: object, deadlineMs: number): Promise<Response> {
    return new Promise((resolve, reject) => {
      this.service(service)[method]?.(
        request,
        new Metadata(),
        { deadline: deadlineMs },
        (failure: GrpcFailure | null, response: Response) =>
          failure === null ? resolve(response) : reject(new EtcdFailure(failure)),
      );
    });
  }
}

/** See the file comment. Either there is a connection, or one is being made, or nobody wants one. */
export class EtcdConnections {
  readonly place: EtcdPlace;
  readonly #clock: Clock;
  readonly #metrics: StoreMetrics;
  readonly #closing = new AbortController();
  #current: EtcdConnection | undefined;
  #attempt: Promise<EtcdConnection> | undefined;
  #renewal: Promise<void> | undefined;
  #nextEndpoint = 0;
  #failedRounds = 0;
  #hasConnected = false;

  constructor(place: EtcdPlace, clock: Clock, metrics: StoreMetrics) {
    this.place = place;
    this.#clock = clock;
    this.#metrics = metrics;
  }

  /**
   * The connection; made when there is none, by one attempt for all who wait. Fails with an {@link EtcdFailure} (`not-sent`
   * may be tried again) or with `configuration_invalid`.
   */
  async current(): Promise<EtcdConnection> {
    if (this.#closing.signal.aborted) throw storeClosed();
    if (this.#current !== undefined) return this.#current;
    this.#attempt ??= this.#connect().finally(() => (this.#attempt = undefined));
    return this.#attempt;
  }

  /** Renews a connection's token, with a password that is read again. Fails as {@link EtcdConnections.current} does. */
  async renewToken(connection: EtcdConnection): Promise<void> {
    this.#renewal ??= this.#renewToken(connection).finally(() => (this.#renewal = undefined));
    return this.#renewal;
  }

  /** Gives a connection up: the next caller gets another one, to the next member. */
  retire(connection: EtcdConnection): void {
    if (this.#current === connection) {
      this.#current = undefined;
      this.#nextEndpoint++;
    }
    connection.close();
  }

  close(): void {
    this.#closing.abort();
    this.#current?.close();
    this.#current = undefined;
  }

  async #renewToken(connection: EtcdConnection): Promise<void> {
    const { password } = await readCredentials(this.place);
    await connection.enter(this.place.user, password, this.#clock.now() + CONNECT_MS);
  }

  async #connect(): Promise<EtcdConnection> {
    if (this.#failedRounds > 0) await this.#clock.sleep(this.#backoffMs(), this.#closing.signal);
    const files = await readCredentials(this.place);
    let failure: unknown;
    for (let tried = 0; tried < this.place.endpoints.length; tried++) {
      try {
        const connection = await this.#enter(files);
        this.#failedRounds = 0;
        return connection;
      } catch (error) {
        if (!(error instanceof EtcdFailure)) throw error;
        failure = error;
        this.#nextEndpoint++;
      }
    }
    this.#failedRounds++;
    throw failure;
  }

  async #enter(files: EtcdCredentials): Promise<EtcdConnection> {
    const { endpoints, user } = this.place;
    const endpoint = endpoints[this.#nextEndpoint % endpoints.length] ?? "";
    const connection = new EtcdConnection(endpoint, channelCredentials(this.place, files));
    const onClosing = (): void => connection.close();
    this.#closing.signal.addEventListener("abort", onClosing, { once: true });
    try {
      await connection.enter(user, files.password, this.#clock.now() + CONNECT_MS);
      if (this.#closing.signal.aborted) throw storeClosed();
    } catch (error) {
      connection.close();
      throw error;
    } finally {
      this.#closing.signal.removeEventListener("abort", onClosing);
    }
    this.#current = connection;
    connection.onBroken(() => this.retire(connection));
    if (this.#hasConnected) this.#metrics.reconnected();
    this.#hasConnected = true;
    return connection;
  }

  #backoffMs(): number {
    const ms = Math.min(BACKOFF_MS.most, BACKOFF_MS.first * 2 ** Math.min(this.#failedRounds - 1, 10));
    return ms / 2 + (Math.random() * ms) / 2;
  }
}

/** The failure of everything after `close`. */
export function storeClosed(): AppError {
  return new AppError("unavailable", "The knowledge store has been closed.");
}

function channelCredentials(place: EtcdPlace, { ca, key, cert }: EtcdCredentials): ChannelCredentials {
  if (!place.isTls) return credentials.createInsecure();
  try {
    // Node's lowest version of TLS is 1.2.
    return credentials.createSsl(ca ?? null, key ?? null, cert ?? null);
  } catch (error) {
    const { caFile, certFile, keyFile } = place.files;
    const files = [caFile, certFile, keyFile].filter((file) => file !== undefined).join(", ");
    const message = `The certificates of the knowledge store cannot be used (${files}): they must be PEM, and the key must fit the certificate.`;
    throw new AppError("configuration_invalid", message, { cause: error });
  }
}
