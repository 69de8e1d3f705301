/**
 * One run, between the bus and the chain:
 *
 *     run queue ──► first microservice ──► … ──► last microservice ──► return address
 *
 * - `provider-input.ts`: one data provider's stream, at a third party;
 * - `result-output.ts`: the result, under credits;
 * - `run-messages.ts`: bodies on the bus.
 *
 * The run has one outcome: its end (confirmed at the return address) or its first failure, from whichever side it comes.
 * Either is reported to the report address; failures only there, because the agent decides on a retry.
 */
import { create } from "@bufbuild/protobuf";
import type { Consumer, Delivery, MessageBus, Settlement } from "../lib/bus/message-bus.ts";
import { MESSAGE_TYPES } from "../lib/bus/message-types.ts";
import { runQueue } from "../lib/bus/queues.ts";
import type { Clock } from "../lib/clock.ts";
import { AppError, isUnexpected, toAppError } from "../lib/errors.ts";
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
  RunRequestSchema,
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
 * Messages of the run queue in hand at a time: above what credits bound, so that a provider who waits for the joiner never
 * keeps another's frames, or our own credits, from coming in.
 */
export function prefetchOf(credits: number, dataProviders: number): number {
  return CONTROL_MESSAGES + (credits + CONTROL_FRAMES) * Math.max(1, dataProviders);
}

/** How long the chain's calls may take to end after the result has been confirmed. */
const CHAIN_END_LIMIT_MS = 2000;

/** What a relay needs. */
export interface ChainRelayOptions {
  readonly bus: MessageBus;
  /** The connection to the chain's first microservice. */
  readonly first: RpcClient;
  readonly runName: string;
  /** This party. */
  readonly steward: string;
  /** See {@link prefetchOf}. */
  readonly prefetch: number;
  readonly requestTimeoutMs: number;
  readonly stallTimeoutMs: number;
  readonly logger: Logger;
  readonly clock: Clock;
}

/** A run that has its request. */
interface ActiveRun {
  readonly request: RunRequest;
  readonly trace: TraceContext;
  readonly output: ResultOutput;
  /** By provider; empty where the chain reads data itself. */
  readonly inputs: ReadonlyMap<string, ProviderInput>;
}

/** See the file comment. */
export class ChainRelay {
  readonly #options: ChainRelayOptions;
  /** Aborted by the first failure. */
  readonly #failing = new AbortController();
  /** Aborted when the run is over, whatever its outcome. */
  readonly #over = new AbortController();
  readonly #active: Promise<ActiveRun>;
  /** Resolves when the end has been confirmed and reported. */
  readonly #whole: Promise<void>;
  readonly #failed: Promise<never>;
  readonly #calls: Promise<void>[] = [];
  #activate!: (run: ActiveRun) => void;
  #becomeWhole!: () => void;
  #run: ActiveRun | undefined;
  #hasOutput = false;
  #isEndPublished = false;

  constructor(options: ChainRelayOptions) {
    this.#options = options;
    this.#active = new Promise((resolve) => (this.#activate = resolve));
    this.#whole = new Promise((resolve) => (this.#becomeWhole = resolve));
    this.#failed = aborted(this.#failing.signal).then(() => {
      throw toAppError(this.#failing.signal.reason);
    });
    // Whoever waits for it hears of it.
    this.#failed.catch(() => undefined);
  }

  /** Runs to the end. Resolves with whether the outcome, good or bad, was confirmed at the report address. */
  async run(): Promise<boolean> {
    const { bus, runName, logger } = this.#options;
    let consumer: Consumer | undefined;
    try {
      consumer = await bus.consume(runQueue(runName), (delivery) => this.#take(delivery), {
        prefetch: this.#options.prefetch,
        onLost: (cause) => this.#fail(new AppError("job_failed", "The run queue was lost.", { cause })),
      });
      await Promise.race([this.#active, this.#failed, this.#requestMissing()]);
      await this.#outcome();
      return true;
    } catch (error) {
      logger.error({ error }, "the run has no outcome that could be reported");
      return false;
    } finally {
      this.#over.abort();
      await Promise.all([...(this.#run?.inputs.values() ?? [])].map((input) => input.close()));
      await consumer?.close();
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
      throw this.#fail(isGone ? lastElementGone(call.signal) : toAppError(error));
    }
  }

  /** The program was told to stop. */
  stop(): void {
    this.#fail(new AppError("job_failed", "The job was stopped."));
  }

  async #publish(frames: AsyncIterable<Frame>, call: CallContext): Promise<End> {
    const { request, trace, output } = await this.#active;
    const end = await withSpan("publish result", call.trace ?? trace, { "dynamos.steward": request.steward }, (span) =>
      output.publish(frames, span, AbortSignal.any([call.signal, this.#failing.signal])),
    );
    this.#isEndPublished = true;
    await this.#report({ case: "ended", value: end });
    this.#becomeWhole();
    return end;
  }

  /** Waits for the end, or reports the failure. */
  async #outcome(): Promise<void> {
    try {
      await Promise.race([this.#whole, this.#failed]);
    } catch (error) {
      await this.#report({ case: "failed", value: toFailureMessage(error) });
      return;
    }
    // The answers travel back along the chain; nothing depends on them any more.
    await Promise.race([Promise.all(this.#calls), this.#sleep(CHAIN_END_LIMIT_MS)]);
  }

  async #take(delivery: Delivery): Promise<Settlement> {
    try {
      switch (delivery.type) {
        case MESSAGE_TYPES.sqlDataRequest:
          return await this.#takeRequest(readBody(RunRequestSchema, delivery), delivery);
        case MESSAGE_TYPES.frame:
          return await this.#takeFrame(readBody(FrameSchema, delivery));
        case MESSAGE_TYPES.credit:
          (await this.#activeRun())?.output.giveBack(readBody(CreditSchema, delivery).chunks);
          return "accept";
        case MESSAGE_TYPES.cancel:
          this.#cancel(readBody(CancelSchema, delivery).reason);
          return "accept";
        default:
          this.#options.logger.warn({ type: delivery.type }, "a message of this type does not belong on a run queue");
          return "reject";
      }
    } catch (error) {
      this.#fail(toAppError(error));
      return "accept";
    }
  }

  /** The first message. It is settled when the run is over. */
  async #takeRequest(request: RunRequest, delivery: Delivery): Promise<Settlement> {
    // The same message again; the first one is settled with the run.
    if (this.#run !== undefined) return "accept";
    const trace =
      parseTraceContext({ traceparent: request.traceparent, tracestate: request.tracestate }) ??
      parseTraceContext(delivery.headers) ??
      newTraceContext();
    const { bus, runName, stallTimeoutMs, clock } = this.#options;
    const output = new ResultOutput({
      bus,
      run: request,
      runQueue: runQueue(runName),
      stallTimeoutMs,
      clock,
      onHandingOn: () => this.#report({ case: "handingOn", value: create(HandingOnSchema) }),
    });
    const inputs = new Map(request.dataProviders.map((provider) => [provider, this.#input(provider, request, trace)]));
    this.#run = { request, trace, output, inputs };
    this.#activate(this.#run);
    void this.#watchDeadline(Number(request.deadlineMs));
    if (inputs.size === 0) this.#send(questionFrames(request, trace), request, trace);
    await aborted(this.#over.signal);
    return "accept";
  }

  async #takeFrame(frame: Frame): Promise<Settlement> {
    const run = await this.#activeRun();
    if (run === undefined) return "accept";
    const input = run.inputs.get(frame.provider);
    if (input === undefined || frame.requestId !== run.request.requestId) {
      this.#options.logger.warn({ provider: frame.provider }, "a frame of a stream that this run does not take");
      return "reject";
    }
    await input.take(frame);
    return "accept";
  }

  /** The run, once its request is there; undefined when it is over before. */
  async #activeRun(): Promise<ActiveRun | undefined> {
    return this.#run ?? Promise.race([this.#active, aborted(this.#over.signal)]);
  }

  #input(provider: string, run: RunRequest, trace: TraceContext): ProviderInput {
    return new ProviderInput({
      provider,
      run,
      send: (frames) => this.#send(frames, run, trace),
      returnCredits: (queue, attempt, chunks) => {
        const credit = { requestId: run.requestId, attempt, chunks };
        return this.#options.bus.publish(queue, outgoing(MESSAGE_TYPES.credit, CreditSchema, credit));
      },
      onError: (error) => this.#fail(error),
    });
  }

  /** Calls the first microservice. */
  #send(frames: AsyncIterable<Frame>, run: RunRequest, trace: TraceContext): void {
    const options = { signal: this.#failing.signal, deadlineMs: Number(run.deadlineMs), trace };
    const call = sendFrames(this.#options.first, MicroserviceService.method.process, frames, options).then(
      () => undefined,
      (error: unknown) => void this.#fail(toAppError(error)),
    );
    this.#calls.push(call);
  }

  async #report(state: RunReport["state"]): Promise<void> {
    const { request, trace } = await this.#active;
    const { requestId, attempt } = request;
    const report = outgoing(MESSAGE_TYPES.runReport, RunReportSchema, { requestId, attempt, state }, trace);
    await this.#options.bus.publish(request.reportAddress, report);
  }

  #cancel(reason: Failure | undefined): void {
    const cancelled = new AppError("cancelled", "The request was cancelled.");
    this.#failing.abort(reason === undefined ? cancelled : fromFailureMessage(reason));
  }

  /** The first failure is the run's; after the confirmed end there is none. */
  #fail(error: AppError): AppError {
    const failure = error.withParty(this.#options.steward);
    if (isUnexpected(failure)) this.#options.logger.error({ error: failure }, "the run failed here");
    if (!this.#isEndPublished) this.#failing.abort(failure);
    return failure;
  }

  async #watchDeadline(deadlineMs: number): Promise<void> {
    if (!(await this.#sleep(deadlineMs - this.#options.clock.now()))) return;
    this.#fail(new AppError("deadline_exceeded", "The request's deadline passed."));
  }

  async #requestMissing(): Promise<void> {
    const { requestTimeoutMs } = this.#options;
    if (!(await this.#sleep(requestTimeoutMs))) return;
    throw new AppError("job_failed", `No request came within ${requestTimeoutMs} ms (DYNAMOS_RUN_REQUEST_TIMEOUT_MS).`);
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

function aborted(signal: AbortSignal): Promise<undefined> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve(undefined);
    else signal.addEventListener("abort", () => resolve(undefined), { once: true });
  });
}
