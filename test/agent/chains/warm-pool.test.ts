import assert from "node:assert/strict";
import { join } from "node:path";
import { describe, test, type TestContext } from "node:test";
import { create, fromBinary, toBinary, type MessageInitShape } from "@bufbuild/protobuf";
import { makeChainShape, type ChainShape } from "../../../agent/chains/chain-shape.ts";
import { runOnClaimedChain } from "../../../agent/chains/claims.ts";
import type { PersistentChains } from "../../../agent/chains/persistent-chains.ts";
import { WarmPool, type WarmPoolOptions } from "../../../agent/chains/warm-pool.ts";
import { agentMetrics } from "../../../agent/metrics.ts";
import type { ExecutionEvent } from "../../../agent/runs/execution.ts";
import { MESSAGE_TYPES } from "../../../lib/bus/message-types.ts";
import type { MessageBus } from "../../../lib/bus/message-bus.ts";
import { openMessageBus } from "../../../lib/bus/open.ts";
import { runQueue, runReplyQueue } from "../../../lib/bus/queues.ts";
import { systemClock, type Clock } from "../../../lib/clock.ts";
import { AppError, toFailure } from "../../../lib/errors.ts";
import type { JobRunner, JobSpec, JobStatus } from "../../../lib/jobs/job-runner.ts";
import { ReadySchema, RunReportSchema, RunRequestSchema, TakenSchema } from "../../../lib/rpc/gen/dynamos/v1/run_pb.ts";
import { EndSchema } from "../../../lib/rpc/gen/dynamos/v1/stream_pb.ts";
import { createLogger } from "../../../lib/telemetry/logger.ts";
import { newTraceContext } from "../../../lib/telemetry/trace-context.ts";
import { eventually } from "../../support/eventually.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

const logger = createLogger("test", {}, "info", { write: () => undefined });

function shapeOf(memoryLimitMiB = 100): ChainShape {
  return makeChainShape({
    steward: "VU",
    composition: { archetype_id: "computeToData", request_type: "sqlDataRequest", role: "all", data_providers: ["VU"] },
    chain: [{ name: "reads", label: "dataProvider", allowedOutputs: [], invalidArchetypes: [] }],
    memoryLimitMiB,
    programOf: (name) => ["node", name],
    microserviceEnvironment: () => ({}),
    sidecarEnvironment: {},
  });
}

/** A job of the runner below, and the hand that ends it. */
class FakeJob {
  readonly spec: JobSpec;
  ended: JobStatus | undefined;
  readonly #waiting = new Set<() => void>();

  constructor(spec: JobSpec) {
    this.spec = spec;
  }

  end(phase: "failed" | "succeeded" = "failed"): void {
    const { name } = this.spec;
    const failure = toFailure(new AppError("job_failed", "It was killed.", { party: "VU" }));
    this.ended ??= { name, phase, ...(phase === "failed" ? { failure } : {}) };
    for (const wake of this.#waiting) wake();
  }

  async *watch(signal: AbortSignal | undefined): AsyncGenerator<JobStatus> {
    yield { name: this.spec.name, phase: "running" };
    while (this.ended === undefined) {
      signal?.throwIfAborted();
      await new Promise<void>((resolve) => {
        this.#waiting.add(resolve);
        signal?.addEventListener("abort", () => resolve(), { once: true });
      });
    }
    yield this.ended;
  }
}

/** Jobs without processes; what their sidecars would do is played by {@link playChain}. */
class FakeRunner {
  readonly jobs = new Map<string, FakeJob>();
  readonly stopped: string[] = [];
  onStart: (job: FakeJob) => void = () => undefined;

  async start(spec: JobSpec): Promise<void> {
    const job = new FakeJob(spec);
    this.jobs.set(spec.name, job);
    this.onStart(job);
  }

  async *watch(name: string, signal?: AbortSignal): AsyncGenerator<JobStatus> {
    const job = this.jobs.get(name);
    if (job === undefined) throw new AppError("not_found", "No such job.");
    yield* job.watch(signal);
  }

  async end(name: string): Promise<void> {
    this.jobs.get(name)?.end();
  }

  async stop(name: string): Promise<void> {
    this.stopped.push(name);
    this.jobs.get(name)?.end();
  }

  async status(name: string): Promise<JobStatus | undefined> {
    return { name, phase: "running" };
  }

  get living(): FakeJob[] {
    return [...this.jobs.values()].filter(({ ended }) => ended === undefined);
  }

  get warm(): FakeJob[] {
    return this.living.filter(({ spec }) => spec.labels["dynamos.lifetime"] === "warm");
  }
}

async function report(bus: MessageBus, name: string, message: MessageInitShape<typeof RunReportSchema>): Promise<void> {
  const body = toBinary(RunReportSchema, create(RunReportSchema, message));
  await bus.publish(runReplyQueue(name), { type: MESSAGE_TYPES.runReport, body });
}

/** Does what a sidecar does, up to the end of its one run. */
async function playChain(bus: MessageBus, job: FakeJob): Promise<void> {
  const { name, labels } = job.spec;
  await bus.consume(runQueue(name), async (delivery) => {
    if (job.ended !== undefined) return "retry";
    const { requestId, attempt } = fromBinary(RunRequestSchema, delivery.body);
    const ids = { requestId, attempt };
    const taken = { case: "taken" as const, value: create(TakenSchema, { jobName: name }) };
    if (labels["dynamos.lifetime"] === "warm") await report(bus, name, { ...ids, state: taken });
    const end = { case: "ended" as const, value: create(EndSchema, { rows: 1n, batches: 1n }) };
    await report(bus, name, { ...ids, state: end });
    job.end("succeeded");
    return "accept";
  });
  const ready = { case: "ready" as const, value: create(ReadySchema) };
  if (labels["dynamos.lifetime"] === "warm") await report(bus, name, { state: ready });
}

interface Opened {
  readonly bus: MessageBus;
  readonly runner: FakeRunner;
  readonly pool: WarmPool;
  /** Runs an attempt to its end; resolves with the name of the job that served it. */
  readonly ask: (requestId: string, shape?: ChainShape) => Promise<string>;
}

async function open(t: TestContext, options: Partial<WarmPoolOptions> = {}): Promise<Opened> {
  const bus = await openMessageBus(`embedded:${join(await temporaryFolder(), "bus.db")}`);
  const runner = new FakeRunner();
  runner.onStart = (job) =>
    void playChain(bus, job).catch((error: unknown) => {
      // One that is given up as it comes up finds its queues gone.
      if (job.ended === undefined) throw error;
    });
  const shared = { bus, runner: runner as unknown as JobRunner, clock: systemClock, logger };
  const own = {
    steward: "VU",
    instance: "1a2b3c4d",
    ceiling: 2,
    ageMs: 60_000,
    longestRequestMs: 60_000,
    credits: 8,
    requestsWait: () => false,
  };
  const pool = new WarmPool({ ...shared, ...own, ...options });
  t.after(async () => {
    await pool.close();
    await bus.close();
  });
  const metrics = agentMetrics({});
  // No attempt here asks for one.
  const persistent = undefined as unknown as PersistentChains;
  const ask = async (requestId: string, shape = shapeOf()): Promise<string> => {
    let served = "";
    const plan = {
      shape,
      lifetime: "perRequest" as const,
      runName: `analyst-0a1b2c3d-vu-${requestId}`,
      deadlineMs: Date.now() + 60_000,
      trace: newTraceContext(),
      request: (replyQueue: string) => {
        served = replyQueue.replace(/-reply$/, "");
        const deadlineMs = BigInt(Date.now() + 60_000);
        const addresses = { returnAddress: "elsewhere", reportAddress: replyQueue };
        return create(RunRequestSchema, { requestId, attempt: 1, credits: 2, deadlineMs, ...addresses });
      },
    };
    const dependencies = { ...shared, instance: "1a2b3c4d", warm: pool, persistent, metrics };
    const events: ExecutionEvent[] = [];
    for await (const event of runOnClaimedChain(dependencies, plan, new AbortController().signal)) events.push(event);
    assert.equal(events.at(-1)?.kind, "ended");
    return served;
  };
  return { bus, runner, pool, ask };
}

const isWarm = (name: string): boolean => name.startsWith("warm-");

describe("a pool of warm chains", () => {
  test("starts one behind a cold request, gives it to the next, and starts another", async (t) => {
    const { ask, pool, runner } = await open(t);
    assert.ok(!isWarm(await ask("r1")));
    await eventually(() => pool.load.ready === 1);
    const [first] = runner.warm;
    assert.equal(await ask("r2"), first?.spec.name);
    await eventually(() => pool.load.ready >= 1 && runner.warm.every((job) => job !== first));
  });

  test("starts one for an approval, before anybody asks", async (t) => {
    const { ask, pool } = await open(t);
    pool.expect(shapeOf());
    await eventually(() => pool.load.ready === 1);
    assert.ok(isWarm(await ask("r1")));
  });

  test("does nothing with a ceiling of 0", async (t) => {
    const { ask, pool, runner } = await open(t, { ceiling: 0 });
    pool.expect(shapeOf());
    assert.ok(!isWarm(await ask("r1")));
    assert.ok(!isWarm(await ask("r2")));
    assert.equal(runner.jobs.size, 2);
  });

  test("never has more than its ceiling, and more for requests that came at once", async (t) => {
    const { ask, pool, runner } = await open(t);
    await Promise.all(["a", "b", "c", "d", "e"].map((id) => ask(id)));
    await eventually(() => pool.load.ready === 2);
    assert.equal(runner.warm.length, 2);
  });

  test("starts none while requests wait for a place to run, and then again", async (t) => {
    let wait = true;
    let asked = 0;
    const requestsWait = (): boolean => {
      asked += 1;
      return wait;
    };
    const { ask, pool, runner } = await open(t, { requestsWait });
    pool.expect(shapeOf());
    await eventually(() => asked > 0);
    assert.ok(!isWarm(await ask("r1")));
    const askedBefore = asked;
    pool.expect(shapeOf());
    await eventually(() => asked > askedBefore);
    assert.deepEqual([runner.warm.length, pool.load.starting], [0, 0]);
    wait = false;
    await ask("r3");
    await eventually(() => pool.load.ready > 0);
  });

  test("gives no chain to a request for another shape, and none of them twice", async (t) => {
    const { ask, pool } = await open(t);
    pool.expect(shapeOf());
    await eventually(() => pool.load.ready === 1);
    assert.ok(!isWarm(await ask("other", shapeOf(200))));
    const chain = pool.claim(shapeOf());
    assert.ok(chain !== undefined);
    assert.equal(chain.claim(), false);
    await chain.end(0);
    await chain.close();
  });

  test("that are all killed as they are claimed leave no request without an answer", async (t) => {
    const { ask, pool, runner } = await open(t);
    pool.expect(shapeOf());
    pool.expect(shapeOf());
    await eventually(() => pool.load.ready === 2);
    // Dead, and nobody has heard of it yet.
    const failure = toFailure(new AppError("job_failed", "It was killed.", { party: "VU" }));
    for (const job of runner.warm) job.ended = { name: job.spec.name, phase: "failed", failure };
    const served = Promise.all([ask("r1"), ask("r2")]);
    for (const name of await served)
      assert.ok(!isWarm(name) || runner.jobs.get(name)?.ended?.phase === "succeeded", name);
  });

  test("loses one chain, and not all, to a request for which the bus is away", async (t) => {
    const { ask, bus, pool, runner } = await open(t, { ceiling: 3 });
    for (let count = 0; count < 3; count++) pool.expect(shapeOf());
    await eventually(() => pool.load.ready === 3);
    const waiting = [...runner.warm];
    t.mock.method(bus, "publish", async (queue: string) => {
      throw new AppError("unavailable", `Nobody takes a message for ${queue}.`);
    });
    await assert.rejects(ask("r1"), { code: "unavailable" });
    await eventually(() => waiting.some(({ ended }) => ended !== undefined));
    assert.equal(waiting.filter(({ ended }) => ended === undefined).length, 2);
    assert.ok(!runner.jobs.has("analyst-0a1b2c3d-vu-r1"), "no cold chain either");
  });

  test("replaces one that died, and one that has grown too old, and leaves nothing of them", async (t) => {
    const { bus, pool, runner } = await open(t, { ageMs: 3_000 });
    pool.expect(shapeOf());
    await eventually(() => pool.load.ready === 1);
    const [first] = runner.warm;
    first?.end();
    await eventually(() => pool.load.ready === 1 && runner.warm.length === 1);
    const [second] = runner.warm;
    assert.notEqual(second, first);
    await eventually(() => pool.load.ready === 1 && runner.warm.length === 1 && runner.warm[0] !== second);
    for (const name of [first?.spec.name ?? "", second?.spec.name ?? ""]) {
      await eventually(async () => (await bus.queueStatus(runQueue(name))) === undefined);
      await eventually(async () => (await bus.queueStatus(runReplyQueue(name))) === undefined);
      assert.ok(runner.stopped.includes(name));
    }
  });

  test("replaces one that has grown too old at that moment, though a timer ends before it by the clock", async (t) => {
    const early: Clock = { now: () => Date.now(), sleep: (ms, signal) => systemClock.sleep(0.9 * ms, signal) };
    const { pool, runner } = await open(t, { ageMs: 500, clock: early });
    pool.expect(shapeOf());
    await eventually(() => pool.load.ready === 1);
    const [first] = runner.warm;
    await eventually(() => runner.warm.length === 1 && runner.warm[0] !== first);
  });

  test("ends them all where a cold chain finds no room, and starts none for a while", async (t) => {
    const { ask, pool, runner } = await open(t);
    pool.expect(shapeOf());
    await eventually(() => pool.load.ready === 1);
    const start = runner.start.bind(runner);
    runner.start = async (spec) => {
      if (runner.warm.length > 0) {
        throw new AppError("job_start_failed", "Full.", { details: { reason: "QuotaExceeded" } });
      }
      await start(spec);
    };
    assert.ok(!isWarm(await ask("r1", shapeOf(200))));
    assert.deepEqual([runner.warm.length, pool.load.starting], [0, 0]);
  });

  test("that is closed ends those that nobody claimed, with their queues", async (t) => {
    const { bus, pool, runner } = await open(t);
    pool.expect(shapeOf());
    await eventually(() => pool.load.ready === 1);
    const name = runner.warm[0]?.spec.name ?? "";
    await pool.close();
    assert.deepEqual(runner.living, []);
    assert.equal(await bus.queueStatus(runQueue(name)), undefined);
    assert.equal(pool.claim(shapeOf()), undefined);
  });
});
