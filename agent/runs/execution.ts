/**
 * One attempt at a data request (decision 1: an execution), on the chain that was claimed for it. Whatever happens, at the end the
 * chain is let go of: what still works on the attempt is ended, for which nobody waits.
 *
 * States: begun → frames and reports come in by the reply queue → ended or failed → cleaned up. What the job runner says counts only
 * where the sidecar itself has no word left: a sidecar that was killed reports nothing.
 */
import { randomUUID } from "node:crypto";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { MESSAGE_TYPES } from "../../lib/bus/message-types.ts";
import type { Delivery, MessageBus, Settlement } from "../../lib/bus/message-bus.ts";
import { publishToRun } from "../../lib/bus/run-address.ts";
import type { Clock } from "../../lib/clock.ts";
import { AppError, fromFailure, toAppError, type Failure } from "../../lib/errors.ts";
import { OVER } from "../../lib/over.ts";
import { CreditReturn } from "../../lib/rpc/credits.ts";
import { separated } from "../../lib/rpc/frame-groups.ts";
import { fromFailureMessage, takesCredit } from "../../lib/rpc/frames.ts";
import { CreditSchema, RunReportSchema, type RunReport, type RunRequest } from "../../lib/rpc/gen/dynamos/v1/run_pb.ts";
import { FrameSchema, type End, type Frame } from "../../lib/rpc/gen/dynamos/v1/stream_pb.ts";
import type { Logger } from "../../lib/telemetry/logger.ts";
import type { TraceContext } from "../../lib/telemetry/trace-context.ts";
import { withSpan } from "../../lib/telemetry/tracing.ts";
import type { ChainReceiver, ClaimedChain } from "../chains/claimed-chain.ts";

/** After the job has ended by itself, its last messages may take this long to arrive. */
const LAST_WORDS_MS = 10_000;
/** Mostly they have arrived by then, and tell the outcome themselves. */
const HANDING_OVER_MS = 100;

/** A bus that was away when a run ended comes back: what it holds of the run is removed after one of these pauses. */
const CLEAN_UP_PAUSES_MS = [1_000, 3_000, 10_000, 20_000, 40_000, 60_000, 120_000];
const NOT_CLEANED_UP = "a run could not be cleaned up";

/**
 * A sidecar knows only that a part of its chain is gone. What took it away the job runner knows, somewhat later: on a cluster it
 * hears of a container's end after a second, and tells it when the others are ended, too.
 */
const EXACT_CAUSE_MS = 8_000;

/** How long a chain may take to end by itself, so that its processes send their spans and need no killing: after its end, after a failure. */
const LAST_STEPS_MS = 5_000;
const LAST_STEPS_OF_FAILED_MS = 2_000;

/** What an execution works with. */
export interface ExecutionDependencies {
  readonly bus: MessageBus;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Takes what goes on after an attempt that went well; absent: it is waited for. */
  readonly afterwards?: (work: Promise<void>) => void;
}

/** One attempt to run. */
export interface ExecutionPlan {
  /** Nobody else's, and not begun. */
  readonly chain: ClaimedChain;
  readonly request: RunRequest;
  readonly trace: TraceContext;
  /** See `ChainBeginning`. */
  readonly onQueueReady?: (queue: string) => Promise<void>;
}

/** What comes out of an execution, in order. */
export type ExecutionEvent =
  /** A frame of the result; it is settled, and credit returned, when the next event is asked for. */
  | { readonly kind: "frame"; readonly frame: Frame }
  /** Chunks go to the return address from here on (decision 2: no retry any more). */
  | { readonly kind: "handingOn" }
  /** The end has been confirmed at the return address; the last event. */
  | { readonly kind: "ended"; readonly end: End };

/**
 * Runs one attempt. Ending the iteration early, or aborting the signal, stops the job.
 *
 * @throws AppError what made it fail; `retryable` says whether another attempt may help.
 */
export async function* execute(
  dependencies: ExecutionDependencies,
  plan: ExecutionPlan,
  signal: AbortSignal,
): AsyncGenerator<ExecutionEvent, void, undefined> {
  const { clock, logger } = dependencies;
  const { chain, request, trace, onQueueReady } = plan;
  const inbox = new Inbox(request);
  const ending = new AbortController();
  let lastStepsMs = 0;
  let isWhole = false;
  let hasSaidAll = false;
  let verdict: Promise<AppError | undefined> | undefined;
  const onAbort = (): void => inbox.fail(toAppError(signal.reason));
  signal.addEventListener("abort", onAbort, { once: true });
  try {
    signal.throwIfAborted();
    const beginning = { request, trace, receiver: inbox, ...(onQueueReady === undefined ? {} : { onQueueReady }) };
    const attributes = { "dynamos.chain.lifetime": chain.lifetime };
    await withSpan("begin chain", trace, attributes, () => chain.begin(beginning));
    verdict = watchJob(dependencies, plan, inbox, ending.signal);
    for await (const event of events(inbox, dependencies.bus, plan)) {
      // With its last frame a reader has what it wants, and may ask for no more.
      const isLast = event.kind === "ended" || (event.kind === "frame" && event.frame.body.case === "end");
      if (isLast) lastStepsMs = LAST_STEPS_MS;
      hasSaidAll = isLast && (event.kind === "ended" || request.endIsEnough);
      yield event;
    }
    isWhole = true;
  } catch (error) {
    lastStepsMs = signal.aborted ? 0 : LAST_STEPS_OF_FAILED_MS;
    throw await exactCause(toAppError(error), verdict, clock, signal);
  } finally {
    signal.removeEventListener("abort", onAbort);
    ending.abort(OVER);
    inbox.close();
    // On a cluster a pod takes seconds to end: nobody waits for it. An agent that stops ends what is left by closing the runner.
    void cleanUp(logger, () => chain.end(lastStepsMs, hasSaidAll));
    const closed = cleanUp(logger, () => chain.close());
    // An answer that is whole does not wait for its queues to go.
    if (isWhole && dependencies.afterwards !== undefined) dependencies.afterwards(closed);
    else await closed;
  }
}

async function* events(inbox: Inbox, bus: MessageBus, plan: ExecutionPlan): AsyncGenerator<ExecutionEvent> {
  const expectsFrames = plan.request.returnAddress === plan.request.reportAddress;
  let credits: CreditReturn | undefined;
  let frameEnd: End | undefined;
  try {
    for (;;) {
      const item = await inbox.next();
      if (item.kind === "frame") {
        const { frame } = item;
        if (frame.body.case === "failure") throw fromFailureMessage(frame.body.value);
        if (frame.body.case === "end") frameEnd = frame.body.value;
        if (frame.body.case === "start") {
          credits = creditReturn(bus, plan.request, frame.body.value.creditQueue, inbox);
        }
        yield { kind: "frame", frame };
        item.settle();
        if (takesCredit(frame)) credits?.settle();
        if (frameEnd !== undefined && plan.request.endIsEnough) {
          yield { kind: "ended", end: frameEnd };
          return;
        }
        continue;
      }
      item.settle();
      const { state } = item.report;
      if (state.case === "failed") throw fromFailureMessage(state.value);
      // Where the frames come to us, it is we who hand them on, and know when.
      if (state.case === "handingOn" && !expectsFrames) yield { kind: "handingOn" };
      if (state.case === "ended") {
        if (expectsFrames && frameEnd === undefined) {
          throw new AppError("job_failed", "The sidecar reported the end, but no end frame came.");
        }
        yield { kind: "ended", end: state.value };
        return;
      }
    }
  } finally {
    await credits?.close();
  }
}

/** What made a chain fail, as exactly as can be had in time. */
async function exactCause(
  failure: AppError,
  verdict: Promise<AppError | undefined> | undefined,
  clock: Clock,
  signal: AbortSignal,
): Promise<AppError> {
  if (failure.code !== "job_failed" || verdict === undefined || signal.aborted) return failure;
  const over = new AbortController();
  const limit = clock.sleep(EXACT_CAUSE_MS, AbortSignal.any([signal, over.signal])).catch(() => undefined);
  const told = (await Promise.race([verdict, limit])) ?? undefined;
  over.abort(OVER);
  return told === undefined || told.code === "cancelled" ? failure : told;
}

/**
 * Turns the job's own end into the inbox's, once messages under way have had their time. Resolves before that, with what made the
 * job fail.
 */
async function watchJob(
  dependencies: ExecutionDependencies,
  plan: ExecutionPlan,
  inbox: Inbox,
  signal: AbortSignal,
): Promise<AppError | undefined> {
  try {
    for await (const { name, phase, failure } of plan.chain.watch(signal)) {
      if (phase !== "failed" && phase !== "succeeded") continue;
      const error = failure && jobError(name, failure, dependencies.logger);
      void failAfterLastWords(dependencies, plan, inbox, error, signal);
      return error;
    }
  } catch (error) {
    // An abort is the run's own end; anything else is the run's failure.
    if (!signal.aborted) inbox.fail(toAppError(error));
  }
  return undefined;
}

async function failAfterLastWords(
  dependencies: ExecutionDependencies,
  plan: ExecutionPlan,
  inbox: Inbox,
  error: AppError | undefined,
  signal: AbortSignal,
): Promise<void> {
  try {
    await lastWords(dependencies, plan, inbox, signal);
    inbox.fail(error ?? new AppError("job_failed", "The job ended without a result."));
  } catch (thrown) {
    if (!signal.aborted) inbox.fail(toAppError(thrown));
  }
}

/** The failure of a job, without the lines that its containers wrote: these stay with the steward, in the job's kept log. */
function jobError(name: string, failure: Failure, logger: Logger): AppError {
  const { log, ...details } = failure.details ?? {};
  const { container, exitCode, signal } = details;
  const lines = Array.isArray(log) ? log.length : 0;
  logger.warn({ run: name, code: failure.code, container, exitCode, signal, lines }, "a job failed; its log is kept");
  return fromFailure({ ...failure, details });
}

/**
 * Waits until all that a job published before it ended is in our hands: a message of our own, behind it in the same queue, says so.
 * The consumer's prefetch has room for it whatever the reader does. Where the bus is away, what the runner knows is all there is.
 */
async function lastWords(
  { bus, clock, logger }: ExecutionDependencies,
  { chain, request: { requestId, attempt } }: ExecutionPlan,
  inbox: Inbox,
  signal: AbortSignal,
): Promise<void> {
  await clock.sleep(HANDING_OVER_MS, signal);
  const messageId = randomUUID();
  const arrived = inbox.arrivalOf(messageId);
  const over = new AbortController();
  const limit = clock.sleep(LAST_WORDS_MS, AbortSignal.any([signal, over.signal]));
  try {
    const body = toBinary(RunReportSchema, create(RunReportSchema, { requestId, attempt }));
    const asked = publishToRun(bus, chain.replyQueue, { type: MESSAGE_TYPES.runReport, messageId, body });
    await Promise.race([Promise.all([asked, arrived]), limit]);
  } catch (error) {
    if (signal.aborted) throw error;
    logger.warn({ error: toAppError(error) }, "the last messages of a job could not be waited for");
  } finally {
    // Both may go on behind the one that came first; neither has anything to say any more.
    limit.catch(() => undefined);
    over.abort(OVER);
  }
}

/** Returns credits to the sidecar, where its stream asks for them. */
function creditReturn(
  bus: MessageBus,
  { requestId, attempt, credits }: RunRequest,
  address: string,
  inbox: Inbox,
): CreditReturn {
  return new CreditReturn({
    batch: Math.max(1, Math.floor(credits / 2)),
    send: (chunks) => {
      const body = toBinary(CreditSchema, create(CreditSchema, { requestId, attempt, chunks }));
      return publishToRun(bus, address, { type: MESSAGE_TYPES.credit, body });
    },
    onError: (error) => inbox.fail(error),
  });
}

type InboxItem =
  | { readonly kind: "frame"; readonly frame: Frame; readonly settle: () => void }
  | { readonly kind: "report"; readonly report: RunReport; readonly settle: () => void };

function nothing(): void {}

/** What arrived and is not settled yet: at most the consumer's prefetch. A failure comes after what arrived before it. */
class Inbox implements ChainReceiver {
  readonly #run: Pick<RunRequest, "requestId" | "attempt">;
  readonly #waiting: InboxItem[] = [];
  readonly #unsettled = new Set<() => void>();
  #failure: AppError | undefined;
  #wake: (() => void) | undefined;
  #awaited: { readonly messageId: string; readonly arrived: () => void } | undefined;

  constructor(run: Pick<RunRequest, "requestId" | "attempt">) {
    this.#run = run;
  }

  /** Takes a delivery in; resolves when it has been settled by whoever took it out, or by {@link close}. */
  async take(delivery: Delivery): Promise<Settlement> {
    if (delivery.messageId === this.#awaited?.messageId) {
      this.#awaited.arrived();
      return "accept";
    }
    if (this.#failure !== undefined) return "accept";
    const { promise, settle } = this.#settlement();
    if (delivery.type === MESSAGE_TYPES.frame) {
      const frames = separated(fromBinary(FrameSchema, delivery.body)).filter((frame) => this.#isOurs(frame));
      const last = frames.length - 1;
      frames.forEach((frame, index) => this.#push({ kind: "frame", frame, settle: index === last ? settle : nothing }));
      if (frames.length === 0) settle();
    } else if (delivery.type === MESSAGE_TYPES.runReport) {
      const report = fromBinary(RunReportSchema, delivery.body);
      if (this.#isOurs(report)) this.#push({ kind: "report", report, settle });
      else settle();
    } else {
      settle();
      return "reject";
    }
    await promise;
    return "accept";
  }

  /** Resolves when this message has arrived, and with it all that stood before it in the queue. */
  arrivalOf(messageId: string): Promise<void> {
    return new Promise((arrived) => {
      this.#awaited = { messageId, arrived };
    });
  }

  async next(): Promise<InboxItem> {
    for (;;) {
      const item = this.#waiting.shift();
      if (item !== undefined) return item;
      if (this.#failure !== undefined) throw this.#failure;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  fail(error: AppError): void {
    this.#failure ??= error;
    this.#wake?.();
  }

  /** Settles what nobody will take any more, so that the consumer can close. */
  close(): void {
    this.fail(new AppError("cancelled", "The run has ended."));
    for (const settle of [...this.#unsettled]) settle();
  }

  #isOurs({ requestId, attempt }: Pick<RunRequest, "requestId" | "attempt">): boolean {
    return requestId === this.#run.requestId && attempt === this.#run.attempt;
  }

  #settlement(): { readonly promise: Promise<void>; readonly settle: () => void } {
    let resolvePromise: () => void = () => {};
    const promise = new Promise<void>((resolve) => {
      resolvePromise = resolve;
    });
    const settle = (): void => {
      this.#unsettled.delete(settle);
      resolvePromise();
    };
    this.#unsettled.add(settle);
    return { promise, settle };
  }

  #push(item: InboxItem): void {
    this.#waiting.push(item);
    this.#wake?.();
  }
}

/**
 * Does a step of cleaning up. The run's outcome stands whatever comes of it; where the bus was away it is tried again in the
 * background. What is left even then has an end of its own (queues expire, jobs have a deadline).
 */
async function cleanUp(logger: Logger, step: () => Promise<void>): Promise<void> {
  const error = await step().then(() => undefined, toAppError);
  if (error?.code === "unavailable") void cleanUpAgain(logger, step);
  else if (error !== undefined) logger.error({ error }, NOT_CLEANED_UP);
}

async function cleanUpAgain(logger: Logger, step: () => Promise<void>): Promise<void> {
  let error: AppError | undefined;
  for (const pauseMs of CLEAN_UP_PAUSES_MS) {
    // A process that ends does not wait for it.
    await new Promise<void>((resolve) => void setTimeout(resolve, pauseMs).unref());
    error = await step().then(() => undefined, toAppError);
    if (error?.code !== "unavailable") break;
  }
  if (error !== undefined) logger.error({ error }, NOT_CLEANED_UP);
}
