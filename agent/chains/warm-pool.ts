/**
 * Warm chains of this instance (decision 0021): started ahead for the shapes that are asked for, claimed by one attempt each, replaced in
 * the background. Which and how many `warm-demand.ts` says; one that died or has grown too old is never claimed; where no warm
 * chain is there, nobody waits for one. The pool's own troubles are logged, and leave requests to cold chains.
 */
import type { MessageBus } from "../../lib/bus/message-bus.ts";
import type { Clock } from "../../lib/clock.ts";
import { toAppError } from "../../lib/errors.ts";
import type { JobRunner } from "../../lib/jobs/job-runner.ts";
import { makeLocalJobName, makeRunName, makeRunNonce } from "../../lib/model/names.ts";
import type { Logger } from "../../lib/telemetry/logger.ts";
import { randomUUID } from "node:crypto";
import { LIFETIME_LABEL, makeJobSpec, shapeKey, type ChainShape } from "./chain-shape.ts";
import { WarmChain } from "./warm-chain.ts";
import { recentDemand, warmTargets, type ShapeDemand } from "./warm-demand.ts";

/** What a pool needs. */
export interface WarmPoolOptions {
  readonly bus: MessageBus;
  readonly runner: JobRunner;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly steward: string;
  /** Of the agent. */
  readonly instance: string;
  /** Most warm chains at a time; 0: none ever. */
  readonly ceiling: number;
  /** How long a chain waits to be claimed before it is replaced. */
  readonly ageMs: number;
  /** Longest time that a request may run, once it has claimed a chain. */
  readonly longestRequestMs: number;
  /** Most chunks that a run may have in flight. */
  readonly credits: number;
  /** Whether requests wait for a place to run: then no chain is started ahead, since those that run need the processors. */
  readonly requestsWait: () => boolean;
}

/** Demand that is older than this counts no more; then the last warm chain of a shape goes, too. */
const DEMAND_WINDOW_MS = 300_000;
/** How long a chain takes to be ready, until the first was. */
const FIRST_START_MS = 2_000;
/** Chains that get ready at a time: the machine is there for requests first. */
const STARTS_AT_ONCE = 2;
/** Requests under way keep a chain from being started for so long at most. */
const QUIET_LIMIT_MS = 1_500;
/** After the last of them: a provider's part of a request is over before the third party's, which the start of a chain would slow down. */
const CALM_MS = 300;
/** How long one that does not get ready counts as one that may. */
const READY_LIMIT_MS = 60_000;
/** After a shape's chain failed to start: first and longest pause; and after chains were given up for lack of room. */
const FIRST_PAUSE_MS = 2_000;
const LONGEST_PAUSE_MS = 120_000;
const NO_ROOM_PAUSE_MS = 30_000;
/** Demand grows old by itself. */
const LOOK_MS = 15_000;
/** Between the age at which a chain is not claimed any more and the age at which it ends by itself. */
const AGE_MARGIN_MS = 30_000;

interface Pooled {
  readonly chain: WarmChain;
  readonly key: string;
  readonly startedMs: number;
  isReady: boolean;
}

interface KnownShape {
  readonly shape: ChainShape;
  demand: ShapeDemand;
  failures: number;
  notBeforeMs: number;
}

/** See the file comment. */
export class WarmPool {
  readonly #options: WarmPoolOptions;
  readonly #shapes = new Map<string, KnownShape>();
  /** Unclaimed, oldest first. */
  readonly #pooled = new Set<Pooled>();
  readonly #closed = new AbortController();
  #startMs = FIRST_START_MS;
  /** Attempts under way, and when the last one that is over ended. */
  #busy = 0;
  #lastOverMs = -Infinity;
  /** Since when chains are to be started, where it has not been quiet since. */
  #waitsSinceMs: number | undefined;
  #noRoomUntilMs = 0;
  #reconciling: Promise<void> | undefined;
  #isDirty = false;

  constructor(options: WarmPoolOptions) {
    this.#options = options;
    if (this.#isOn) void this.#look();
  }

  /** Unclaimed chains now. */
  get load(): { readonly ready: number; readonly starting: number } {
    const ready = [...this.#pooled].filter(({ chain }) => chain.state === "ready").length;
    return { ready, starting: this.#pooled.size - ready };
  }

  /** An approval came that will ask for this shape. */
  expect(shape: ChainShape): void {
    if (!this.#isOn) return;
    const known = this.#know(shape);
    known.demand = { ...known.demand, expected: [...known.demand.expected, this.#options.clock.now()] };
    this.#reconcile();
  }

  /** An attempt wants a chain of this shape, warm or not. */
  want(shape: ChainShape): void {
    if (!this.#isOn) return;
    const known = this.#know(shape);
    // One that was expected has come.
    known.demand = {
      claims: [...known.demand.claims, this.#options.clock.now()],
      expected: known.demand.expected.slice(1),
    };
    this.#reconcile();
  }

  /**
   * A chain of this shape for the caller alone, which ends it; undefined where there is none. Ready ones come first, then the one
   * that has started longest, if it is half-way: it is ahead of a cold one then, although it rehearses and a cold one does not.
   */
  claim(shape: ChainShape): WarmChain | undefined {
    if (!this.#isOn || this.#pooled.size === 0) return undefined;
    const key = shapeKey(shape);
    const mine = [...this.#pooled].filter((pooled) => pooled.key === key && !this.#isTooOld(pooled));
    const ready = mine.filter(({ chain }) => chain.state === "ready");
    const nearly = mine.filter(({ startedMs }) => this.#options.clock.now() - startedMs >= this.#startMs / 2);
    for (const pooled of [...ready, ...nearly]) {
      if (!pooled.chain.claim()) continue;
      this.#pooled.delete(pooled);
      this.#reconcile();
      return pooled.chain;
    }
    return undefined;
  }

  /** An attempt is under way: chains that nobody waits for are started when it is over, if that is soon. Returns how to say so. */
  underWay(): () => void {
    this.#busy++;
    let isOver = false;
    return () => {
      if (isOver) return;
      isOver = true;
      this.#busy--;
      this.#lastOverMs = this.#options.clock.now();
      this.#reconcile();
    };
  }

  /** Ends all unclaimed chains, since a cold one finds no room, and starts none for a while. Returns how many there were. */
  async makeRoom(): Promise<number> {
    const given = [...this.#pooled];
    if (given.length === 0) return 0;
    this.#noRoomUntilMs = this.#options.clock.now() + NO_ROOM_PAUSE_MS;
    this.#options.logger.warn({ chains: given.length }, "warm chains are given up: a request's own finds no room");
    await Promise.all(given.map((pooled) => this.#giveUp(pooled)));
    return given.length;
  }

  /** Ends all unclaimed chains, and starts none any more. */
  async close(): Promise<void> {
    if (this.#closed.signal.aborted) return;
    this.#closed.abort();
    await this.#reconciling;
    await Promise.all([...this.#pooled].map((pooled) => this.#giveUp(pooled)));
  }

  get #isOn(): boolean {
    return this.#options.ceiling > 0 && !this.#closed.signal.aborted;
  }

  #know(shape: ChainShape): KnownShape {
    const key = shapeKey(shape);
    const known = this.#shapes.get(key);
    if (known !== undefined) return known;
    const made = { shape, demand: { claims: [], expected: [] }, failures: 0, notBeforeMs: 0 };
    this.#shapes.set(key, made);
    return made;
  }

  async #look(): Promise<void> {
    const { clock } = this.#options;
    const { signal } = this.#closed;
    while (!signal.aborted) {
      await clock.sleep(LOOK_MS, signal).catch(() => undefined);
      this.#reconcile();
    }
  }

  /** Brings what is there to what should be there. One goes on at a time; what changes meanwhile is looked at after it. */
  #reconcile(): void {
    this.#isDirty = true;
    if (this.#reconciling !== undefined || this.#closed.signal.aborted) return;
    this.#reconciling = this.#reconcileAll().finally(() => {
      this.#reconciling = undefined;
      if (this.#isDirty) this.#reconcile();
    });
  }

  async #reconcileAll(): Promise<void> {
    while (this.#isDirty && !this.#closed.signal.aborted) {
      this.#isDirty = false;
      const targets = this.#targets();
      await Promise.all(this.#surplus(targets).map((pooled) => this.#giveUp(pooled)));
      const key = this.#next(targets);
      if (key === undefined) this.#waitsSinceMs = undefined;
      if (key === undefined || !(await this.#quiet())) continue;
      await this.#start(key);
      this.#isDirty = true;
    }
  }

  #targets(): ReadonlyMap<string, number> {
    const { clock, ceiling } = this.#options;
    const nowMs = clock.now();
    for (const [key, known] of this.#shapes) {
      const demand = recentDemand(known.demand, DEMAND_WINDOW_MS, nowMs);
      if (demand === undefined) this.#shapes.delete(key);
      else known.demand = demand;
    }
    const demands = new Map([...this.#shapes].map(([key, { demand }]) => [key, demand]));
    const rules = { windowMs: DEMAND_WINDOW_MS, coverMs: this.#startMs + QUIET_LIMIT_MS, ceiling };
    return warmTargets(demands, rules, nowMs);
  }

  /** What died, has grown too old, or is more than there should be: of these the youngest. */
  #surplus(targets: ReadonlyMap<string, number>): readonly Pooled[] {
    const kept = new Map<string, number>();
    return [...this.#pooled].filter((pooled) => {
      const { chain, key } = pooled;
      if (chain.state === "gone" || this.#isTooOld(pooled)) return true;
      const count = (kept.get(key) ?? 0) + 1;
      if (count > (targets.get(key) ?? 0)) return true;
      kept.set(key, count);
      return false;
    });
  }

  /** The shape that lacks a chain most, of those for which one may be started now. */
  #next(targets: ReadonlyMap<string, number>): string | undefined {
    const nowMs = this.#options.clock.now();
    const starting = this.load.starting;
    if (nowMs < this.#noRoomUntilMs || starting >= STARTS_AT_ONCE) return undefined;
    const lacking = [...targets].map(([key, target]) => {
      const there = [...this.#pooled].filter((pooled) => pooled.key === key).length;
      return { key, there, lack: target - there };
    });
    const possible = lacking.filter(
      ({ key, lack }) => lack > 0 && nowMs >= (this.#shapes.get(key)?.notBeforeMs ?? Infinity),
    );
    return possible.sort((left, right) => left.there - right.there)[0]?.key;
  }

  /** Waits until no attempt has been under way for a moment, but not for long; false where no chain may be started: a later change asks again. */
  async #quiet(): Promise<boolean> {
    const { clock } = this.#options;
    const { signal } = this.#closed;
    const mayStart = (): boolean => !signal.aborted && !this.#options.requestsWait();
    const isQuiet = (): boolean => this.#busy === 0 && clock.now() - this.#lastOverMs >= CALM_MS;
    // Of all starts: requests that come one upon the other would hold up each of them for so long.
    this.#waitsSinceMs ??= clock.now();
    while (mayStart() && !isQuiet() && clock.now() - this.#waitsSinceMs < QUIET_LIMIT_MS) {
      await clock.sleep(50, signal).catch(() => undefined);
    }
    if (isQuiet()) this.#waitsSinceMs = undefined;
    return mayStart();
  }

  async #start(key: string): Promise<void> {
    const { clock, steward, logger } = this.#options;
    const known = this.#shapes.get(key);
    if (known === undefined) return;
    const startedMs = clock.now();
    const name = makeRunName(makeLocalJobName(`warm-${key}`, steward), randomUUID(), 1, makeRunNonce());
    const chain = this.#newChain(name, known.shape, () => this.#onChange(pooled));
    const pooled: Pooled = { chain, key, startedMs, isReady: false };
    this.#pooled.add(pooled);
    try {
      await chain.start();
      logger.debug({ run: name, shape: key }, "a warm chain starts");
      this.#at(startedMs + READY_LIMIT_MS, pooled, () => chain.state === "starting" && this.#failed(pooled));
      this.#at(startedMs + this.#options.ageMs, pooled, () => this.#reconcile());
    } catch (error) {
      this.#failed(pooled, toAppError(error).code);
    }
  }

  #newChain(name: string, shape: ChainShape, onChange: () => void): WarmChain {
    const { bus, runner, clock, instance, ageMs, longestRequestMs, credits } = this.#options;
    const waitMs = ageMs + AGE_MARGIN_MS;
    const spec = makeJobSpec(shape, {
      name,
      instance,
      deadlineMs: clock.now() + waitMs + longestRequestMs,
      labels: { [LIFETIME_LABEL]: "warm" },
      environment: { DYNAMOS_CHAIN_WARM: "true" },
      sidecarEnvironment: { DYNAMOS_RUN_REQUEST_TIMEOUT_MS: String(waitMs) },
    });
    return new WarmChain({ bus, runner, spec, credits, onChange });
  }

  #onChange(pooled: Pooled): void {
    if (!this.#pooled.has(pooled)) return;
    const { chain, key, startedMs } = pooled;
    if (chain.state === "ready") {
      pooled.isReady = true;
      const known = this.#shapes.get(key);
      if (known !== undefined) known.failures = 0;
      this.#startMs = (this.#startMs + this.#options.clock.now() - startedMs) / 2;
      this.#options.logger.debug({ run: chain.name, shape: key }, "a warm chain is ready");
    } else if (chain.state === "gone") {
      this.#failed(pooled, chain.failure?.code);
      return;
    }
    this.#reconcile();
  }

  /** One that never got ready makes its shape wait; one that died later is replaced at once. */
  #failed(pooled: Pooled, code = "time_limit_exceeded"): void {
    const { clock, logger } = this.#options;
    const known = this.#shapes.get(pooled.key);
    logger.warn({ run: pooled.chain.name, shape: pooled.key, code }, "a warm chain is lost");
    if (known !== undefined && !pooled.isReady) {
      const pauseMs = Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** known.failures);
      known.failures += 1;
      known.notBeforeMs = clock.now() + pauseMs;
      clock.sleep(pauseMs, this.#closed.signal).then(
        () => this.#reconcile(),
        () => undefined, // Closed before.
      );
    }
    void this.#giveUp(pooled).then(() => this.#reconcile());
  }

  async #giveUp(pooled: Pooled): Promise<void> {
    this.#pooled.delete(pooled);
    try {
      await pooled.chain.giveUp();
    } catch (error) {
      // The job's deadline and the queues' expiry are what is left.
      this.#options.logger.warn(
        { error: toAppError(error), run: pooled.chain.name },
        "a warm chain could not be ended",
      );
    }
  }

  #isTooOld({ startedMs }: Pooled): boolean {
    return this.#options.clock.now() - startedMs >= this.#options.ageMs;
  }

  /** Does something at a time, if the chain still waits then. */
  #at(timeMs: number, pooled: Pooled, act: () => void): void {
    this.#until(timeMs).then(
      () => void (this.#pooled.has(pooled) && act()),
      () => undefined, // Closed before.
    );
  }

  /** By the clock that ages are told by: a timer may end a millisecond before. */
  async #until(timeMs: number): Promise<void> {
    const { clock } = this.#options;
    while (clock.now() < timeMs) await clock.sleep(timeMs - clock.now(), this.#closed.signal);
  }
}
