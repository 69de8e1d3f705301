/**
 * The chain that serves one attempt at a data request, however it came to be (chain lifetimes, decision 0021):
 *
 * - `cold-chain.ts`: a job that is started for this attempt;
 * - `warm-chain.ts`: one that was started ahead, and serves nothing else;
 * - `persistent-place.ts`: a place in one that serves many.
 *
 * `agent/runs/execution.ts` works with it, and knows nothing of queues and jobs beyond what stands here.
 */
import type { Delivery, Settlement } from "../../lib/bus/message-bus.ts";
import type { AppError } from "../../lib/errors.ts";
import type { JobStatus } from "../../lib/jobs/job-runner.ts";
import type { RunRequest } from "../../lib/rpc/gen/dynamos/v1/run_pb.ts";
import type { TraceContext } from "../../lib/telemetry/trace-context.ts";

/** How a chain came to serve an attempt: started for it, started ahead of it, or serving many. */
export type ClaimLifetime = "cold" | "warm" | "persistent";

/** What a reply queue's consumer has in hand beyond the chunks that credits bound: reports, Start and End. */
export const CONTROL_MESSAGES = 8;

/** Who takes what comes back from the chain. */
export interface ChainReceiver {
  /** A message of the reply queue; of other runs', too, which are to be accepted and dropped. Settled as it resolves. */
  take(delivery: Delivery): Promise<Settlement>;
  /** Nothing can come back any more. */
  fail(error: AppError): void;
}

/** One attempt, as a chain takes it. */
export interface ChainBeginning {
  /** Its report address is {@link ClaimedChain.replyQueue}. */
  readonly request: RunRequest;
  readonly trace: TraceContext;
  readonly receiver: ChainReceiver;
  /**
   * To be called as soon as the queue that takes providers' frames for this attempt is known, and stands: a third party now asks
   * its data providers. It does not wait for them.
   */
  readonly onQueueReady?: (queue: string) => Promise<void>;
}

/** See the file comment. Whoever has one calls {@link end} and {@link close}, whatever happened. */
export interface ClaimedChain {
  readonly lifetime: ClaimLifetime;
  /** For logs: the job, where it serves this attempt alone. */
  readonly name: string;
  /** Queue of the chain's reports, and of the result where this agent takes it. Known from the first. */
  readonly replyQueue: string;
  /**
   * Hands the attempt to the chain, once. Resolves when it will get it; what comes back goes to the receiver, which may be before.
   *
   * @throws AppError what keeps the chain from getting it.
   */
  begin(beginning: ChainBeginning): Promise<void>;
  /**
   * The states of the job that serves this attempt, as `JobRunner.watch` gives them; begun after {@link begin}.
   *
   * @throws the signal's reason; AppError of the job runner.
   */
  watch(signal: AbortSignal): AsyncIterable<JobStatus>;
  /**
   * The attempt is over: what still works on it is ended, after it had this long (ms) to end by itself. Nobody waits for it.
   *
   * @param isWhole whether the chain has said all that it had to say: a persistent one needs no telling then.
   */
  end(lastStepsMs: number, isWhole: boolean): Promise<void>;
  /** Lets go of the queues of this attempt. Nothing comes to the receiver after it. May be tried again where the bus was away. */
  close(): Promise<void>;
}
