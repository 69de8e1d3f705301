/**
 * One attempt at a data request (decision 1: an execution): its own run queue and reply queue, its own job. Whatever
 * happens, at the end the job is stopped and both queues are gone.
 *
 * States: queues declared → job started → frames and reports come in by the reply queue → ended or failed → cleaned up. What
 * the job runner says counts only where the sidecar itself has no word left: a sidecar that was killed reports nothing.
 */
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { MESSAGE_TYPES } from "../../lib/bus/message-types.ts";
import type { Consumer, Delivery, MessageBus, Settlement } from "../../lib/bus/message-bus.ts";
import { runQueue, runReplyQueue } from "../../lib/bus/queues.ts";
import type { Clock } from "../../lib/clock.ts";
import { AppError, fromFailure, toAppError } from "../../lib/errors.ts";
import type { JobRunner, JobSpec } from "../../lib/jobs/job-runner.ts";
import { fromFailureMessage } from "../../lib/rpc/frames.ts";
import {
  CreditSchema,
  RunReportSchema,
  RunRequestSchema,
  type RunReport,
  type RunRequest,
} from "../../lib/rpc/gen/dynamos/v1/run_pb.ts";
import { FrameSchema, type End, type Frame } from "../../lib/rpc/gen/dynamos/v1/stream_pb.ts";
import type { Logger } from "../../lib/telemetry/logger.ts";
import { traceHeaders, type TraceContext } from "../../lib/telemetry/trace-context.ts";

/** After the job has ended by itself, its last messages may take this long to arrive. */
const LAST_WORDS_MS = 3_000;
/** From the queue into our hands a message takes less than this. */
const HANDING_OVER_MS = 100;

/** What an execution works with. */
export interface ExecutionDependencies {
  readonly bus: MessageBus;
  readonly runner: JobRunner;
  readonly clock: Clock;
  readonly logger: Logger;
}

/** One attempt to run. */
export interface ExecutionPlan {
  readonly spec: JobSpec;
  readonly request: RunRequest;
  readonly trace: TraceContext;
  /** Called once the run queue stands: a third party now asks its data providers. */
  readonly onQueueReady?: (runQueueName: string) => Promise<void>;
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
  { bus, runner, clock, logger }: ExecutionDependencies,
  plan: ExecutionPlan,
  signal: AbortSignal,
): AsyncGenerator<ExecutionEvent, void, undefined> {
  signal.throwIfAborted();
  const name = plan.spec.name;
  const input = runQueue(name);
  const reply = runReplyQueue(name);
  const inbox = new Inbox(plan.request.attempt);
  let consumer: Consumer | undefined;
  const ending = new AbortController();
  const onAbort = (): void => inbox.fail(toAppError(signal.reason));
  signal.addEventListener("abort", onAbort, { once: true });
  try {
    await bus.declareQueue(input, { kind: "run" });
    await bus.declareQueue(reply, { kind: "run" });
    consumer = await bus.consume(reply, (delivery) => inbox.take(delivery), {
      // Credits bound the chunks; some room is for reports, Start and End.
      prefetch: plan.request.credits + 8,
      onLost: (error) => inbox.fail(new AppError("unavailable", "The run's reply queue was lost.", { cause: error })),
    });
    await bus.publish(input, {
      type: MESSAGE_TYPES.sqlDataRequest,
      body: toBinary(RunRequestSchema, plan.request),
      replyTo: reply,
      headers: traceHeaders(plan.trace),
      expiresAtMs: plan.spec.deadlineMs,
    });
    await plan.onQueueReady?.(input);
    await runner.start(plan.spec);
    void watchJob({ bus, runner, clock, logger }, name, inbox, ending.signal);
    yield* events(inbox, bus, plan);
  } finally {
    signal.removeEventListener("abort", onAbort);
    ending.abort();
    inbox.close();
    await cleanUp(logger, [
      () => runner.stop(name),
      async () => consumer?.close(),
      () => bus.deleteQueue(input),
      () => bus.deleteQueue(reply),
    ]);
  }
}

async function* events(inbox: Inbox, bus: MessageBus, plan: ExecutionPlan): AsyncGenerator<ExecutionEvent> {
  const expectsFrames = plan.request.returnAddress === plan.request.reportAddress;
  const credits = new CreditReturn(bus, plan.request);
  let frameEnd: End | undefined;
  for (;;) {
    const item = await inbox.next();
    if (item.kind === "frame") {
      const { frame } = item;
      if (frame.body.case === "failure") throw fromFailureMessage(frame.body.value);
      if (frame.body.case === "end") frameEnd = frame.body.value;
      if (frame.body.case === "start") credits.queue = frame.body.value.creditQueue;
      yield { kind: "frame", frame };
      item.settle();
      if (frame.body.case === "chunk" || frame.body.case === "attachment") await credits.oneTaken();
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
}

/** Turns the job's own end into the inbox's, once messages under way have had their time. */
async function watchJob(
  { bus, runner, clock }: ExecutionDependencies,
  name: string,
  inbox: Inbox,
  signal: AbortSignal,
): Promise<void> {
  try {
    for await (const status of runner.watch(name, signal)) {
      if (status.phase !== "failed" && status.phase !== "succeeded") continue;
      await lastWords(bus, runReplyQueue(name), clock, signal);
      inbox.fail(
        status.failure === undefined
          ? new AppError("job_failed", "The job ended without a result.")
          : fromFailure(status.failure),
      );
      return;
    }
  } catch (error) {
    // An abort is the run's own end; anything else is the run's failure.
    if (!signal.aborted) inbox.fail(toAppError(error));
  }
}

/** Waits until the messages of a job that has ended, all of them published, are in our hands. */
async function lastWords(bus: MessageBus, reply: string, clock: Clock, signal: AbortSignal): Promise<void> {
  const giveUpAtMs = clock.now() + LAST_WORDS_MS;
  do await clock.sleep(HANDING_OVER_MS, signal);
  while (clock.now() < giveUpAtMs && ((await bus.queueStatus(reply))?.ready ?? 0) > 0);
}

/** Returns credits to the sender in batches of half a window, so that it never runs dry while we take. */
class CreditReturn {
  queue = "";
  readonly #bus: MessageBus;
  readonly #request: RunRequest;
  #taken = 0;

  constructor(bus: MessageBus, request: RunRequest) {
    this.#bus = bus;
    this.#request = request;
  }

  async oneTaken(): Promise<void> {
    this.#taken += 1;
    if (this.queue === "" || this.#taken < Math.max(1, Math.floor(this.#request.credits / 2))) return;
    const chunks = this.#taken;
    this.#taken = 0;
    const { requestId, attempt } = this.#request;
    try {
      await this.#bus.publish(this.queue, {
        type: MESSAGE_TYPES.credit,
        body: toBinary(CreditSchema, create(CreditSchema, { requestId, attempt, chunks })),
      });
    } catch (error) {
      // A sender that has sent everything may be gone, with its queue: then nobody needs the credit.
      if (toAppError(error).code !== "not_found") throw error;
    }
  }
}

type InboxItem =
  | { readonly kind: "frame"; readonly frame: Frame; readonly settle: () => void }
  | { readonly kind: "report"; readonly report: RunReport; readonly settle: () => void };

/** What arrived and is not settled yet: at most the consumer's prefetch. A failure comes after what arrived before it. */
class Inbox {
  readonly #attempt: number;
  readonly #waiting: InboxItem[] = [];
  readonly #unsettled = new Set<() => void>();
  #failure: AppError | undefined;
  #wake: (() => void) | undefined;

  constructor(attempt: number) {
    this.#attempt = attempt;
  }

  /** Takes a delivery in; resolves when it has been settled by whoever took it out, or by {@link close}. */
  async take(delivery: Delivery): Promise<Settlement> {
    if (this.#failure !== undefined) return "accept";
    const { promise, settle } = this.#settlement();
    if (delivery.type === MESSAGE_TYPES.frame) {
      const frame = fromBinary(FrameSchema, delivery.body);
      if (frame.attempt === this.#attempt) this.#push({ kind: "frame", frame, settle });
      else settle();
    } else if (delivery.type === MESSAGE_TYPES.runReport) {
      this.#push({ kind: "report", report: fromBinary(RunReportSchema, delivery.body), settle });
    } else {
      settle();
      return "reject";
    }
    await promise;
    return "accept";
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
 * Does every step, whatever happens to the others. The run's outcome stands whatever comes of it: what is left has an end of its
 * own (queues expire, jobs have a deadline).
 */
async function cleanUp(logger: Logger, steps: readonly (() => Promise<void>)[]): Promise<void> {
  for (const result of await Promise.allSettled(steps.map((step) => step()))) {
    if (result.status === "rejected")
      logger.error({ error: toAppError(result.reason) }, "a run could not be cleaned up");
  }
}
