/** One connection to RabbitMQ that heals itself. */

import type { Duplex } from "node:stream";
import { connect, type ChannelModel } from "amqplib";
import type { Clock } from "../clock.ts";
import { AppError } from "../errors.ts";
import type { BusMetrics } from "./bus-metrics.ts";
import { readCredentials, type RabbitMqAddress } from "./rabbitmq-address.ts";
import { connectRefusal, refusal, unreachable } from "./rabbitmq-errors.ts";
import { within } from "./within.ts";

/** What a connection is made for. */
export interface ConnectionOptions {
  readonly address: RabbitMqAddress;
  readonly clock: Clock;
  readonly metrics: BusMetrics;
  /** Shown by the broker's management. */
  readonly name: string;
  /** Between 0 and 1: jitter, and which host is tried first. */
  readonly random: () => number;
  /** Done on each new connection before anybody gets it: topology. */
  readonly setUp: (model: ChannelModel) => Promise<void>;
  /** The broker takes no messages from it (memory or disk alarm), or does so again. */
  readonly onBlockedChange?: (isBlocked: boolean) => void;
}

type State =
  | { readonly kind: "connecting"; readonly lastError: unknown }
  | { readonly kind: "open"; readonly model: ChannelModel }
  | { readonly kind: "closed" };

/** A peer that says nothing is given up after two to three times as long. */
const HEARTBEAT_SECONDS = 10;
const CONNECT_TIMEOUT_MS = 5000;
const SET_UP_TIMEOUT_MS = 15_000;
const CLOSE_TIMEOUT_MS = 2000;
const FIRST_BACKOFF_MS = 100;
const MAX_BACKOFF_MS = 5000;

/**
 * States: connecting (at first within `start`, which fails; later for as long as it takes) ⇄ open; closed from either.
 * Whoever needs the connection waits for it with a deadline of its own.
 */
export class RabbitMqConnection {
  readonly #options: ConnectionOptions;
  readonly #stop = new AbortController();
  #state: State = { kind: "connecting", lastError: undefined };
  /** Resolves with the next change away from connecting. */
  #settled = deferred();
  #isBlocked = false;
  #nextHost: number;

  constructor(options: ConnectionOptions) {
    this.#options = options;
    this.#nextHost = Math.floor(options.random() * options.address.hosts.length);
  }

  get isBlocked(): boolean {
    return this.#isBlocked;
  }

  /**
   * Connects for the first time, trying again until `untilMs`. What no waiting heals (credentials, permissions,
   * certificates) fails at once.
   */
  async start(untilMs: number): Promise<void> {
    const { address, clock } = this.#options;
    for (let attempt = 0; ; attempt += 1) {
      try {
        const leftMs = untilMs - clock.now();
        return await within(clock, leftMs, this.#connect(), () => new Error("it did not answer in time"));
      } catch (error) {
        const final = connectRefusal(error, address);
        if (final !== undefined) throw final;
        if (clock.now() + FIRST_BACKOFF_MS >= untilMs) throw unreachable(error, address);
        await clock.sleep(Math.min(this.#backoffMs(attempt), untilMs - clock.now()));
      }
    }
  }

  /** The connection when it is open; `unavailable` when it is not by `untilMs`, or was closed. */
  async use(untilMs = Number.POSITIVE_INFINITY): Promise<ChannelModel> {
    for (;;) {
      if (this.#state.kind === "open") return this.#state.model;
      if (this.#state.kind === "closed") throw closedError();
      const { promise } = this.#settled;
      if (untilMs === Number.POSITIVE_INFINITY) await promise;
      else await within(this.#options.clock, untilMs - this.#options.clock.now(), promise, () => this.#away());
    }
  }

  /** Closes it for good; resolves when that is done, at the latest after two seconds. */
  async close(): Promise<void> {
    const state = this.#state;
    this.#state = { kind: "closed" };
    this.#stop.abort();
    this.#settled.resolve();
    if (state.kind === "open") await this.#end(state.model);
  }

  async #connect(): Promise<void> {
    const { setUp, clock, address } = this.#options;
    const model = await this.#dial();
    let isOpen = true;
    // Without a listener an error would end the process. It is told with "close" as well.
    model.on("error", () => undefined);
    model.on("close", (error?: Error) => {
      isOpen = false;
      this.#lost(model, error);
    });
    model.on("blocked", () => this.#setBlocked(true));
    model.on("unblocked", () => this.#setBlocked(false));
    try {
      await within(clock, SET_UP_TIMEOUT_MS, setUp(model), () => new Error("declaring took too long"));
    } catch (error) {
      await this.#end(model);
      throw refusal(error, address) ?? error;
    }
    if (!isOpen) throw new Error("the connection broke at once");
    if (this.#state.kind === "closed") return this.#end(model);
    this.#state = { kind: "open", model };
    this.#settled.resolve();
  }

  async #dial(): Promise<ChannelModel> {
    const { address, name } = this.#options;
    const { hosts } = address;
    const host = hosts[this.#nextHost % hosts.length]!;
    this.#nextHost += 1;
    const { password, ...tls } = await readCredentials(address);
    return connect(
      {
        ...host,
        protocol: address.isTls ? "amqps" : "amqp",
        username: address.user,
        password,
        // amqplib decodes it.
        vhost: encodeURIComponent(address.vhost),
        heartbeat: HEARTBEAT_SECONDS,
      },
      {
        ...tls,
        timeout: CONNECT_TIMEOUT_MS,
        noDelay: true,
        keepAlive: true,
        clientProperties: { connection_name: name },
      },
    );
  }

  #lost(model: ChannelModel, error: Error | undefined): void {
    socketOf(model).destroy();
    if (this.#state.kind !== "open" || this.#state.model !== model) return;
    this.#setBlocked(false);
    this.#state = { kind: "connecting", lastError: error };
    this.#settled = deferred();
    void this.#reconnect();
  }

  /** Ends when it is connected, or closed. */
  async #reconnect(): Promise<void> {
    for (let attempt = 0; await this.#pause(this.#backoffMs(attempt)); attempt += 1) {
      try {
        await this.#connect();
        this.#options.metrics.reconnected();
        return;
      } catch (lastError) {
        // Whoever waits for the connection is told; this goes on, since credentials too may be set right meanwhile.
        if (this.#state.kind === "connecting") this.#state = { kind: "connecting", lastError };
      }
    }
  }

  /** False when the connection was closed. */
  async #pause(ms: number): Promise<boolean> {
    return this.#options.clock.sleep(ms, this.#stop.signal).then(
      () => this.#state.kind === "connecting",
      () => false,
    );
  }

  #backoffMs(attempt: number): number {
    const ms = Math.min(MAX_BACKOFF_MS, FIRST_BACKOFF_MS * 2 ** Math.min(attempt, 10));
    return ms * (0.5 + this.#options.random() / 2);
  }

  #setBlocked(isBlocked: boolean): void {
    if (this.#isBlocked === isBlocked) return;
    this.#isBlocked = isBlocked;
    this.#options.metrics.blocked(isBlocked ? 1 : -1);
    this.#options.onBlockedChange?.(isBlocked);
  }

  #away(): AppError {
    const { address } = this.#options;
    const cause = this.#state.kind === "connecting" ? this.#state.lastError : undefined;
    if (cause === undefined) return unreachable(new Error("the connection is lost"), address);
    const known = connectRefusal(cause, address);
    if (known === undefined) return unreachable(cause, address);
    return new AppError("unavailable", known.message, { cause });
  }

  async #end(model: ChannelModel): Promise<void> {
    const { clock } = this.#options;
    const closed = new Promise<void>((resolve) => {
      const done = (): void => resolve();
      model.once("close", done);
      model.close().then(done, done);
    });
    const stop = new AbortController();
    await Promise.race([closed, clock.sleep(CLOSE_TIMEOUT_MS, stop.signal)]);
    stop.abort();
    socketOf(model).destroy();
  }
}

/** The error of calls on a bus that was closed. */
export function closedError(): AppError {
  return new AppError("unavailable", "This message bus was closed.");
}

/** amqplib ends a dead connection's socket half, which keeps the process alive until the dead peer agrees. */
function socketOf(model: ChannelModel): Duplex {
  return (model.connection as unknown as { readonly stream: Duplex }).stream;
}

function deferred(): { readonly promise: Promise<void>; resolve(): void } {
  let resolve = (): void => undefined;
  const promise = new Promise<void>((done) => (resolve = done));
  return { promise, resolve };
}
