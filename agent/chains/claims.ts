/**
 * One attempt on the chain that serves it: a place in a persistent one where that was chosen; else a warm one where one waits, else a
 * cold one.
 */
import type { RunRequest } from "../../lib/rpc/gen/dynamos/v1/run_pb.ts";
import { toAppError } from "../../lib/errors.ts";
import { OVER } from "../../lib/over.ts";
import type { ChainLifetime } from "../../lib/model/chain-lifetime.ts";
import type { JobRunner } from "../../lib/jobs/job-runner.ts";
import type { TraceContext } from "../../lib/telemetry/trace-context.ts";
import type { AgentMetrics } from "../metrics.ts";
import { execute, type ExecutionDependencies, type ExecutionEvent } from "../runs/execution.ts";
import { LIFETIME_LABEL, makeJobSpec, shapeKey, type ChainShape } from "./chain-shape.ts";
import type { ClaimedChain } from "./claimed-chain.ts";
import { ColdChain } from "./cold-chain.ts";
import { tellsOfDeadChain } from "./dead-chain.ts";
import type { PersistentChains } from "./persistent-chains.ts";
import type { WarmPool } from "./warm-pool.ts";

/** What claims work with. */
export interface ClaimDependencies extends ExecutionDependencies {
  readonly runner: JobRunner;
  readonly instance: string;
  readonly warm: WarmPool;
  readonly persistent: PersistentChains;
  readonly metrics: Pick<AgentMetrics, "chainClaims">;
}

/** One attempt that wants a chain. */
export interface AttemptPlan {
  readonly shape: ChainShape;
  readonly lifetime: ChainLifetime;
  /** The run's name; a warm chain has its own. */
  readonly runName: string;
  readonly deadlineMs: number;
  readonly trace: TraceContext;
  /** The request, whose reports come back by this queue. */
  readonly request: (replyQueue: string) => RunRequest;
  /** See `ChainBeginning`. */
  readonly onQueueReady?: (queue: string) => Promise<void>;
}

/** A cold chain that does not run after this long may lack the room that warm ones take. */
const ROOM_CHECK_MS = 10_000;

/**
 * Runs the attempt. A warm chain that dies before it has taken the request is no attempt: the next one is claimed, or a cold one
 * started, under the same number. Where nothing is wrong with the chain (the bus is away), the others are left for later requests.
 *
 * @throws AppError as `execute`.
 */
export async function* runOnClaimedChain(
  dependencies: ClaimDependencies,
  plan: AttemptPlan,
  signal: AbortSignal,
): AsyncGenerator<ExecutionEvent, void, undefined> {
  const { warm, persistent, logger } = dependencies;
  if (plan.lifetime === "persistent") {
    yield* runOn(dependencies, plan, persistent.claim(plan.shape, plan.runName, signal), signal);
    return;
  }
  warm.want(plan.shape);
  const over = warm.underWay();
  try {
    for (let chain = warm.claim(plan.shape); chain !== undefined; chain = warm.claim(plan.shape)) {
      try {
        yield* runOn(dependencies, plan, chain, signal);
        return;
      } catch (error) {
        const failure = toAppError(error);
        if (chain.hasTaken || signal.aborted || !tellsOfDeadChain(failure, plan.shape.steward)) throw error;
        const { code } = failure;
        logger.warn({ run: chain.name, code }, "a warm chain died before it took its request: another one gets it");
      }
    }
    yield* runCold(dependencies, plan, signal);
  } finally {
    over();
  }
}

async function* runCold(
  dependencies: ClaimDependencies,
  plan: AttemptPlan,
  signal: AbortSignal,
): AsyncGenerator<ExecutionEvent, void, undefined> {
  const { runner, instance, warm, clock, logger } = dependencies;
  const { runName: name, deadlineMs } = plan;
  const labels = { [LIFETIME_LABEL]: "cold" };
  const chain = new ColdChain(
    {
      bus: dependencies.bus,
      runner,
      makeRoom: async () => (await warm.makeRoom()) > 0,
    },
    makeJobSpec(plan.shape, { name, instance, deadlineMs, labels }),
  );
  const over = new AbortController();
  const checked = clock.sleep(ROOM_CHECK_MS, over.signal).then(
    async () => {
      if ((await runner.status(name))?.phase === "starting") await warm.makeRoom();
    },
    () => undefined, // It was over before.
  );
  checked.catch((error: unknown) => logger.warn({ error: toAppError(error) }, "room could not be made for a chain"));
  try {
    yield* runOn(dependencies, plan, chain, signal);
  } finally {
    over.abort(OVER);
  }
}

function runOn(
  dependencies: ClaimDependencies,
  plan: AttemptPlan,
  chain: ClaimedChain,
  signal: AbortSignal,
): AsyncGenerator<ExecutionEvent, void, undefined> {
  const { logger, metrics } = dependencies;
  const { lifetime, name: run } = chain;
  const request = plan.request(chain.replyQueue);
  const { requestId: dataRequest, attempt } = request;
  const services = plan.shape.microservices.map(({ name }) => name);
  metrics.chainClaims.add(1, { lifetime });
  const shape = shapeKey(plan.shape);
  logger.info({ dataRequest, attempt, services, run, lifetime, shape }, "a chain starts");
  const { trace, onQueueReady } = plan;
  const execution = { chain, request, trace, ...(onQueueReady === undefined ? {} : { onQueueReady }) };
  return execute(dependencies, execution, signal);
}
