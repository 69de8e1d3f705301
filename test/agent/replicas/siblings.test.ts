import assert from "node:assert/strict";
import { join } from "node:path";
import { describe, test, type TestContext } from "node:test";
import { INSTANCE_LABEL } from "../../../agent/chains/chain-shape.ts";
import { EndRunsHearing, endRunsEverywhere } from "../../../agent/replicas/end-runs.ts";
import { removeInstanceQueues, removeLeftOvers } from "../../../agent/replicas/left-overs.ts";
import { Siblings } from "../../../agent/replicas/siblings.ts";
import { LiveRuns } from "../../../agent/runs/live-runs.ts";
import type { MessageBus } from "../../../lib/bus/message-bus.ts";
import { openMessageBus } from "../../../lib/bus/open.ts";
import { instanceControlQueue, instanceReplyQueue, runQueue, runReplyQueue } from "../../../lib/bus/queues.ts";
import { systemClock } from "../../../lib/clock.ts";
import { AppError } from "../../../lib/errors.ts";
import type { JobRunner } from "../../../lib/jobs/job-runner.ts";
import { agentInstanceKeys } from "../../../lib/knowledge/keys.ts";
import type { KnowledgeStore, Lease } from "../../../lib/knowledge/knowledge-store.ts";
import { openKnowledgeStore } from "../../../lib/knowledge/open.ts";
import { ReleaseStack } from "../../../lib/lifecycle.ts";
import { createLogger } from "../../../lib/telemetry/logger.ts";
import { eventually } from "../../support/eventually.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

const logger = createLogger("test", {}, "info", { write: () => undefined });
const clock = systemClock;
const never = new AbortController().signal;
const GONE = new AppError("agreement_gone", "It is over.");

interface Party {
  readonly store: KnowledgeStore;
  readonly bus: MessageBus;
  /** An instance that lives: known to the others, and told by them. */
  readonly instance: (name: string) => Promise<Instance>;
}

interface Instance {
  readonly siblings: Siblings;
  readonly live: LiveRuns;
  readonly lease: Lease;
  readonly gone: string[];
  readonly endEverywhere: (runs: { jobName: string; requestId?: string }) => Promise<void>;
}

async function openParty(t: TestContext): Promise<Party> {
  const folder = await temporaryFolder();
  const releases = new ReleaseStack();
  t.after(() => releases.releaseAll());
  const store = await openKnowledgeStore(`sqlite:${join(folder, "store.db")}`);
  releases.push("store", () => store.close());
  const bus = await openMessageBus(`embedded:${join(folder, "bus.db")}`);
  releases.push("bus", () => bus.close());
  return { store, bus, instance: (name) => openInstance(releases, store, bus, name) };
}

async function openInstance(
  releases: ReleaseStack,
  store: KnowledgeStore,
  bus: MessageBus,
  instance: string,
): Promise<Instance> {
  const live = new LiveRuns();
  const gone: string[] = [];
  const siblings = await Siblings.open({
    store,
    party: "VU",
    instance,
    clock,
    logger,
    onGone: async (name) => void gone.push(name),
  });
  releases.push("siblings", () => siblings.close());
  const queue = instanceControlQueue("VU", instance);
  const hearing = await EndRunsHearing.open({ bus, queue, live, clock, logger });
  releases.push("hearing", () => hearing.close());
  const lease = await store.grantLease({ ttlMs: 60_000 });
  const record = { instance, instanceUrl: `http://${instance}.example.org` };
  await store.put(agentInstanceKeys.key({ party: "VU", instanceId: instance }), record, { lease });
  const endEverywhere = (runs: { jobName: string; requestId?: string }): Promise<void> =>
    endRunsEverywhere({ steward: "VU", bus, live, siblings }, runs, GONE);
  return { siblings, live, lease, gone, endEverywhere };
}

describe("the instances of one party's agent", () => {
  test("know who else lives, and hear of each that does not any more, once", async (t) => {
    const party = await openParty(t);
    const a = await party.instance("a");
    const b = await party.instance("b");
    assert.deepEqual(
      (await a.siblings.living()).map(({ instance }) => instance),
      ["b"],
    );
    await eventually(() => !a.siblings.goneSignal("b").aborted);
    const gone = a.siblings.goneSignal("b");
    await b.lease.release();
    await eventually(() => gone.aborted);
    assert.deepEqual(a.gone, ["b"]);
    assert.equal(await a.siblings.isLiving("b"), false);
    assert.equal(await a.siblings.isLiving("a"), true);
    assert.equal(a.siblings.goneSignal("never was").aborted, true);
  });

  test("end a job's runs, or one request's, wherever they are", async (t) => {
    const party = await openParty(t);
    const [a, b] = [await party.instance("a"), await party.instance("b")];
    const runs = [a, b].flatMap(({ live }) =>
      ["r", "s"].map((requestId) => live.enter({ requestId, jobName: "job" }, never)),
    );
    const other = b.live.enter({ requestId: "r", jobName: "another" }, never);
    const ended = (): boolean[] => runs.map(({ signal }) => signal.aborted);
    await a.endEverywhere({ jobName: "job", requestId: "r" });
    await eventually(() => ended().join() === "true,false,true,false");
    await b.endEverywhere({ jobName: "job" });
    await eventually(() => ended().every(Boolean));
    assert.equal((runs[3]?.signal.reason as AppError).code, "agreement_gone");
    assert.equal(other.signal.aborted, false);
  });

  test("need not tell the dead, and say when one that lives could not be told", async (t) => {
    const { store, bus, instance } = await openParty(t);
    const a = await instance("a");
    const lease = await store.grantLease({ ttlMs: 60_000 });
    const key = agentInstanceKeys.key({ party: "VU", instanceId: "mute" });
    await store.put(key, { instance: "mute", instanceUrl: "http://mute.example.org" }, { lease });
    await assert.rejects(a.endEverywhere({ jobName: "job" }), { code: "unavailable" });
    await bus.declareQueue(instanceControlQueue("VU", "mute"), { kind: "run" });
    await a.endEverywhere({ jobName: "job" });
    assert.equal((await bus.queueStatus(instanceControlQueue("VU", "mute")))?.ready, 1);
    await lease.release();
    await a.endEverywhere({ jobName: "job" });
  });

  test("declare their queue again where it was taken from them, and look again at what they run", async (t) => {
    const party = await openParty(t);
    const [a, b] = [await party.instance("a"), await party.instance("b")];
    const run = b.live.enter({ requestId: "r", jobName: "job" }, never);
    let rechecks = 0;
    run.recheckBy(async () => void (rechecks += 1));
    await removeInstanceQueues(party.bus, "VU", "b");
    await eventually(() => rechecks === 1);
    await a.endEverywhere({ jobName: "job" });
    await eventually(() => run.signal.aborted);
  });

  test("remove what the dead left, and touch nothing of the living", async (t) => {
    const { bus, instance } = await openParty(t);
    const [a] = [await instance("a"), await instance("b")];
    const owners = { "of-a": "a", "of-b": "b", "of-dead": "dead" };
    for (const name of Object.keys(owners)) {
      await bus.declareQueue(runQueue(name), { kind: "run" });
      await bus.declareQueue(runReplyQueue(name), { kind: "run" });
    }
    await bus.declareQueue(instanceReplyQueue("VU", "dead"), { kind: "run" });
    const ended: string[] = [];
    const runner: Pick<JobRunner, "list" | "end"> = {
      list: async () =>
        Object.entries(owners).map(([name, owner]) => ({
          name,
          phase: "running",
          labels: { [INSTANCE_LABEL]: owner },
        })),
      end: async (name) => void ended.push(name),
    };
    await removeLeftOvers({ runner: runner as JobRunner, bus }, a.siblings);
    await removeInstanceQueues(bus, "VU", "dead");
    assert.deepEqual(ended, ["of-dead"]);
    const left = [];
    for (const name of Object.keys(owners)) {
      for (const queue of [runQueue(name), runReplyQueue(name)])
        if ((await bus.queueStatus(queue)) !== undefined) left.push(queue);
    }
    assert.deepEqual(left, ["of-a", "of-a-reply", "of-b", "of-b-reply"]);
    assert.equal(await bus.queueStatus(instanceReplyQueue("VU", "dead")), undefined);
  });
});
