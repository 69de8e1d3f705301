import assert from "node:assert/strict";
import { join } from "node:path";
import { afterEach, beforeEach, describe, test } from "node:test";
import { ProvidedStreams, type StreamRequest } from "../../../agent/replicas/provided-streams.ts";
import type { Settlement } from "../../../lib/bus/message-bus.ts";
import { systemClock } from "../../../lib/clock.ts";
import { AppError } from "../../../lib/errors.ts";
import { providedStreamKeys } from "../../../lib/knowledge/keys.ts";
import type { KnowledgeStore, Lease } from "../../../lib/knowledge/knowledge-store.ts";
import { openKnowledgeStore } from "../../../lib/knowledge/open.ts";
import { eventually } from "../../support/eventually.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

const RUN = "analyst-0a1b2c3d-surf-0123456789ab-1-aaaaa";
const REQUEST: StreamRequest = {
  runName: RUN,
  dataRequest: "job/request",
  deadlineMs: 1_000,
  redeliveryCount: 0,
  supersede: () => assert.fail("it is not superseded"),
};

/** One instance of the agent. */
interface Instance {
  readonly name: string;
  readonly streams: ProvidedStreams;
  lease: Lease;
}

/** A stream that is being provided, until it is told how it ends. */
interface Providing {
  readonly by: string;
  readonly life: number;
  readonly end: (settlement: Settlement) => void;
  readonly fail: (error: Error) => void;
}

let store: KnowledgeStore;
const dead = new Set<string>();
let providing: Providing[] = [];
const leaving = new AbortController();

beforeEach(async () => {
  store = await openKnowledgeStore(`sqlite:${join(await temporaryFolder(), "store.db")}`);
  dead.clear();
  providing = [];
});

afterEach(() => store.close());

describe("a request for a stream that comes again", () => {
  test("at the same instance: the stream is provided once, and both deliveries are settled with it", async () => {
    const one = await instance("one");
    const outcomes = [deliver(one), deliver(one), deliver(one, { redeliveryCount: 1 })];
    (await begun(1)).end("accept");
    assert.deepEqual(await Promise.all(outcomes), ["accept", "accept", "accept"]);
    assert.equal(providing.length, 1);
  });

  test("at another instance waits until the first one has ended, and provides nothing", async () => {
    const [one, two] = [await instance("one"), await instance("two")];
    const first = deliver(one);
    const stream = await begun(1);
    const second = deliver(two);
    stream.end("accept");
    assert.deepEqual(await Promise.all([first, second]), ["accept", "accept"]);
    assert.equal(providing.length, 1);
  });

  test("at another instance provides it anew, in a later life, when the first one dies in the middle", async () => {
    const [one, two] = [await instance("one"), await instance("two")];
    void deliver(one);
    await begun(1);
    const second = deliver(two);
    dead.add("one");
    await one.lease.release();
    const again = await begun(2);
    assert.deepEqual([again.by, again.life], ["two", 1]);
    again.end("accept");
    assert.equal(await second, "accept");
  });

  for (const [how, end] of [
    ["gives it back", (stream: Providing) => stream.end("retry")],
    ["fails", (stream: Providing) => stream.fail(new AppError("unavailable", "The bus is away."))],
  ] as const) {
    test(`at another instance provides it anew, in a later life, when the first one ${how}`, async () => {
      const [one, two] = [await instance("one"), await instance("two")];
      const first = deliver(one).catch(() => "failed");
      const stream = await begun(1);
      const second = deliver(two);
      end(stream);
      await first;
      const again = await begun(2);
      assert.deepEqual([again.by, again.life], ["two", 1]);
      again.end("accept");
      assert.equal(await second, "accept");
    });
  }

  test("after the first one has ended counts its deliveries as lives", async () => {
    const [one, two] = [await instance("one"), await instance("two")];
    const first = deliver(one);
    (await begun(1)).end("retry");
    assert.equal(await first, "retry");
    const second = deliver(two, { redeliveryCount: 3 });
    const again = await begun(2);
    assert.equal(again.life, 3);
    again.end("accept");
    assert.equal(await second, "accept");
  });

  test("and waits, is settled when nobody wants the stream any more", async () => {
    const [one, two] = [await instance("one"), await instance("two")];
    const first = deliver(one);
    const stream = await begun(1);
    const gone = new AbortController();
    const second = two.streams.provide(REQUEST, gone.signal, () => assert.fail("it is not provided"));
    gone.abort();
    assert.equal(await second, "accept");
    stream.end("accept");
    await first;
  });
});

describe("two runs for one data request", () => {
  test("the later one ends the stream to the earlier one, in whichever order they come", async () => {
    for (const deadlines of [
      [1_000, 2_000],
      [2_000, 1_000],
    ]) {
      const one = await instance("one");
      const ended: number[] = [];
      const outcomes = deadlines.map((deadlineMs, index) =>
        deliver(one, { runName: `${RUN}${String(index)}`, deadlineMs, supersede: () => ended.push(deadlineMs) }),
      );
      for (const stream of await eventually(() => providing.length === 2 && providing)) stream.end("accept");
      await Promise.all(outcomes);
      assert.deepEqual(ended, deadlines[0] === 1_000 ? [1_000] : []);
      providing = [];
    }
  });

  test("of other data requests do not mind each other", async () => {
    const one = await instance("one");
    const outcomes = ["job/one", "job/two"].map((dataRequest, index) =>
      deliver(one, { runName: `${RUN}${String(index)}`, dataRequest, deadlineMs: index }),
    );
    for (const stream of await eventually(() => providing.length === 2 && providing)) stream.end("accept");
    await Promise.all(outcomes);
  });
});

describe("a claim", () => {
  test("goes with the end of the stream", async () => {
    const one = await instance("one");
    const outcome = deliver(one);
    const stream = await begun(1);
    assert.deepEqual((await storedClaim())?.value, { instance: "one", life: 0 });
    stream.end("accept");
    await outcome;
    await eventually(async () => (await storedClaim()) === undefined);
  });

  test("stands again under a new lease, and is then released as it was", async () => {
    const one = await instance("one");
    const outcome = deliver(one);
    const stream = await begun(1);
    await one.lease.release();
    one.lease = await store.grantLease({ ttlMs: 60_000 });
    await one.streams.restore(one.lease);
    assert.deepEqual((await storedClaim())?.value, { instance: "one", life: 0 });
    stream.end("accept");
    await outcome;
    await eventually(async () => (await storedClaim()) === undefined);
  });

  test("cannot be made without a lease: the delivery is to be tried again", async () => {
    const one = await instance("one");
    await one.lease.release();
    await assert.rejects(deliver(one), { code: "unavailable" });
    assert.equal(providing.length, 0);
  });
});

async function instance(name: string): Promise<Instance> {
  const made: Instance = {
    name,
    lease: await store.grantLease({ ttlMs: 60_000 }),
    streams: new ProvidedStreams({
      store,
      party: "VU",
      instance: name,
      lease: () => made.lease,
      siblings: { isLiving: async (other) => !dead.has(other) },
      clock: systemClock,
      report: (error) => assert.fail(error),
    }),
  };
  return made;
}

function deliver({ name, streams }: Instance, change: Partial<StreamRequest> = {}): Promise<Settlement> {
  return streams.provide(
    { ...REQUEST, ...change },
    leaving.signal,
    (life) => new Promise((resolve, reject) => providing.push({ by: name, life, end: resolve, fail: reject })),
  );
}

/** The stream that is provided as the nth one, as soon as it is. */
function begun(nth: number): Promise<Providing> {
  return eventually(() => providing[nth - 1], { describe: `stream ${String(nth)} to be provided` });
}

function storedClaim() {
  return store.get(providedStreamKeys.key({ party: "VU", runName: RUN }));
}
