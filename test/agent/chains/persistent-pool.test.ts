/** A pool of persistent chains beside those of other instances of the agent: a real bus, jobs without processes. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { describe, test, type TestContext } from "node:test";
import { makeChainShape, shapeKey, type ChainShape } from "../../../agent/chains/chain-shape.ts";
import { PersistentPool, SHAPE_LABEL, type PoolContext } from "../../../agent/chains/persistent-pool.ts";
import type { MessageBus } from "../../../lib/bus/message-bus.ts";
import { MESSAGE_TYPES } from "../../../lib/bus/message-types.ts";
import { openMessageBus } from "../../../lib/bus/open.ts";
import { chainWorkQueue, runQueue } from "../../../lib/bus/queues.ts";
import { systemClock, type Clock } from "../../../lib/clock.ts";
import { AppError } from "../../../lib/errors.ts";
import type { JobPhase, JobRunner, JobSpec, JobStatus, ListedJob } from "../../../lib/jobs/job-runner.ts";
import { makeChainName } from "../../../lib/model/names.ts";
import { createLogger } from "../../../lib/telemetry/logger.ts";
import { eventually } from "../../support/eventually.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

const START_LIMIT_MS = 120_000;
const REQUEST = { type: MESSAGE_TYPES.sqlDataRequest, body: new Uint8Array() };

const SHAPE: ChainShape = makeChainShape({
  steward: "VU",
  composition: { archetype_id: "computeToData", request_type: "sqlDataRequest", role: "all", data_providers: ["VU"] },
  chain: [{ name: "reads", label: "dataProvider", allowedOutputs: [], invalidArchetypes: [] }],
  memoryLimitMiB: 100,
  programOf: (name) => ["node", name],
  microserviceEnvironment: () => ({}),
  sidecarEnvironment: {},
});
const KEY = shapeKey(SHAPE);

/** The party's jobs, which all instances of its agent see. */
class SharedJobs {
  readonly jobs = new Map<string, ListedJob>();
  /** How often somebody looked. */
  looks = 0;
  readonly refused: string[] = [];
  /** Held until this resolves: starts that come meanwhile are at once. */
  gate: Promise<void> = Promise.resolve();
  /** What every start fails with, and every look at the jobs. */
  startFailure: AppError | undefined;
  lookFailure: AppError | undefined;
  /** How often room was asked for. */
  roomAsked = 0;

  put(name: string, phase: JobPhase): void {
    this.jobs.set(name, { name, phase, labels: { [SHAPE_LABEL]: KEY } });
  }

  async start({ name, labels }: JobSpec): Promise<void> {
    await this.gate;
    if (this.startFailure !== undefined) {
      this.refused.push(name);
      throw this.startFailure;
    }
    if (this.jobs.has(name)) {
      this.refused.push(name);
      throw new AppError("already_exists", `There is a job ${name} already.`);
    }
    this.jobs.set(name, { name, phase: "starting", labels });
  }

  async list(): Promise<readonly ListedJob[]> {
    this.looks += 1;
    if (this.lookFailure !== undefined) throw this.lookFailure;
    return [...this.jobs.values()];
  }

  /** There is, from now on. */
  async makeRoom(): Promise<boolean> {
    this.roomAsked += 1;
    this.startFailure = undefined;
    return true;
  }

  async *watch(name: string, signal: AbortSignal): AsyncGenerator<JobStatus> {
    yield { name, phase: "starting" };
    await new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason as Error)));
  }
}

interface Opened {
  readonly bus: MessageBus;
  readonly jobs: SharedJobs;
  /** The pool of one more instance. */
  readonly pool: (instance: string, max?: number) => PersistentPool;
  /** Lets this much time pass. */
  readonly pass: (ms: number) => void;
}

async function open(t: TestContext): Promise<Opened> {
  const bus = await openMessageBus(`embedded:${join(await temporaryFolder(), "bus.db")}`);
  const jobs = new SharedJobs();
  let passedMs = 0;
  const clock: Clock = { now: () => Date.now() + passedMs, sleep: (_ms, signal) => systemClock.sleep(5, signal) };
  const pools: PersistentPool[] = [];
  t.after(async () => {
    for (const pool of pools) pool.close();
    await bus.close();
  });
  const pool = (instance: string, max = 1): PersistentPool => {
    const context: PoolContext = {
      bus,
      runner: jobs as unknown as JobRunner,
      clock,
      logger: createLogger("test", {}, "info", { write: () => undefined }),
      instance,
      max,
      concurrency: 1,
      longestLifeMs: 60_000,
      startLimitMs: START_LIMIT_MS,
      makeRoom: () => jobs.makeRoom(),
    };
    const made = new PersistentPool(context, SHAPE);
    pools.push(made);
    return made;
  };
  return { bus, jobs, pool, pass: (ms) => void (passedMs += ms) };
}

/** Resolves when the pool has looked at the jobs three times from now on. */
async function looksAgain(jobs: SharedJobs): Promise<void> {
  const before = jobs.looks;
  await eventually(() => jobs.looks >= before + 3);
}

describe("a pool of persistent chains beside other instances'", () => {
  test("lets a request wait for a chain of another instance, however long that is busy, and not when it is gone", async (t) => {
    const { jobs, pool, pass } = await open(t);
    const others = makeChainName("VU", KEY, 0, 0);
    jobs.put(others, "running");
    const mine = pool("1a2b3c4d");
    const failures: AppError[] = [];
    await mine.offer("run-1", REQUEST, (error) => failures.push(error));
    await looksAgain(jobs);
    pass(START_LIMIT_MS + 1);
    await looksAgain(jobs);
    assert.deepEqual([failures, mine.waiting], [[], 1]);
    assert.deepEqual([...jobs.jobs.keys()], [others], "there may be one chain, and there is one");

    jobs.put(others, "failed");
    await eventually(() => failures.length === 1);
    assert.equal(failures[0]?.code, "job_start_failed");
  });

  test("deletes the queue of an ended chain that another instance started, and none of one that lives", async (t) => {
    const { bus, jobs, pool } = await open(t);
    const [dead, living] = [makeChainName("VU", KEY, 0, 0), makeChainName("VU", KEY, 1, 0)];
    for (const name of [dead, living]) await bus.declareQueue(runQueue(name), { kind: "run" });
    jobs.put(dead, "failed");
    jobs.put(living, "running");
    await pool("1a2b3c4d", 2).offer("run-1", REQUEST, () => undefined);
    await eventually(async () => (await bus.queueStatus(runQueue(dead))) === undefined);
    await looksAgain(jobs);
    assert.notEqual(await bus.queueStatus(runQueue(living)), undefined);
  });

  test("does not take a chain of another instance that only starts for one that serves", async (t) => {
    const { jobs, pool, pass } = await open(t);
    jobs.put(makeChainName("VU", KEY, 0, 0), "starting");
    const failures: AppError[] = [];
    await pool("1a2b3c4d").offer("run-1", REQUEST, (error) => failures.push(error));
    await looksAgain(jobs);
    assert.deepEqual(failures, []);
    pass(START_LIMIT_MS + 1);
    await eventually(() => failures.length === 1);
  });

  test("starts one chain where two instances see the need at once, and neither's request fails", async (t) => {
    const { bus, jobs, pool } = await open(t);
    let openGate: () => void = () => undefined;
    jobs.gate = new Promise((resolve) => (openGate = resolve));
    const failures: AppError[] = [];
    const [first, second] = [pool("1a2b3c4d"), pool("5e6f7a8b")];
    await first.offer("run-1", REQUEST, (error) => failures.push(error));
    await second.offer("run-2", REQUEST, (error) => failures.push(error));
    // Both have looked, and found nothing.
    await eventually(() => jobs.looks >= 2);
    openGate();
    const name = makeChainName("VU", KEY, 0, 0);
    await eventually(() => jobs.refused.length === 1);
    assert.deepEqual([[...jobs.jobs.keys()], jobs.refused], [[name], [name]]);
    await looksAgain(jobs);
    assert.deepEqual([failures, first.waiting, second.waiting], [[], 1, 1]);
    assert.equal(first.started + second.started, 1, "it is counted by the instance that started it");
    assert.equal((await bus.queueStatus(chainWorkQueue("VU", KEY)))?.ready, 2, "both wait in the one work queue");
  });

  test("starts the next chain in a slot under a name that is new, though another instance had the last one", async (t) => {
    const { jobs, pool } = await open(t);
    jobs.put(makeChainName("VU", KEY, 0, 3), "failed");
    await pool("1a2b3c4d").offer("run-1", REQUEST, () => undefined);
    await eventually(() => jobs.jobs.has(makeChainName("VU", KEY, 0, 4)));
  });
});

describe("a pool whose next chain cannot be started", () => {
  const refusal = (): AppError => new AppError("unavailable", "The cluster takes no jobs.");

  test("leaves its requests to the chain that serves, and fails them when there is none", async (t) => {
    const { jobs, pool, pass } = await open(t);
    const serving = makeChainName("VU", KEY, 0, 0);
    jobs.put(serving, "running");
    jobs.startFailure = refusal();
    const failures: AppError[] = [];
    const mine = pool("1a2b3c4d", 2);
    await mine.offer("run-1", REQUEST, (error) => failures.push(error));
    await eventually(() => jobs.refused.length === 1);
    await looksAgain(jobs);
    assert.deepEqual([failures, mine.waiting], [[], 1]);

    jobs.put(serving, "succeeded");
    pass(5_001);
    await eventually(() => failures.length === 1);
    assert.equal(failures[0]?.code, "unavailable");
  });

  test("tries again after a while, and not at every look", async (t) => {
    const { jobs, pool, pass } = await open(t);
    jobs.put(makeChainName("VU", KEY, 0, 0), "running");
    jobs.startFailure = refusal();
    await pool("1a2b3c4d", 2).offer("run-1", REQUEST, () => undefined);
    await looksAgain(jobs);
    assert.equal(jobs.refused.length, 1);
    jobs.startFailure = undefined;
    pass(5_001);
    await eventually(() => jobs.jobs.has(makeChainName("VU", KEY, 1, 0)));
  });

  test("has room made where the quota is full of chains that only wait", async (t) => {
    const { jobs, pool } = await open(t);
    jobs.startFailure = new AppError("job_start_failed", "The quota is used up.", {
      details: { reason: "QuotaExceeded" },
    });
    const failures: AppError[] = [];
    await pool("1a2b3c4d").offer("run-1", REQUEST, (error) => failures.push(error));
    await eventually(() => jobs.jobs.has(makeChainName("VU", KEY, 0, 0)));
    assert.deepEqual([jobs.roomAsked, failures], [1, []]);
  });

  test("fails no request that a chain may serve because it cannot look for chains either", async (t) => {
    const { jobs, pool } = await open(t);
    jobs.put(makeChainName("VU", KEY, 0, 0), "running");
    const failures: AppError[] = [];
    const mine = pool("1a2b3c4d");
    await mine.offer("run-1", REQUEST, (error) => failures.push(error));
    await looksAgain(jobs);
    jobs.lookFailure = refusal();
    await looksAgain(jobs);
    assert.deepEqual([failures, mine.waiting], [[], 1]);
    const alone = pool("5e6f7a8b");
    await alone.offer("run-2", REQUEST, (error) => failures.push(error));
    await eventually(() => failures.length === 1, { describe: "the failure where no chain is known of" });
    assert.equal(failures[0]?.code, "unavailable");
  });
});
