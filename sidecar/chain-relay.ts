/**
 * One run, between the bus and the chain:
 *
 *     messages of the run ──► first microservice ──► … ──► last microservice ──► return address
 *
 * - `single-run.ts` and `persistent-chain.ts` bring the run's messages, from its own queue or from one that runs share;
 * - `provider-input.ts`: one data provider's stream, at a third party;
 * - `result-output.ts`: the result, under credits;
 * - `run-messages.ts`: bodies on the bus.
 *
 * The run has one outcome: its end (confirmed at the return address) or its first failure, from whichever side it comes.
 * Either is reported to the report address; failures only there, because the agent decides on a retry.
 */
import { create } from "@bufbuild/protobuf";
import { MAX_PREFETCH, type Delivery, type MessageBus, type Settlement } from "../lib/bus/message-bus.ts";
import { MESSAGE_TYPES } from "../lib/bus/message-types.ts";
import { publishToRun } from "../lib/bus/run-address.ts";
import type { Clock } from "../lib/clock.ts";
import { AppError, isUnexpected, toAppError } from "../lib/errors.ts";
import { OVER } from "../lib/over.ts";
import type { RpcClient } from "../lib/rpc/client.ts";
import { sendFrames } from "../lib/rpc/frame-sending.ts";
import { fromFailureMessage, FrameWriter, toFailureMessage } from "../lib/rpc/frames.ts";
import {
  MicroserviceService,
  StreamReceiptSchema,
  type StreamReceipt,
} from "../lib/rpc/gen/dynamos/v1/microservice_pb.ts";
import {
  CancelSchema,
  CreditSchema,
  HandingOnSchema,
  RunReportSchema,
  type RunReport,
  type RunRequest,
} from "../lib/rpc/gen/dynamos/v1/run_pb.ts";
import { FrameSchema, type End, type Failure, type Frame } from "../lib/rpc/gen/dynamos/v1/stream_pb.ts";
import type { CallContext } from "../lib/rpc/service.ts";
import type { Logger } from "../lib/telemetry/logger.ts";
import { newTraceContext, parseTraceContext, traceHeaders, type TraceContext } from "../lib/telemetry/trace-context.ts";
import { withSpan } from "../lib/telemetry/tracing.ts";
import { ProviderInput } from "./provider-input.ts";
import { ResultOutput } from "./result-output.ts";
import { outgoing, readBody } from "./run-messages.ts";

/** Messages of a run queue beside frames with data: the request, which is held to the end, a cancel, our own credits. */
const CONTROL_MESSAGES = 32;
/** Of each provider: start, end or failure, of two attempts. */
const CONTROL_FRAMES = 4;

/**
 * Messages of one run in hand at a time: above what credits bound, so that a provider who waits for the joiner never
 * keeps another's frames, or our own credits, from coming in.
 */
export function prefetchOf(credits: number, dataProviders: number): number {
  return Math.min(MAX_PREFETCH, CONTROL_MESSAGES + (credits + CONTROL_FRAMES) * Math.max(1, dataProviders));
}

/** Runs that one queue has room for: no more at once than a consumer may hold messages of, so that none keeps another waiting. */
export function runsWithRoom(concurrency: number, prefetchOfRun: number): number {
  return Math.max(1, Math.min(concurrency, Math.floor(MAX_PREFETCH / prefetchOfRun)));
}

/** How long the chain's calls may take to end after the result has been confirmed. */
const CHAIN_END_LIMIT_MS = 2000;

/** What the runs of one sidecar share. */
export interface RelayContext {
  readonly bus: Pick<MessageBus, "publish">;
  /** The connection to the chain's first microservice. */
  readonly first: RpcClient;
  /** This party. */
  readonly steward: string;
  readonly stallTimeoutMs: number;
  readonly logger: Logger;
  readonly clock: Clock;
}

/** What a relay needs. */
export interface ChainRelayOptions extends RelayContext {
  readonly request: RunRequest;
  /** The message that brought the request: its headers have the trace where the request has none. */
  readonly delivery: Pick<Delivery, "headers">;
  /** Where this run's credits go (`lib/bus/run-address.ts`). */
  readonly creditAddress: string;
  /**
   * The attempt that the frames inside the chain carry. Microservices tell runs apart by request and attempt; a chain that serves
   * several at once numbers them, since request ids are not unique.
   */
  readonly attemptInside: number;
}

/** See the file comment. */
export class ChainRelay {
  readonly #options: ChainRelayOptions;
  readonly #trace: TraceContext;
  readonly #output: ResultOutput;
  /** By provider; empty where the chain reads data itself. */
  readonly #inputs: ReadonlyMap<string, ProviderInput>;
  /** Aborted by the first failure. */
  readonly #failing = new AbortController();
  /** Aborted when the run is over, whatever its outcome. */
  readonly #over = new AbortController();
  /** Resolves when the end has been confirmed and reported. */
  readonly #whole: Promise<void>;
  readonly #failed: Promise<never>;
  readonly #calls: Promise<void>[] = [];
  #becomeWhole!: () => void;
  #hasOutput = false;
  #isEndPublished = false;

  constructor(options: ChainRelayOptions) {
    this.#options = options;
    const { request, delivery, creditAddress, attemptInside, bus, stallTimeoutMs, clock } = options;
    this.#trace =
      parseTraceContext({ traceparent: request.traceparent, tracestate: request.tracestate }) ??
      parseTraceContext(delivery.headers) ??
      newTraceContext();
    this.#output = new ResultOutput({
      bus,
      run: request,
      creditAddress,
      stallTimeoutMs,
      clock,
      onHandingOn: () => this.report({ case: "handingOn", value: create(HandingOnSchema) }),
    });
    const inside = { ...request, attempt: attemptInside };
    this.#inputs = new Map(request.dataProviders.map((provider) => [provider, this.#input(provider, inside)]));
    this.#whole = new Promise((resolve) => (this.#becomeWhole = resolve));
    this.#failed = aborted(this.#failing.signal).then(() => {
      throw toAppError(this.#failing.signal.reason);
    });
    // Whoever waits for it hears of it.
    this.#failed.catch(() => undefined);
  }

  /** See {@link ChainRelayOptions.attemptInside}. */
  get attemptInside(): number {
    return this.#options.attemptInside;
  }

  /** Why the run failed, once it has. */
  get failure(): AppError | undefined {
    const { signal } = this.#failing;
    return signal.aborted ? toAppError(signal.reason) : undefined;
  }

  /** Runs to the end. Resolves with whether the outcome, good or bad, was confirmed at the report address. */
  async run(): Promise<boolean> {
    const { request, logger, attemptInside } = this.#options;
    try {
      void this.#watchDeadline(Number(request.deadlineMs));
      if (this.#inputs.size === 0) this.#send(questionFrames({ ...request, attempt: attemptInside }, this.#trace));
      await this.#outcome();
      return true;
    } catch (error) {
      logger.error({ error }, "the run has no outcome that could be reported");
      return false;
    } finally {
      this.#over.abort(OVER);
      await Promise.all([...this.#inputs.values()].map((input) => input.close()));
    }
  }

  /** The call of the last microservice: answers once the result's end is confirmed and reported. */
  async takeOutput(frames: AsyncIterable<Frame>, call: CallContext): Promise<StreamReceipt> {
    if (this.#hasOutput) throw new AppError("conflict", "The sidecar takes one result per run.", { retryable: false });
    this.#hasOutput = true;
    try {
      const end = await Promise.race([this.#publish(frames, call), this.#failed]);
      return create(StreamReceiptSchema, { rows: end.rows, batches: end.batches });
    } catch (error) {
      const isGone = call.signal.aborted && !this.#failing.signal.aborted;
      throw this.fail(isGone ? lastElementGone(call.signal) : toAppError(error));
    }
  }

  /** Takes a frame of a provider, credits or a cancel; resolves with what becomes of it, a frame's when it was handed on. */
  async take(delivery: Delivery): Promise<Settlement> {
    if (this.#over.signal.aborted) return "accept";
    try {
      switch (delivery.type) {
        case MESSAGE_TYPES.frame:
          return await this.#takeFrame(readBody(FrameSchema, delivery));
        case MESSAGE_TYPES.credit:
          this.#output.giveBack(readBody(CreditSchema, delivery).chunks);
          return "accept";
        case MESSAGE_TYPES.cancel:
          this.cancel(readBody(CancelSchema, delivery).reason);
          return "accept";
        default:
          this.#options.logger.warn({ type: delivery.type }, "a message of this type does not belong on a run queue");
          return "reject";
      }
    } catch (error) {
      this.fail(toAppError(error));
      return "accept";
    }
  }

  /** Somebody ends the run; the reason is its failure. */
  cancel(reason: Failure | undefined): void {
    const cancelled = new AppError("cancelled", "The request was cancelled.");
    this.#failing.abort(reason === undefined ? cancelled : fromFailureMessage(reason));
  }

  /** The first failure is the run's; after the confirmed end there is none. */
  fail(error: AppError): AppError {
    const failure = error.withParty(this.#options.steward);
    if (isUnexpected(failure)) this.#options.logger.error({ error: failure }, "the run failed here");
    if (!this.#isEndPublished) this.#failing.abort(failure);
    return failure;
  }

  /** Tells the agent; resolves when that is confirmed. */
  async report(state: RunReport["state"]): Promise<void> {
    const { requestId, attempt, reportAddress } = this.#options.request;
    const report = outgoing(MESSAGE_TYPES.runReport, RunReportSchema, { requestId, attempt, state }, this.#trace);
    await publishToRun(this.#options.bus, reportAddress, report);
  }

  async #publish(frames: AsyncIterable<Frame>, call: CallContext): Promise<End> {
    const { request } = this.#options;
    const attributes = { "dynamos.steward": request.steward };
    const end = await withSpan("publish result", call.trace ?? this.#trace, attributes, (span) =>
      this.#output.publish(frames, span, AbortSignal.any([call.signal, this.#failing.signal])),
    );
    this.#isEndPublished = true;
    if (!request.endIsEnough) await this.report({ case: "ended", value: end });
    this.#becomeWhole();
    return end;
  }

  /** Waits for the end, or reports the failure. */
  async #outcome(): Promise<void> {
    try {
      await Promise.race([this.#whole, this.#failed]);
    } catch (error) {
      await this.report({ case: "failed", value: toFailureMessage(error) });
    }
    // The answers travel back along the chain; nothing depends on them any more.
    await Promise.race([Promise.all(this.#calls), this.#sleep(CHAIN_END_LIMIT_MS)]);
  }

  async #takeFrame(frame: Frame): Promise<Settlement> {
    const input = this.#inputs.get(frame.provider);
    if (input === undefined || frame.requestId !== this.#options.request.requestId) {
      this.#options.logger.warn({ provider: frame.provider }, "a frame of a stream that this run does not take");
      return "reject";
    }
    await input.take(frame);
    return "accept";
  }

  #input(provider: string, run: RunRequest): ProviderInput {
    return new ProviderInput({
      provider,
      run,
      send: (frames) => this.#send(frames),
      returnCredits: (address, attempt, chunks) => {
        const credit = { requestId: run.requestId, attempt, chunks };
        return publishToRun(this.#options.bus, address, outgoing(MESSAGE_TYPES.credit, CreditSchema, credit));
      },
      onError: (error) => this.fail(error),
    });
  }

  /** Calls the first microservice. */
  #send(frames: AsyncIterable<Frame>): void {
    const { first, request } = this.#options;
    const options = { signal: this.#failing.signal, deadlineMs: Number(request.deadlineMs), trace: this.#trace };
    const call = sendFrames(first, MicroserviceService.method.process, frames, options).then(
      () => undefined,
      (error: unknown) => void this.fail(toAppError(error)),
    );
    this.#calls.push(call);
  }

  async #watchDeadline(deadlineMs: number): Promise<void> {
    if (!(await this.#sleep(deadlineMs - this.#options.clock.now()))) return;
    this.fail(new AppError("deadline_exceeded", "The request's deadline passed."));
  }

  /** Whether so much time passed before the run was over. */
  async #sleep(ms: number): Promise<boolean> {
    const { signal } = this.#over;
    return this.#options.clock.sleep(ms, signal).then(
      () => true,
      () => false,
    );
  }
}

/** What a chain gets that reads data itself: the question, and no rows. */
async function* questionFrames(run: RunRequest, trace: TraceContext): AsyncGenerator<Frame> {
  const { steward, requestId, attempt, grant, request, data } = run;
  const writer = new FrameWriter({ provider: steward, requestId, attempt });
  yield writer.start({ grants: [grant], data, ...(request === undefined ? {} : { request }), ...traceHeaders(trace) });
  yield writer.end();
}

function lastElementGone(signal: AbortSignal): AppError {
  const reason = toAppError(signal.reason);
  if (reason.code === "deadline_exceeded") return reason;
  return new AppError("job_failed", "The chain's last microservice stopped before its result was whole.", {
    cause: reason,
  });
}

/** Resolves when the signal is aborted. */
export function aborted(signal: AbortSignal): Promise<undefined> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve(undefined);
    else signal.addEventListener("abort", () => resolve(undefined), { once: true });
  });
}
