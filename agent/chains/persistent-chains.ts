/** This agent instance's way to persistent chains: one pool per shape, and one queue for what comes back. */
import { chainWorkQueue, instanceRunsQueue, runQueue } from "../../lib/bus/queues.ts";
import { MAX_PREFETCH, type MessageBus } from "../../lib/bus/message-bus.ts";
import type { Clock } from "../../lib/clock.ts";
import { AppError } from "../../lib/errors.ts";
import type { ContainerSpec, JobRunner } from "../../lib/jobs/job-runner.ts";
import type { Logger } from "../../lib/telemetry/logger.ts";
import { dynamosMeter } from "../../lib/telemetry/metrics.ts";
import type { AgentSettings } from "../config.ts";
import { LIFETIME_LABEL, shapeKey, type ChainShape } from "./chain-shape.ts";
import { CONTROL_MESSAGES } from "./claimed-chain.ts";
import { PersistentPlace } from "./persistent-place.ts";
import { PERSISTENT, PersistentPool, SHAPE_LABEL, type PoolContext } from "./persistent-pool.ts";
import { PersistentReplies } from "./persistent-replies.ts";

/** Both roles have places of their own. */
const ROLES = 2;
/** Messages of runs that are not there any more. */
const LATE_MESSAGES = 64;
/** A chain that has reached its age may take so long to end, beyond its last run. */
const LAST_STEPS_MS = 60_000;
/** Above any job runner's own limit for a start. */
const START_LIMIT_MS = 120_000;
/** A shape that has not been asked for so long is forgotten. */
const FORGET_POOL_MS = 600_000;

/** What it needs. */
export interface PersistentChainsOptions {
  readonly bus: MessageBus;
  readonly runner: JobRunner;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly steward: string;
  readonly instance: string;
  readonly settings: AgentSettings;
  /** Whether no other instance of this party's agent lives. */
  readonly isLast: () => Promise<boolean>;
  /** See `PoolContext`. */
  readonly makeRoom: () => Promise<boolean>;
}

/** See the file comment. */
export class PersistentChains {
  readonly #options: PersistentChainsOptions;
  readonly #replies: PersistentReplies;
  readonly #context: PoolContext;
  readonly #pools = new Map<string, { readonly pool: PersistentPool; usedMs: number }>();
  readonly #served = dynamosMeter().createCounter("dynamos.chain.persistent.runs", {
    description: "Runs that persistent chains took",
  });

  constructor(options: PersistentChainsOptions) {
    this.#options = options;
    const { bus, runner, clock, logger, steward, instance, settings, makeRoom } = options;
    this.#replies = new PersistentReplies({
      bus,
      queue: instanceRunsQueue(steward, instance),
      prefetch: repliesPrefetch(settings),
      logger,
    });
    this.#context = {
      bus,
      runner,
      clock,
      logger,
      instance,
      max: settings.DYNAMOS_PERSISTENT_CHAINS_MAX,
      concurrency: settings.DYNAMOS_CHAIN_CONCURRENCY,
      longestLifeMs: settings.DYNAMOS_CHAIN_MAX_AGE_MS + settings.DYNAMOS_REQUEST_DEADLINE_MS + LAST_STEPS_MS,
      startLimitMs: START_LIMIT_MS,
      makeRoom,
    };
    this.#observe();
  }

  /** A place for one attempt in a chain of this shape. */
  claim(shape: ChainShape, run: string, signal: AbortSignal): PersistentPlace {
    const { bus, runner, clock } = this.#options;
    const pool = this.#poolOf(persistentShape(shape, this.#options.settings));
    const onServed = (): void => this.#served.add(1);
    return new PersistentPlace({ bus, runner, clock, pool, replies: this.#replies, onServed }, run, signal);
  }

  /** Starts nothing more; what waits fails. Chains are left to the other instances; the last one ends them. */
  async close(): Promise<void> {
    for (const { pool } of this.#pools.values()) pool.close();
    await this.#replies.close();
    if (this.#pools.size > 0 && (await this.#options.isLast())) await this.#endAll();
  }

  async #endAll(): Promise<void> {
    const { bus, runner, steward } = this.#options;
    const chains = (await runner.list()).filter(({ labels }) => labels[LIFETIME_LABEL] === PERSISTENT);
    await Promise.all(chains.map(({ name }) => runner.end(name)));
    const keys = new Set([...this.#pools.keys(), ...chains.flatMap(({ labels }) => labels[SHAPE_LABEL] ?? [])]);
    const queues = [
      ...chains.map(({ name }) => runQueue(name)),
      ...[...keys].map((key) => chainWorkQueue(steward, key)),
    ];
    await Promise.all(queues.map((queue) => bus.deleteQueue(queue)));
  }

  #poolOf(shape: ChainShape): PersistentPool {
    const nowMs = this.#options.clock.now();
    for (const [key, { pool, usedMs }] of this.#pools) {
      if (nowMs - usedMs > FORGET_POOL_MS && pool.waiting + pool.started === 0) this.#pools.delete(key);
    }
    const key = shapeKey(shape);
    const known = this.#pools.get(key);
    if (known !== undefined) {
      known.usedMs = nowMs;
      return known.pool;
    }
    const pool = new PersistentPool(this.#context, shape);
    this.#pools.set(key, { pool, usedMs: nowMs });
    return pool;
  }

  #observe(): void {
    const meter = dynamosMeter();
    const running = meter.createObservableGauge("dynamos.chain.persistent.running", {
      description: "Persistent chains that this instance started and that live",
    });
    const waiting = meter.createObservableGauge("dynamos.chain.persistent.waiting", {
      description: "Requests of this instance that no persistent chain has taken yet",
    });
    meter.addBatchObservableCallback(
      (result) => {
        const pools = [...this.#pools.values()].map(({ pool }) => pool);
        result.observe(running, sum(pools.map((pool) => pool.started)));
        result.observe(waiting, sum(pools.map((pool) => pool.waiting)));
      },
      [running, waiting],
    );
  }
}

/**
 * Messages of all runs that admission lets in, in hand at a time: no slow reader holds up another.
 *
 * @throws AppError `configuration_invalid` where these are more than a consumer may hold.
 */
export function repliesPrefetch(settings: Pick<AgentSettings, "DYNAMOS_CREDITS" | "DYNAMOS_MAX_RUNS">): number {
  const { DYNAMOS_CREDITS: credits, DYNAMOS_MAX_RUNS: runs } = settings;
  const prefetch = ROLES * runs * (credits + CONTROL_MESSAGES) + LATE_MESSAGES;
  if (prefetch <= MAX_PREFETCH) return prefetch;
  const limit = Math.floor((MAX_PREFETCH - LATE_MESSAGES) / ROLES);
  throw new AppError(
    "configuration_invalid",
    `DYNAMOS_MAX_RUNS (${runs}) × (DYNAMOS_CREDITS (${credits}) + ${CONTROL_MESSAGES}) is above ${limit}, what one queue has room for: ` +
      `lower one of them.`,
    { details: { limit } },
  );
}

/** A shape whose chain serves many runs, each with the memory that it would have alone. */
export function persistentShape(shape: ChainShape, settings: AgentSettings): ChainShape {
  const concurrency = settings.DYNAMOS_CHAIN_CONCURRENCY;
  const serving = { DYNAMOS_CHAIN_CONCURRENCY: String(concurrency) };
  const forMany = (container: ContainerSpec, environment: Readonly<Record<string, string>>): ContainerSpec => ({
    ...container,
    environment: { ...container.environment, ...environment },
    memoryLimitBytes: container.memoryLimitBytes * concurrency,
  });
  return {
    ...shape,
    microservices: shape.microservices.map((container) => forMany(container, serving)),
    sidecar: forMany(shape.sidecar, {
      ...serving,
      DYNAMOS_CHAIN_IDLE_MS: String(settings.DYNAMOS_CHAIN_IDLE_MS),
      DYNAMOS_CHAIN_MAX_AGE_MS: String(settings.DYNAMOS_CHAIN_MAX_AGE_MS),
    }),
  };
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, number) => total + number, 0);
}
