/**
 * A place in a persistent chain, for one attempt: its request goes to the work queue of its shape, and whichever chain takes it
 * says so. From then on that chain's job is what is watched: an attempt whose chain dies has failed, and only the agent begins
 * another (decision 0022).
 */
import { toBinary } from "@bufbuild/protobuf";
import type { Delivery, MessageBus, Settlement } from "../../lib/bus/message-bus.ts";
import { MESSAGE_TYPES } from "../../lib/bus/message-types.ts";
import { sharedQueueAddress } from "../../lib/bus/run-address.ts";
import type { Clock } from "../../lib/clock.ts";
import { AppError, toAppError } from "../../lib/errors.ts";
import type { JobRunner, JobStatus } from "../../lib/jobs/job-runner.ts";
import { OVER } from "../../lib/over.ts";
import { RunRequestSchema, type RunReport, type Taken } from "../../lib/rpc/gen/dynamos/v1/run_pb.ts";
import { traceHeaders } from "../../lib/telemetry/trace-context.ts";
import type { ChainBeginning, ChainReceiver, ClaimedChain } from "./claimed-chain.ts";
import type { PersistentPool } from "./persistent-pool.ts";
import { cancelAt, type PersistentReplies } from "./persistent-replies.ts";

/** What it works with. */
export interface PersistentPlaceDependencies {
  readonly bus: MessageBus;
  readonly runner: JobRunner;
  readonly clock: Clock;
  readonly pool: PersistentPool;
  readonly replies: PersistentReplies;
  /** Told when a chain has taken the attempt. */
  readonly onServed: () => void;
}

/** See the file comment. */
export class PersistentPlace implements ClaimedChain {
  readonly lifetime = "persistent";
  readonly name: string;
  readonly replyQueue: string;
  readonly #dependencies: PersistentPlaceDependencies;
  /** Ends the wait for a chain. */
  readonly #signal: AbortSignal;
  /** Aborted when the chain has said how it ended. */
  readonly #over = new AbortController();
  readonly #taking: Promise<Taken>;
  #resolveTaken!: (taken: Taken) => void;
  #rejectTaken!: (error: AppError) => void;
  #taken: Taken | undefined;
  /** Another chain that took the same request, after this attempt was taken. */
  #takenAgain: Taken | undefined;
  #requestId = "";
  #receiver: ChainReceiver | undefined;

  /** @param signal ends the request. */
  constructor(dependencies: PersistentPlaceDependencies, run: string, signal: AbortSignal) {
    this.name = run;
    this.replyQueue = dependencies.replies.addressOf(run);
    this.#dependencies = dependencies;
    this.#signal = signal;
    this.#taking = new Promise((resolve, reject) => {
      this.#resolveTaken = resolve;
      this.#rejectTaken = reject;
    });
    // Whoever begins waits for it.
    this.#taking.catch(() => undefined);
  }

  async begin({ request, trace, receiver, onQueueReady }: ChainBeginning): Promise<void> {
    const { replies, pool } = this.#dependencies;
    this.#requestId = request.requestId;
    this.#receiver = receiver;
    const onAbort = (): void => this.#rejectTaken(toAppError(this.#signal.reason));
    this.#signal.addEventListener("abort", onAbort, { once: true });
    try {
      await replies.add(this.name, {
        take: (delivery, report) => this.#take(delivery, report),
        fail: (error) => this.#fail(error),
      });
      const message = {
        type: MESSAGE_TYPES.sqlDataRequest,
        body: toBinary(RunRequestSchema, request),
        headers: traceHeaders(trace),
        expiresAtMs: Number(request.deadlineMs),
      };
      await pool.offer(this.name, message, (error) => this.#rejectTaken(error));
      const { queue } = await this.#taking;
      await onQueueReady?.(sharedQueueAddress(queue, this.name));
    } finally {
      this.#signal.removeEventListener("abort", onAbort);
    }
  }

  async *watch(signal: AbortSignal): AsyncIterable<JobStatus> {
    const { runner, pool } = this.#dependencies;
    const { jobName } = await this.#taking;
    try {
      for await (const status of runner.watch(jobName, signal)) {
        if (status.phase === "failed" || status.phase === "succeeded") pool.ended(jobName);
        yield forOneOfMany(status);
      }
    } catch (error) {
      if (signal.aborted || toAppError(error).code !== "not_found") throw error;
      throw new AppError("job_failed", `The chain ${jobName} is gone.`, { cause: error });
    }
  }

  async end(lastStepsMs: number, isWhole: boolean): Promise<void> {
    const { bus, clock, pool, replies } = this.#dependencies;
    pool.forget(this.name);
    if (this.#taken !== undefined && !isWhole) {
      if (lastStepsMs > 0) await clock.sleep(lastStepsMs, this.#over.signal).catch(() => undefined);
      const reason = new AppError("cancelled", "The request has ended.");
      // Which of two has said how it ended is not known.
      const chains = this.#takenAgain !== undefined ? [this.#taken, this.#takenAgain] : [this.#taken];
      if (!this.#over.signal.aborted || chains.length > 1) {
        const addresses = chains.map(({ queue }) => sharedQueueAddress(queue, this.name));
        await Promise.all(addresses.map((address) => cancelAt(bus, address, this.#requestId, reason)));
      }
    }
    replies.remove(this.name);
  }

  close(): Promise<void> {
    this.#receiver = undefined;
    this.#dependencies.pool.forget(this.name);
    return Promise.resolve();
  }

  async #take(delivery: Delivery, report: RunReport | undefined): Promise<Settlement> {
    if (report?.state.case === "taken") {
      this.#takenBy(report.state.value);
      return "accept";
    }
    const settlement = (await this.#receiver?.take(delivery)) ?? "accept";
    if (report?.state.case === "ended" || report?.state.case === "failed") this.#over.abort(OVER);
    return settlement;
  }

  #takenBy(taken: Taken): void {
    const { pool, onServed } = this.#dependencies;
    pool.taken(this.name, taken.jobName);
    if (this.#taken !== undefined) {
      if (this.#taken.jobName === taken.jobName) return;
      // The first one died, or lost its connection, before its message was settled: which of them ran what nobody knows.
      this.#takenAgain = taken;
      this.#fail(new AppError("job_failed", "Two chains took the request: the first one did not settle its message."));
      return;
    }
    onServed();
    this.#taken = taken;
    this.#resolveTaken(taken);
  }

  #fail(error: AppError): void {
    this.#rejectTaken(error);
    this.#receiver?.fail(error);
  }
}

/** Whatever a chain of several runs died of, it need not have been this one's doing: another attempt may help. */
function forOneOfMany(status: JobStatus): JobStatus {
  return status.failure === undefined ? status : { ...status, failure: { ...status.failure, retryable: true } };
}
