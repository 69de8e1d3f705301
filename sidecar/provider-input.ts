/**
 * One data provider's stream at a third party: from the run queue into the first microservice.
 *
 * States: waiting (nothing went on; a Start may be held back, so that a newer attempt can take its place) → flowing (from
 * the first frame with data, or the end) → over (End, a failure, or the run's own end).
 */
import { create } from "@bufbuild/protobuf";
import { AppError } from "../lib/errors.ts";
import { CreditReturn } from "../lib/rpc/credits.ts";
import { FrameOrder, fromFailureMessage, takesCredit } from "../lib/rpc/frames.ts";
import type { RunRequest } from "../lib/rpc/gen/dynamos/v1/run_pb.ts";
import { FrameSchema, StartSchema, type Frame, type Start } from "../lib/rpc/gen/dynamos/v1/stream_pb.ts";
import { Handoff } from "../lib/rpc/handoff.ts";

/** What an input needs. */
export interface ProviderInputOptions {
  readonly provider: string;
  readonly run: RunRequest;
  /** Calls the first microservice with these frames; they are pulled as it takes them. */
  readonly send: (frames: AsyncIterable<Frame>) => void;
  /** Returns credits to a queue of the provider. */
  readonly returnCredits: (queue: string, attempt: number, chunks: number) => Promise<void>;
  /** Ends the run. */
  readonly onError: (error: AppError) => void;
}

/** See the file comment. */
export class ProviderInput {
  readonly #options: ProviderInputOptions;
  readonly #order = new FrameOrder();
  readonly #frames = new Handoff<Frame>();
  #state: "waiting" | "flowing" | "over" = "waiting";
  #start: Start | undefined;
  #credits: CreditReturn | undefined;
  #tail: Promise<void> = Promise.resolve();

  constructor(options: ProviderInputOptions) {
    this.#options = options;
  }

  /**
   * Takes a frame, in the order of the calls. Resolves when it is settled: handed on to the first microservice, held back, or
   * of no use any more. Rejects with what ends the run.
   */
  take(frame: Frame): Promise<void> {
    const taken = this.#tail.then(() => this.#take(frame));
    this.#tail = taken.catch(() => undefined);
    return taken;
  }

  /** The run is over: what still comes is dropped. */
  async close(): Promise<void> {
    this.#state = "over";
    await this.#credits?.close();
  }

  async #take(frame: Frame): Promise<void> {
    if (this.#state === "over") return;
    const place = this.#order.judge(frame);
    if (place === "duplicate" || place === "stale") return;
    if (frame.body.case === "failure") return this.#takeFailure(frame);
    if (place === "newAttempt") this.#startAgain(frame);
    if (frame.body.case === "start") return this.#holdBack(frame.body.value);
    if (this.#state === "waiting") this.#open(frame);
    await this.#frames.push({ ...frame, attempt: this.#options.run.attempt });
    if (takesCredit(frame)) this.#credits?.settle();
    if (frame.body.case === "end") this.#end();
  }

  /** The older attempt never happened, unless some of it went on. */
  #startAgain(frame: Frame): void {
    const { provider } = this.#options;
    if (this.#state === "flowing") {
      const message = `${provider} began again (attempt ${frame.attempt}) after rows of it had been handed on.`;
      throw new AppError("stream_interrupted", message, { party: provider });
    }
    void this.#credits?.close();
    this.#start = undefined;
  }

  #holdBack(start: Start): void {
    const { returnCredits, run, onError } = this.#options;
    const attempt = this.#order.attempt;
    this.#start = start;
    this.#credits = new CreditReturn({
      batch: Math.max(1, Math.floor(run.credits / 2)),
      send: (chunks) => returnCredits(start.creditQueue, attempt, chunks),
      onError,
    });
  }

  /** Begins the call, with the Start that was held back. */
  #open(frame: Frame): void {
    const { run, provider, send } = this.#options;
    if (this.#start === undefined) {
      throw new AppError("job_failed", `The stream of ${provider} has no start.`, { party: provider });
    }
    const start = create(StartSchema, {
      arrowSchema: this.#start.arrowSchema,
      grants: [run.grant, ...this.#start.grants],
      traceparent: this.#start.traceparent,
      tracestate: this.#start.tracestate,
      ...(run.request === undefined ? {} : { request: run.request }),
    });
    this.#state = "flowing";
    void this.#frames.push(this.#frame(frame, 0n, { case: "start", value: start }));
    send(this.#frames);
  }

  /** A provider that fails before any of it went on is left out, where the request allows that. */
  #takeFailure(frame: Frame): void {
    if (frame.body.case !== "failure") return;
    const { run, provider, send } = this.#options;
    const failure = fromFailureMessage(frame.body.value).withParty(provider);
    if (!run.allowPartial || this.#state !== "waiting") throw failure;
    void this.#frames.push(this.#frame(frame, 0n, frame.body));
    this.#end();
    send(this.#frames);
  }

  #end(): void {
    this.#state = "over";
    this.#frames.end();
  }

  #frame(like: Frame, sequence: bigint, body: Frame["body"]): Frame {
    const { run, provider } = this.#options;
    return create(FrameSchema, { provider, requestId: like.requestId, attempt: run.attempt, sequence, body });
  }
}
