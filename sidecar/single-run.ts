/**
 * A chain for one run: its request is the first message of the run's own queue, and the program ends with it. One that was started
 * ahead of its request tells the agent when it is ready, and when it has taken it (decision 0021).
 */
import { create } from "@bufbuild/protobuf";
import type { Consumer, Delivery, MessageBus, Settlement } from "../lib/bus/message-bus.ts";
import { MESSAGE_TYPES } from "../lib/bus/message-types.ts";
import { runQueue, runReplyQueue } from "../lib/bus/queues.ts";
import { AppError, toAppError } from "../lib/errors.ts";
import { fromFailureMessage } from "../lib/rpc/frames.ts";
import type { StreamReceipt } from "../lib/rpc/gen/dynamos/v1/microservice_pb.ts";
import {
  CancelSchema,
  ReadySchema,
  RunReportSchema,
  RunRequestSchema,
  TakenSchema,
  type RunRequest,
} from "../lib/rpc/gen/dynamos/v1/run_pb.ts";
import type { Frame } from "../lib/rpc/gen/dynamos/v1/stream_pb.ts";
import type { CallContext } from "../lib/rpc/service.ts";
import { aborted, ChainRelay, type RelayContext } from "./chain-relay.ts";
import { outgoing, readBody } from "./run-messages.ts";

/** What it needs. */
export interface SingleRunOptions extends RelayContext {
  readonly bus: MessageBus;
  /** Names the run's queue. */
  readonly runName: string;
  /** See `prefetchOf`. */
  readonly prefetch: number;
  readonly requestTimeoutMs: number;
  /** Of one that was started ahead of its request: what it does before it says that it is ready. */
  readonly rehearsal: ((signal: AbortSignal) => Promise<void>) | undefined;
}

/** See the file comment. */
export class SingleRun {
  readonly #options: SingleRunOptions;
  /** The run, once its request is there. */
  readonly #active: Promise<ChainRelay>;
  /** Aborted by a failure before there is a run. */
  readonly #failing = new AbortController();
  readonly #over = new AbortController();
  /** Aborted when the request is there: nothing is rehearsed any more. */
  readonly #rehearsing = new AbortController();
  #activate!: (relay: ChainRelay) => void;
  #request: RunRequest | undefined;
  #relay: ChainRelay | undefined;

  constructor(options: SingleRunOptions) {
    this.#options = options;
    this.#active = new Promise((resolve) => (this.#activate = resolve));
  }

  /** Runs to the end. Resolves with the exit code: 0 when the outcome, good or bad, was confirmed at the report address. */
  async run(): Promise<number> {
    const { bus, runName, prefetch, logger } = this.#options;
    let consumer: Consumer | undefined;
    try {
      consumer = await bus.consume(runQueue(runName), (delivery) => this.#take(delivery), {
        prefetch,
        onLost: (cause) => this.#fail(new AppError("job_failed", "The run queue was lost.", { cause })),
      });
      if (this.#isWarm) void this.#reportReady();
      const relay = await Promise.race([this.#active, this.#failed(), this.#requestMissing()]);
      return (await relay.run()) ? 0 : 1;
    } catch (error) {
      logger.error({ error }, "the run has no outcome that could be reported");
      return 1;
    } finally {
      this.#over.abort();
      await consumer?.close();
    }
  }

  /** The call of the last microservice; see `ChainRelay.takeOutput`. */
  async takeOutput(frames: AsyncIterable<Frame>, call: CallContext): Promise<StreamReceipt> {
    return (await Promise.race([this.#active, this.#failed()])).takeOutput(frames, call);
  }

  /** The program was told to stop. */
  stop(): void {
    this.#fail(new AppError("job_failed", "The job was stopped."));
  }

  async #take(delivery: Delivery): Promise<Settlement> {
    try {
      if (delivery.type === MESSAGE_TYPES.sqlDataRequest) return await this.#takeRequest(delivery);
      if (delivery.type === MESSAGE_TYPES.cancel && this.#relay === undefined) return this.#cancel(delivery);
      const relay = this.#relay ?? (await Promise.race([this.#active, aborted(this.#over.signal)]));
      return relay === undefined ? "accept" : await relay.take(delivery);
    } catch (error) {
      this.#fail(toAppError(error));
      return "accept";
    }
  }

  /** The first message. It is settled when the run is over. No other request is ever served. */
  async #takeRequest(delivery: Delivery): Promise<Settlement> {
    const request = readBody(RunRequestSchema, delivery);
    const { runName, logger } = this.#options;
    if (this.#request !== undefined) {
      // The same message again; the first one is settled with the run.
      const isSame = this.#request.requestId === request.requestId && this.#request.attempt === request.attempt;
      if (!isSame) logger.warn({ dataRequest: request.requestId }, "a second request for a chain that serves one");
      return isSame ? "accept" : "reject";
    }
    this.#request = request;
    this.#rehearsing.abort(new AppError("cancelled", "The request is there."));
    const creditAddress = runQueue(runName);
    const { attempt: attemptInside } = request;
    const relay = new ChainRelay({ ...this.#options, request, delivery, creditAddress, attemptInside });
    this.#relay = relay;
    // Before anything else goes out, so that whoever heard nothing knows that nothing was done. Its confirmation nobody waits for.
    const taken = { case: "taken" as const, value: create(TakenSchema, { jobName: runName, queue: creditAddress }) };
    if (this.#isWarm) relay.report(taken).catch((error: unknown) => void relay.fail(toAppError(error)));
    this.#activate(relay);
    await aborted(this.#over.signal);
    return "accept";
  }

  get #isWarm(): boolean {
    return this.#options.rehearsal !== undefined;
  }

  /** Tells the agent that a request finds the run queue consumed, and a chain that has rehearsed. */
  async #reportReady(): Promise<void> {
    const { bus, first, runName, rehearsal } = this.#options;
    const { signal } = this.#over;
    const unclaimed = AbortSignal.any([signal, this.#rehearsing.signal]);
    try {
      await Promise.all([rehearsal?.(unclaimed), first.ready({ signal: unclaimed })]);
      const state = { case: "ready" as const, value: create(ReadySchema) };
      await bus.publish(runReplyQueue(runName), outgoing(MESSAGE_TYPES.runReport, RunReportSchema, { state }));
    } catch (error) {
      // A request that came meanwhile is served as by a cold chain, which says itself what it lacks.
      if (!unclaimed.aborted) this.#fail(toAppError(error));
    }
  }

  /** Before the request has come. */
  #cancel(delivery: Delivery): Settlement {
    const { reason } = readBody(CancelSchema, delivery);
    this.#fail(
      reason === undefined ? new AppError("cancelled", "The request was cancelled.") : fromFailureMessage(reason),
    );
    return "accept";
  }

  #fail(error: AppError): void {
    if (this.#relay === undefined) this.#failing.abort(error.withParty(this.#options.steward));
    else this.#relay.fail(error);
  }

  async #failed(): Promise<never> {
    const { signal } = this.#failing;
    await aborted(signal);
    throw toAppError(signal.reason);
  }

  async #requestMissing(): Promise<never> {
    const { requestTimeoutMs, clock } = this.#options;
    await clock.sleep(requestTimeoutMs, this.#over.signal).catch(() => new Promise<never>(() => undefined));
    throw new AppError("job_failed", `No request came within ${requestTimeoutMs} ms (DYNAMOS_RUN_REQUEST_TIMEOUT_MS).`);
  }
}
