/**
 * A chain that was started ahead, for one attempt and no other: its queues stand, its sidecar waits for the run's request. Nobody can
 * claim it twice, and whatever becomes of the attempt, it is ended then.
 *
 * States: preparing (its queues and its job are being made; nobody can claim it) → starting → ready (its sidecar has said so) →
 * claimed; from each of them → gone (its job has ended, or it was given up).
 */
import { fromBinary } from "@bufbuild/protobuf";
import type { Delivery, MessageBus, Settlement } from "../../lib/bus/message-bus.ts";
import { MESSAGE_TYPES } from "../../lib/bus/message-types.ts";
import { AppError, toAppError } from "../../lib/errors.ts";
import type { JobRunner, JobSpec, JobStatus } from "../../lib/jobs/job-runner.ts";
import { RunReportSchema } from "../../lib/rpc/gen/dynamos/v1/run_pb.ts";
import type { ChainBeginning, ChainReceiver, ClaimedChain } from "./claimed-chain.ts";
import { endJob } from "./job-end.ts";
import { RunQueues } from "./run-queues.ts";

/** What it is made with. */
export interface WarmChainOptions {
  readonly bus: MessageBus;
  readonly runner: JobRunner;
  readonly spec: JobSpec;
  /** Most chunks that a run may have in flight. */
  readonly credits: number;
  /** Called when it has become ready, or is gone before it was claimed. */
  readonly onChange: () => void;
}

/** See the file comment. */
export type WarmChainState = "preparing" | "starting" | "ready" | "claimed" | "gone";

/** See the file comment. */
export class WarmChain implements ClaimedChain {
  readonly lifetime = "warm";
  readonly name: string;
  readonly replyQueue: string;
  readonly #options: WarmChainOptions;
  readonly #queues: RunQueues;
  readonly #settled = new AbortController();
  #state: WarmChainState = "preparing";
  #failure: AppError | undefined;
  #receiver: ChainReceiver | undefined;
  #hasTaken = false;

  constructor(options: WarmChainOptions) {
    this.#options = options;
    this.name = options.spec.name;
    this.#queues = new RunQueues(options.bus, this.name);
    this.replyQueue = this.#queues.reply;
  }

  get state(): WarmChainState {
    return this.#state;
  }

  /** Why it is gone, where its job told. */
  get failure(): AppError | undefined {
    return this.#failure;
  }

  /** Whether the chain has taken the attempt's request: then nobody else may run this attempt. */
  get hasTaken(): boolean {
    return this.#hasTaken;
  }

  /**
   * Makes its queues and starts its job.
   *
   * @throws AppError what kept it from starting; {@link giveUp} removes what there is of it.
   */
  async start(): Promise<void> {
    const { runner, spec, credits } = this.#options;
    try {
      const receiver = {
        take: (delivery: Delivery) => this.#take(delivery),
        fail: (error: AppError) => this.#lose(error),
      };
      await this.#queues.open(receiver, credits);
      await runner.start(spec);
    } catch (error) {
      this.#state = "gone";
      throw error;
    }
    // Given up meanwhile, when there was no job yet that could be stopped.
    if (this.state === "gone") throw new AppError("cancelled", "The chain was given up.");
    if (this.state === "preparing") this.#state = "starting";
    void this.#watchUntilClaimed();
  }

  /** Takes it for an attempt; false where it cannot be had (yet), or is gone. */
  claim(): boolean {
    if (this.#state !== "starting" && this.#state !== "ready") return false;
    this.#state = "claimed";
    this.#settled.abort();
    return true;
  }

  async begin({ request, trace, receiver, onQueueReady }: ChainBeginning): Promise<void> {
    this.#receiver = receiver;
    const asked = this.#queues.request(request, trace, Number(request.deadlineMs));
    await Promise.all([asked, onQueueReady?.(this.#queues.run)]);
  }

  watch(signal: AbortSignal): AsyncIterable<JobStatus> {
    return this.#options.runner.watch(this.name, signal);
  }

  end(lastStepsMs: number): Promise<void> {
    return endJob(this.#options.runner, this.name, lastStepsMs);
  }

  close(): Promise<void> {
    return this.#queues.close();
  }

  /** Ends it unclaimed, and removes what is left of it. Harmless where it is claimed. */
  async giveUp(): Promise<void> {
    if (this.#state === "claimed") return;
    this.#state = "gone";
    this.#settled.abort();
    await this.#options.runner.stop(this.name);
    await this.close();
  }

  async #take(delivery: Delivery): Promise<Settlement> {
    if (delivery.type === MESSAGE_TYPES.runReport) {
      const { state } = fromBinary(RunReportSchema, delivery.body);
      if (state.case === "ready") {
        this.#becomeReady();
        return "accept";
      }
      // A report that says nothing is the agent's own.
      if (state.case !== undefined) this.#hasTaken = true;
    } else this.#hasTaken = true;
    return this.#receiver === undefined ? "accept" : this.#receiver.take(delivery);
  }

  #becomeReady(): void {
    if (this.#state !== "starting" && this.#state !== "preparing") return;
    this.#state = "ready";
    this.#options.onChange();
  }

  /** The bus has nothing of it any more. */
  #lose(error: AppError): void {
    this.#receiver?.fail(error);
    this.#vanish(error);
  }

  async #watchUntilClaimed(): Promise<void> {
    const { signal } = this.#settled;
    try {
      for await (const { phase, failure } of this.#options.runner.watch(this.name, signal)) {
        if (phase === "failed" || phase === "succeeded")
          this.#vanish(new AppError("job_failed", failure?.detail ?? "The chain ended before it was claimed."));
      }
    } catch (error) {
      if (!signal.aborted) this.#vanish(toAppError(error));
    }
  }

  #vanish(failure: AppError): void {
    if (this.#state === "claimed" || this.#state === "gone") return;
    this.#state = "gone";
    this.#failure = failure;
    this.#options.onChange();
  }
}
