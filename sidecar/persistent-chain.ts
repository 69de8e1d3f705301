/**
 * A chain for many runs: it takes their requests from a work queue that chains of one shape share, several at once, and gets what
 * belongs to its runs (credits, cancels, providers' frames) by a queue of its own, where the correlation id says whose it is.
 *
 * A request is taken only while there is room: first `taken` is reported, confirmed, then the request's message is settled, then
 * it runs. So no request runs twice without its agent's knowledge, and nothing runs whose agent has gone. A chain that is full
 * leaves the work queue to the others until it has room again. A chain that has lost the work queue takes nothing more; what runs
 * goes on, since it does not need it.
 *
 * States: taking ⇄ paused (full) → ending (idle, too old, told to stop, or broken: what runs may end) → ended.
 */
import type { Consumer, Delivery, MessageBus, Settlement } from "../lib/bus/message-bus.ts";
import { MESSAGE_TYPES } from "../lib/bus/message-types.ts";
import { runQueue } from "../lib/bus/queues.ts";
import { sharedQueueAddress } from "../lib/bus/run-address.ts";
import { AppError, toAppError } from "../lib/errors.ts";
import { OVER } from "../lib/over.ts";
import { create } from "@bufbuild/protobuf";
import { RunRequestSchema, TakenSchema, type RunRequest } from "../lib/rpc/gen/dynamos/v1/run_pb.ts";
import type { StreamReceipt } from "../lib/rpc/gen/dynamos/v1/microservice_pb.ts";
import type { Frame } from "../lib/rpc/gen/dynamos/v1/stream_pb.ts";
import { withFirst } from "../lib/rpc/first-frame.ts";
import type { CallContext } from "../lib/rpc/service.ts";
import { aborted, ChainRelay, type RelayContext } from "./chain-relay.ts";
import { holdMsFor } from "./hold-time.ts";
import { readBody } from "./run-messages.ts";

/** What it needs. */
export interface PersistentChainOptions extends RelayContext {
  readonly bus: MessageBus;
  /** The chain's job; its own queue has that name. */
  readonly jobName: string;
  /** Requests for chains of this shape. */
  readonly workQueue: string;
  /** Runs at once. */
  readonly concurrency: number;
  /** Messages of all runs in hand at a time; see `prefetchOf`. */
  readonly prefetch: number;
  /** It ends after so long without a run. */
  readonly idleMs: number;
  /** It takes nothing new when it is so old. */
  readonly maxAgeMs: number;
}

/** Weight of the last run in what runs are taken to last. */
const LAST_RUN_WEIGHT = 0.25;
/** So many runs in a row that failed because a part of the chain did not answer: it is broken, and makes room for another. */
const BROKEN_AFTER = 3;
/** So many runs that are over are remembered: the request of one may come again as long as its settlement may have been lost. */
const RUNS_REMEMBERED = 2_000;
/** Numbers of runs, as a frame's attempt: an unsigned integer of 32 bits, from 1. */
const MAX_NUMBER = 2 ** 32 - 1;

/** See the file comment. */
export class PersistentChain {
  readonly #options: PersistentChainOptions;
  readonly #byRun = new Map<string, ChainRelay>();
  readonly #byNumber = new Map<number, ChainRelay>();
  /** By run: what becomes of its request, from when it is seen until the run is over. */
  readonly #takings = new Map<string, Promise<Settlement>>();
  /** Aborted when nothing more is taken. */
  readonly #ending = new AbortController();
  /** Runs that were served, oldest first. */
  readonly #served = new Set<string>();
  #exitCode = 0;
  #taking = 0;
  #lastNumber = 0;
  #brokenRuns = 0;
  /** What runs last, as far as they have shown. */
  #runMs = 0;
  #work: Consumer | undefined;
  #isPaused = false;
  /** Pausing and going on, one after the other. */
  #turns: Promise<void> = Promise.resolve();
  #idle = new AbortController();
  #onRoom = new Set<() => void>();

  constructor(options: PersistentChainOptions) {
    this.#options = options;
  }

  /** Serves until it is idle, too old, broken or told to stop, and what runs has ended. Resolves with the exit code. */
  async run(): Promise<number> {
    const { bus, jobName, prefetch, maxAgeMs, clock, logger } = this.#options;
    let control: Consumer | undefined;
    try {
      control = await bus.consume(runQueue(jobName), (delivery) => this.#takeMessage(delivery), {
        prefetch,
        onLost: (cause) => this.#lost("The chain's own queue was lost.", cause),
      });
      await this.#goOn();
      this.#waitIdle();
      clock.sleep(maxAgeMs, this.#ending.signal).then(
        () => this.#end(0),
        () => undefined, // It ends for another reason.
      );
      await aborted(this.#ending.signal);
      await this.#turns;
      await this.#work?.close();
      while (this.#taking > 0) await this.#room();
    } catch (error) {
      logger.error({ error: toAppError(error) }, "a persistent chain cannot go on");
      this.#end(1);
    } finally {
      await control?.close();
    }
    return this.#exitCode;
  }

  /** The call of the last microservice for one of the runs; see `ChainRelay.takeOutput`. */
  async takeOutput(frames: AsyncIterable<Frame>, call: CallContext): Promise<StreamReceipt> {
    const [first, all] = await withFirst(frames);
    const relay = first === undefined ? undefined : this.#byNumber.get(first.attempt);
    if (relay === undefined) throw new AppError("cancelled", "The run that this result is of has ended.");
    return relay.takeOutput(all, call);
  }

  /** The program was told to stop: what runs may end, nothing more is taken. */
  stop(): void {
    this.#end(0);
  }

  async #takeMessage(delivery: Delivery): Promise<Settlement> {
    const relay = delivery.correlationId === undefined ? undefined : this.#byRun.get(delivery.correlationId);
    // Late: the run has ended.
    return relay === undefined ? "accept" : relay.take(delivery);
  }

  /** A request from the work queue. A throw leaves it to another chain. */
  async #takeWork(delivery: Delivery): Promise<Settlement> {
    const { correlationId: run } = delivery;
    if (delivery.type !== MESSAGE_TYPES.sqlDataRequest || run === undefined) return "reject";
    const request = requestOf(delivery);
    if (request === undefined) return "reject";
    const before = this.#takings.get(run);
    // The same message again: its settlement was lost on its way. It is settled as the first one is.
    if (before !== undefined) return before;
    if (this.#served.has(run)) return "accept";
    const taking = this.#takeRun(run, request, delivery);
    this.#takings.set(run, taking);
    return taking;
  }

  async #takeRun(run: string, request: RunRequest, delivery: Delivery): Promise<Settlement> {
    if (!(await this.#takePlace())) {
      this.#takings.delete(run);
      return "retry";
    }
    const relay = this.#relay(run, request, delivery);
    try {
      const { jobName } = this.#options;
      await relay.report({ case: "taken", value: create(TakenSchema, { jobName, queue: runQueue(jobName) }) });
    } catch (error) {
      this.#leave(run, relay);
      // Whoever waited for it has gone, and its queue with it: nobody wants the run.
      if (toAppError(error).code === "not_found") return "accept";
      throw error;
    }
    // Behind the settlement, which follows this handler's end.
    setImmediate(() => void this.#serve(run, relay));
    return "accept";
  }

  /** Takes a place, perhaps after a moment. Where there is none (false), nothing more is taken from the queue until there is. */
  async #takePlace(): Promise<boolean> {
    const { concurrency, clock } = this.#options;
    const isFull = (): boolean => this.#taking >= concurrency;
    if (isFull()) {
      const over = new AbortController();
      await Promise.race([this.#room(), clock.sleep(holdMsFor(this.#runMs), over.signal).catch(() => undefined)]);
      over.abort(OVER);
    }
    if (this.#ending.signal.aborted) return false;
    if (isFull()) {
      this.#pause();
      return false;
    }
    this.#taking += 1;
    this.#idle.abort(OVER);
    return true;
  }

  #relay(run: string, request: RunRequest, delivery: Delivery): ChainRelay {
    const { jobName } = this.#options;
    const attemptInside = this.#nextNumber();
    const creditAddress = sharedQueueAddress(runQueue(jobName), run);
    const relay = new ChainRelay({ ...this.#options, request, delivery, creditAddress, attemptInside });
    this.#byRun.set(run, relay);
    this.#byNumber.set(attemptInside, relay);
    this.#lastNumber = attemptInside;
    return relay;
  }

  #nextNumber(): number {
    let number = this.#lastNumber;
    do number = number >= MAX_NUMBER ? 1 : number + 1;
    while (this.#byNumber.has(number));
    return number;
  }

  async #serve(run: string, relay: ChainRelay): Promise<void> {
    const beganMs = this.#options.clock.now();
    const isReported = await relay.run();
    this.#runMs += LAST_RUN_WEIGHT * (this.#options.clock.now() - beganMs - this.#runMs);
    this.#remember(run);
    this.#leave(run, relay);
    const isBroken = relay.failure?.code === "job_failed" && relay.failure.party === this.#options.steward;
    this.#brokenRuns = isBroken || !isReported ? this.#brokenRuns + 1 : 0;
    if (this.#brokenRuns < BROKEN_AFTER) return;
    this.#options.logger.error({ runs: this.#brokenRuns }, "run after run failed in this chain: it ends");
    this.#end(1);
  }

  #remember(run: string): void {
    this.#served.add(run);
    if (this.#served.size <= RUNS_REMEMBERED) return;
    for (const oldest of this.#served) {
      this.#served.delete(oldest);
      return;
    }
  }

  /** Nothing of the run is kept, but its name where it was served. */
  #leave(run: string, relay: ChainRelay): void {
    this.#byRun.delete(run);
    this.#takings.delete(run);
    this.#byNumber.delete(relay.attemptInside);
    this.#taking -= 1;
    for (const wake of [...this.#onRoom]) wake();
    if (this.#taking === 0) this.#waitIdle();
    if (this.#isPaused) this.#resume();
  }

  /** Resolves when a place becomes free. */
  #room(): Promise<void> {
    return new Promise((resolve) => {
      const wake = (): void => {
        this.#onRoom.delete(wake);
        resolve();
      };
      this.#onRoom.add(wake);
    });
  }

  #pause(): void {
    if (this.#isPaused) return;
    this.#isPaused = true;
    const consumer = this.#work;
    this.#work = undefined;
    // Closed at once, and waited for behind what is asked of it now: the message that found no place goes to another chain.
    const closed = consumer?.close();
    this.#turns = this.#turns.then(() => closed).catch((error: unknown) => this.#lostWork(error));
  }

  #resume(): void {
    this.#isPaused = false;
    this.#turns = this.#turns.then(() => this.#goOn()).catch((error: unknown) => this.#lostWork(error));
  }

  async #goOn(): Promise<void> {
    if (this.#ending.signal.aborted || this.#work !== undefined) return;
    const { bus, workQueue } = this.#options;
    this.#work = await bus.consume(workQueue, (delivery) => this.#takeWork(delivery), {
      // The one that finds no place, at most.
      prefetch: 1,
      onLost: (cause) => this.#lostWork(cause),
      onHandlerError: (error) =>
        this.#options.logger.warn({ error: toAppError(error) }, "a request could not be taken; another chain may"),
    });
  }

  #waitIdle(): void {
    this.#idle.abort(OVER);
    this.#idle = new AbortController();
    const signal = AbortSignal.any([this.#idle.signal, this.#ending.signal]);
    this.#options.clock.sleep(this.#options.idleMs, signal).then(
      () => this.#end(0),
      () => undefined, // Used again, or ending.
    );
  }

  /** Nothing more can be taken. A queue that nobody wanted anything of for its time to live is no fault. */
  #lostWork(cause: unknown): void {
    if (this.#ending.signal.aborted) return;
    const { logger } = this.#options;
    const error = toAppError(cause);
    logger.warn({ error, runs: this.#taking }, "the work queue is gone: a persistent chain ends after its runs");
    this.#end(error.code === "not_found" ? 0 : 1);
  }

  /** Without its own queue no run gets what belongs to it, also while the chain is ending already. */
  #lost(message: string, cause: unknown): void {
    for (const relay of this.#byRun.values()) relay.fail(new AppError("job_failed", message, { cause }));
    if (this.#ending.signal.aborted) return;
    this.#options.logger.error({ error: new AppError("unavailable", message, { cause }) }, "a persistent chain ends");
    this.#end(1);
  }

  #end(exitCode: number): void {
    this.#exitCode ||= exitCode;
    this.#ending.abort();
  }
}

/** The request; undefined for a body that is none, which no other chain could read either: it goes to the dead letters. */
function requestOf(delivery: Delivery): RunRequest | undefined {
  try {
    return readBody(RunRequestSchema, delivery);
  } catch (error) {
    if (toAppError(error).code === "bad_request") return undefined;
    throw error;
  }
}
