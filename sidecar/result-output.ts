/** The chain's result: from the last microservice to the return address, in chunks, confirmed, under credits. */
import { create } from "@bufbuild/protobuf";
import type { MessageBus } from "../lib/bus/message-bus.ts";
import { publishToRun } from "../lib/bus/run-address.ts";
import type { Clock } from "../lib/clock.ts";
import { PAYING_RATIO } from "../lib/rpc/chunk-compression.ts";
import { CreditGate } from "../lib/rpc/credits.ts";
import { FrameGroups, joined, MOST_FOLLOWING } from "../lib/rpc/frame-groups.ts";
import { FrameRecoder } from "../lib/rpc/frame-recoding.ts";
import { StreamCheck, takesCredit } from "../lib/rpc/frames.ts";
import type { RunRequest } from "../lib/rpc/gen/dynamos/v1/run_pb.ts";
import { StartSchema, type End, type Frame } from "../lib/rpc/gen/dynamos/v1/stream_pb.ts";
import { traceHeaders, type TraceContext } from "../lib/telemetry/trace-context.ts";
import { BodyPool, type PooledBody } from "./body-pool.ts";
import { outgoingFrame } from "./run-messages.ts";

/** What the output needs. */
export interface ResultOutputOptions {
  readonly bus: Pick<MessageBus, "publish">;
  readonly run: RunRequest;
  /** Where the credits that come back go to: `lib/bus/run-address.ts`. */
  readonly creditAddress: string;
  readonly stallTimeoutMs: number;
  readonly clock: Clock;
  /** Called before the first frame after Start goes out (decision 2), and waited for before the result counts as published. */
  readonly onHandingOn: () => Promise<void>;
}

/** Frames that may wait for their confirmation at a time, as far as there are credits for them: so much memory they hold. */
const MAX_UNDER_WAY = 32;
/** Those of a small result all go at once, whatever its credits. */
const MIN_UNDER_WAY = 4;

/** Publishes one result. */
export class ResultOutput {
  readonly #options: ResultOutputOptions;
  readonly #credits: CreditGate;
  readonly #recoder = new FrameRecoder(PAYING_RATIO.bus);
  /** Frames that are not confirmed yet, oldest first. */
  readonly #underWay: Promise<void>[] = [];
  readonly #mostUnderWay: number;
  readonly #bodies = new BodyPool();
  /** Aborted by the first frame that is not confirmed: nobody waits for credits then. */
  readonly #failing = new AbortController();
  #isHandingOn = false;

  constructor(options: ResultOutputOptions) {
    this.#options = options;
    this.#mostUnderWay = Math.min(MAX_UNDER_WAY, Math.max(MIN_UNDER_WAY, options.run.credits));
    this.#credits = new CreditGate(options.run.credits, options.stallTimeoutMs, options.clock);
  }

  /** The receiver has settled so many chunks. */
  giveBack(chunks: number): void {
    this.#credits.giveBack(chunks);
  }

  /**
   * Publishes a stream, frame by frame; resolves with its End once that is confirmed.
   *
   * @throws AppError what a Failure frame carries (it is not published: the agent decides on a retry, and tells);
   * `job_failed` for a stream that is not whole; `time_limit_exceeded` for a receiver that stalls; what the bus throws.
   */
  async publish(frames: AsyncIterable<Frame>, trace: TraceContext, signal: AbortSignal): Promise<End> {
    const { run } = this.#options;
    const check = new StreamCheck();
    const isOver = AbortSignal.any([signal, this.#failing.signal]);
    let end: End | undefined;
    for await (const group of new FrameGroups(frames, () => this.#mayGather)) {
      const outgoing: Frame[] = [];
      for (const frame of group) {
        if (!check.check(frame)) continue;
        outgoing.push(await this.#readied(this.#recoder.recode(frame, true, check.checksum), trace, isOver));
        if (frame.body.case === "end") end = frame.body.value;
      }
      if (outgoing.length > 0) await this.#publish(joined(outgoing), trace, isOver);
    }
    if (end === undefined) throw check.brokenOff(run.steward);
    await Promise.all(this.#underWay);
    return end;
  }

  /** A frame as it goes out, once it may. */
  async #readied(frame: Frame, trace: TraceContext, signal: AbortSignal): Promise<Frame> {
    const { steward, requestId, attempt } = this.#options.run;
    signal.throwIfAborted();
    if (frame.body.case !== "start") this.#handOn();
    if (takesCredit(frame)) await this.#credits.take(signal);
    return { ...frame, provider: steward, requestId, attempt, body: this.#body(frame, trace) };
  }

  /** Resolves when the next message may follow: several are under way at a time, in their order. */
  async #publish(frame: Frame, trace: TraceContext, signal: AbortSignal): Promise<void> {
    const { bus, run } = this.#options;
    signal.throwIfAborted();
    let body: PooledBody | undefined;
    const target = (bytes: number): Uint8Array => (body = this.#bodies.take(bytes)).bytes;
    const published = publishToRun(bus, run.returnAddress, {
      ...outgoingFrame(frame, trace, target),
      messageId: [run.requestId, run.steward, run.attempt, frame.sequence].join("/"),
      expiresAtMs: Number(run.deadlineMs),
    });
    // Not where it failed: its bytes may still be on their way.
    this.#await(published.then(() => body?.giveBack()));
    if (this.#underWay.length >= this.#mostUnderWay) await this.#underWay.shift();
  }

  /**
   * Where the agent takes the frames itself, it sees when they are handed on. Elsewhere it is told first, and the first chunk does not
   * wait until that is confirmed: an agent that did not hear of it, and tried again, would be refused where that chunk has gone on
   * (`provider-input.ts`).
   */
  #handOn(): void {
    if (this.#isHandingOn || this.#isForOwnAgent) return;
    this.#isHandingOn = true;
    this.#await(this.#options.onHandingOn());
  }

  /** Its failure is the result's: whoever waits for it, here or at the end, hears of it. */
  #await(confirmed: Promise<void>): void {
    this.#underWay.push(confirmed);
    confirmed.catch((error: unknown) => this.#failing.abort(error));
  }

  /** Frames in one message have their credits before any of them goes out. */
  get #mayGather(): boolean {
    const { takesFollowing, credits } = this.#options.run;
    return takesFollowing && this.#isForOwnAgent && credits >= MOST_FOLLOWING;
  }

  get #isForOwnAgent(): boolean {
    const { run } = this.#options;
    return run.returnAddress === run.reportAddress;
  }

  #body(frame: Frame, trace: TraceContext): Frame["body"] {
    if (frame.body.case !== "start") return frame.body;
    // Where this steward's data are is nobody else's business, also where a program hands on the Start that it got.
    const { arrowSchema, grants, request } = frame.body.value;
    const start = { arrowSchema, creditQueue: this.#options.creditAddress, ...traceHeaders(trace) };
    // This party's own agent, which answers its caller, knows what it asked and granted.
    if (this.#isForOwnAgent) return { case: "start", value: create(StartSchema, start) };
    const asked = request === undefined ? {} : { request };
    return { case: "start", value: create(StartSchema, { ...start, grants, ...asked }) };
  }
}
