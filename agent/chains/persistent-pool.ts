/**
 * The persistent chains of one shape, as one instance of the agent sees them: requests go to their work queue, and where nobody
 * takes them soon, chains are started, up to a limit for all instances together. They end by themselves when nothing comes.
 *
 * State here is what this instance waits for and has started; what others have started the job runner tells.
 */
import type { MessageBus, OutgoingMessage } from "../../lib/bus/message-bus.ts";
import { chainWorkQueue, runQueue } from "../../lib/bus/queues.ts";
import type { Clock } from "../../lib/clock.ts";
import { AppError, fromFailure, toAppError } from "../../lib/errors.ts";
import type { JobRunner, ListedJob } from "../../lib/jobs/job-runner.ts";
import { makeChainName } from "../../lib/model/names.ts";
import type { Logger } from "../../lib/telemetry/logger.ts";
import { LIFETIME_LABEL, makeJobSpec, shapeKey, type ChainShape } from "./chain-shape.ts";
import { startWithRoom } from "./start-with-room.ts";
import { chainsToStart, freeSlots, isLiving, type FreeSlot } from "./persistent-scaling.ts";

/** What persistent chains' jobs have as their lifetime. */
export const PERSISTENT = "persistent";
/** Label of their shape. */
export const SHAPE_LABEL = "dynamos.shape";

/** So long a request waits for the chains that there are, before more are thought of; then it is looked again and again. */
const FIRST_LOOK_MS = 60;
const LOOK_MS = 250;
/** The work queue is declared again after so long, before it could expire. */
const DECLARE_AGAIN_MS = 60_000;
/** A start that failed is not tried again sooner, while other chains serve. */
const AFTER_FAILURE_MS = 5_000;

/** What pools of all shapes share. */
export interface PoolContext {
  readonly bus: MessageBus;
  readonly runner: JobRunner;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly instance: string;
  /** Most chains of one shape, all instances of this party together. */
  readonly max: number;
  readonly concurrency: number;
  /** How long after its start a chain may live at most: its age, and the longest run. */
  readonly longestLifeMs: number;
  /** A request that no chain took for so long, none having taken any yet, has failed. */
  readonly startLimitMs: number;
  /** Called where a quota is full: whether something was ended, so that there may be room now. */
  readonly makeRoom: () => Promise<boolean>;
}

/** A request that no chain has taken yet. */
interface Waiting {
  readonly sinceMs: number;
  readonly fail: (error: AppError) => void;
}

/** See the file comment. */
export class PersistentPool {
  readonly key: string;
  readonly #context: PoolContext;
  readonly #shape: ChainShape;
  readonly #queue: string;
  readonly #waiting = new Map<string, Waiting>();
  /** Chains that have taken a request of this instance, and live as far as is known. */
  readonly #proven = new Set<string>();
  /** Chains that run and that others started: busy with others' requests, they may have shown nothing here yet. */
  #othersRunning = 0;
  /** Chains that this instance started, and whose end it has not heard of. */
  readonly #started = new Set<string>();
  /** Chains that ended and whose queues are gone, or going, as long as the job runner lists them. */
  readonly #forgotten = new Set<string>();
  readonly #closing = new AbortController();
  #declaredMs = -Infinity;
  #failedMs = -Infinity;
  /** When it was last logged that chains could not be seen to. */
  #toldMs = -Infinity;
  #looking: Promise<void> | undefined;

  constructor(context: PoolContext, shape: ChainShape) {
    this.#context = context;
    this.#shape = shape;
    this.key = shapeKey(shape);
    this.#queue = chainWorkQueue(shape.steward, this.key);
  }

  /** Requests of this instance that no chain has taken. */
  get waiting(): number {
    return this.#waiting.size;
  }

  /** Chains that this instance started and that live. */
  get started(): number {
    return this.#started.size;
  }

  /**
   * Puts a request into the work queue, and sees to it that there is a chain.
   *
   * @param fail told, at most once, when no chain can be had.
   */
  async offer(run: string, message: OutgoingMessage, fail: (error: AppError) => void): Promise<void> {
    await this.#declare();
    this.#waiting.set(run, { sinceMs: this.#context.clock.now(), fail });
    const delivered = { ...message, correlationId: run };
    try {
      await this.#context.bus.publish(this.#queue, delivered);
    } catch (error) {
      if (toAppError(error).code !== "not_found") throw error;
      // It expired unused, a moment before.
      this.#declaredMs = -Infinity;
      await this.#declare();
      await this.#context.bus.publish(this.#queue, delivered);
    }
    this.#looking ??= this.#look().finally(() => (this.#looking = undefined));
  }

  /** A chain has taken it. */
  taken(run: string, chain: string): void {
    this.#waiting.delete(run);
    this.#proven.add(chain);
  }

  /** Nobody waits for it any more. */
  forget(run: string): void {
    this.#waiting.delete(run);
  }

  /** A chain's end was heard of. */
  ended(chain: string): void {
    this.#proven.delete(chain);
    this.#started.delete(chain);
  }

  /** Starts nothing more. */
  close(): void {
    this.#closing.abort();
  }

  async #declare(): Promise<void> {
    const { bus, clock } = this.#context;
    if (clock.now() - this.#declaredMs < DECLARE_AGAIN_MS) return;
    await bus.declareQueue(this.#queue, { kind: "run" });
    this.#declaredMs = clock.now();
  }

  /** As long as a request waits, chains are seen to. */
  async #look(): Promise<void> {
    const { clock } = this.#context;
    let pauseMs = this.#proven.size === 0 ? 0 : FIRST_LOOK_MS;
    while (this.#waiting.size > 0) {
      try {
        await clock.sleep(pauseMs, this.#closing.signal);
      } catch {
        return this.#failAll(new AppError("unavailable", "The agent is stopping."));
      }
      pauseMs = LOOK_MS;
      if (this.#waiting.size === 0) return;
      try {
        await this.#declare();
        await this.#scale();
      } catch (error) {
        await this.#notScaled(toAppError(error));
      }
      this.#giveUp();
    }
  }

  async #scale(): Promise<void> {
    const { runner, bus, max, concurrency, clock } = this.#context;
    const chains = await this.#chains();
    const living = chains.filter(({ phase }) => isLiving(phase));
    void this.#forgetEnded(chains.filter(({ phase }) => !isLiving(phase)));
    for (const name of this.#proven) if (!living.some((chain) => chain.name === name)) this.#proven.delete(name);
    if (living.length > 0 && clock.now() - this.#failedMs < AFTER_FAILURE_MS) return;
    const ready = (await bus.queueStatus(this.#queue))?.ready ?? 0;
    // What runs but has taken nothing yet is about to: its parts come up after the job.
    const isOthers = ({ name, phase }: ListedJob): boolean => phase === "running" && !this.#started.has(name);
    this.#othersRunning = living.filter(isOthers).length;
    const fresh = living.filter((chain) => !isOthers(chain) && !this.#proven.has(chain.name));
    const load = { starting: fresh.length, running: living.length - fresh.length, concurrency, max };
    const count = chainsToStart({ ready, ...load });
    const slots = freeSlots(chains, max).slice(0, count);
    await Promise.all(slots.map((slot) => this.#start(runner, slot)));
  }

  /** Deletes their queues, beside whoever started them: that instance may be dead. What fails is tried again at the next look. */
  async #forgetEnded(ended: readonly ListedJob[]): Promise<void> {
    const { bus, logger } = this.#context;
    for (const name of this.#forgotten) if (!ended.some((chain) => chain.name === name)) this.#forgotten.delete(name);
    const names = ended
      .map(({ name }) => name)
      .filter((name) => !this.#started.has(name) && !this.#forgotten.has(name));
    for (const name of names) this.#forgotten.add(name);
    for (const name of names) {
      try {
        await bus.deleteQueue(runQueue(name));
      } catch (error) {
        this.#forgotten.delete(name);
        if (!this.#closing.signal.aborted)
          logger.warn({ chain: name, error: toAppError(error) }, "an ended chain's queue could not be deleted");
      }
    }
  }

  async #chains(): Promise<readonly ListedJob[]> {
    const jobs = await this.#context.runner.list();
    return jobs.filter(({ labels }) => labels[SHAPE_LABEL] === this.key);
  }

  async #start(runner: JobRunner, { slot, generation }: FreeSlot): Promise<void> {
    const { bus, clock, instance, longestLifeMs, logger, makeRoom } = this.#context;
    const name = makeChainName(this.#shape.steward, this.key, slot, generation);
    const spec = makeJobSpec(this.#shape, {
      name,
      instance,
      deadlineMs: clock.now() + longestLifeMs,
      outlivesRunner: true,
      labels: { [LIFETIME_LABEL]: PERSISTENT, [SHAPE_LABEL]: this.key },
      sidecarEnvironment: { DYNAMOS_CHAIN_QUEUE: this.#queue },
    });
    await bus.declareQueue(runQueue(name), { kind: "run" });
    try {
      await startWithRoom(runner, spec, makeRoom);
    } catch (error) {
      // Another instance was faster. After any other failure, too, the queue may be that one's by now: it stays, and expires unused.
      if (toAppError(error).code === "already_exists") return;
      throw error;
    }
    logger.info(
      { chain: name, services: spec.microservices.map((service) => service.name) },
      "a persistent chain starts",
    );
    this.#started.add(name);
    void this.#follow(name);
  }

  /** Until it has ended. One that never took a request, and failed, could not be started. */
  async #follow(name: string): Promise<void> {
    const { runner, logger, bus } = this.#context;
    try {
      for await (const { phase, failure } of runner.watch(name, this.#closing.signal)) {
        if (phase !== "failed" || failure === undefined) continue;
        const hasServed = this.#proven.has(name);
        logger.warn({ chain: name, code: failure.code, hasServed }, "a persistent chain failed; its log is kept");
        if (!hasServed) await this.#startFailed(fromFailure({ ...failure, details: withoutLog(failure.details) }));
      }
      await bus.deleteQueue(runQueue(name));
    } catch (error) {
      if (!this.#closing.signal.aborted)
        logger.warn({ error: toAppError(error) }, "a persistent chain is followed no more");
    } finally {
      this.ended(name);
    }
  }

  async #startFailed(error: AppError): Promise<void> {
    this.#failedMs = this.#context.clock.now();
    const isServed = (await this.#chains()).some(({ phase }) => isLiving(phase));
    if (!isServed) this.#failAll(error);
  }

  /** No chain could be looked for or started: those that serve go on doing so; without any, what waits would wait in vain. */
  async #notScaled(error: AppError): Promise<void> {
    const { clock, logger } = this.#context;
    if (clock.now() - this.#toldMs >= AFTER_FAILURE_MS) {
      this.#toldMs = clock.now();
      logger.warn({ shape: this.key, error }, "persistent chains could not be seen to");
    }
    try {
      await this.#startFailed(error);
    } catch {
      // Not even asked for: what is known of them from before counts.
      if (this.#proven.size + this.#othersRunning + this.#started.size === 0) this.#failAll(error);
    }
  }

  /** Where no chain has shown that it takes anything, a request does not wait until its deadline. */
  #giveUp(): void {
    if (this.#proven.size + this.#othersRunning > 0) return;
    const { clock, startLimitMs } = this.#context;
    for (const [run, { sinceMs, fail }] of this.#waiting) {
      if (clock.now() - sinceMs < startLimitMs) continue;
      this.#waiting.delete(run);
      fail(new AppError("job_start_failed", `No persistent chain took the request within ${startLimitMs} ms.`));
    }
  }

  #failAll(error: AppError): void {
    const waiting = [...this.#waiting.values()];
    this.#waiting.clear();
    for (const { fail } of waiting) fail(error);
  }
}

function withoutLog(details: Readonly<Record<string, unknown>> | undefined): Readonly<Record<string, unknown>> {
  const { log: _log, ...others } = details ?? {};
  return others;
}
