/**
 * What every knowledge store must do: the sentences of `lib/knowledge/knowledge-store.ts`, each tried on a real store.
 *
 * Tests know nothing of the store's other contents or of its revision, so that one server can serve them all: each works
 * under a prefix of its own.
 */
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { type TestContext, after, before, describe, test } from "node:test";
import { setImmediate, setTimeout as sleep } from "node:timers/promises";
import fc from "fast-check";
import {
  type KnowledgeStore,
  type Listing,
  type StoreChange,
  type StoreWatch,
} from "../../lib/knowledge/knowledge-store.ts";
import { eventually } from "../support/eventually.ts";
import { type StoreProcess, startStoreProcess } from "../support/knowledge-store-process.ts";

/** A store that runs, as the suite needs it. */
export interface RunningStore {
  /** What {@link openKnowledgeStore} opens it by, in this and in other processes. */
  readonly url: string;
  /** A new handle, independent of all others (as from another process). The suite closes it. */
  open(options?: { readonly timeoutMs?: number }): Promise<KnowledgeStore>;
  /** Makes the store forget all changes up to some revision that is not lower than any confirmed before the call. */
  compact(): Promise<void>;
  /**
   * Makes the store unable to take writes (server stopped, file locked) until the function it gives is called; all that
   * was confirmed stays.
   */
  interrupt(): Promise<() => Promise<void>>;
  /** Ends the store. */
  stop(): Promise<void>;
}

/** Registers the suite for one adapter. */
export function knowledgeStoreContract(name: string, start: () => Promise<RunningStore>): void {
  describe(`The knowledge store on ${name}`, () => {
    let running: RunningStore;
    before(async () => {
      running = await start();
    });
    after(() => running.stop());

    /** Two handles, a prefix, and helpers, all released when the test ends. */
    async function use(context: TestContext): Promise<Bench> {
      const bench = new Bench(running, context);
      await bench.open();
      return bench;
    }

    describe("documents", { concurrency: true }, () => documentTests(use));
    describe("compare-and-swap", { concurrency: true }, () => compareAndSwapTests(use));
    describe("watches", { concurrency: true }, () => watchTests(use));
    describe("leases", { concurrency: 8 }, () => leaseTests(use));
    describe("life", () => lifeTests(use));
    // These disturb everybody, so they run alone.
    describe("compaction", () => compactionTests(use));
    describe("interruption", () => interruptionTests(use));
    describe("model", () => modelTests(use));
  });
}

type Use = (context: TestContext) => Promise<Bench>;

class Bench {
  readonly running: RunningStore;
  readonly prefix = `/contract/${randomUUID()}/`;
  readonly #context: TestContext;
  readonly #stores: KnowledgeStore[] = [];

  constructor(running: RunningStore, context: TestContext) {
    this.running = running;
    this.#context = context;
  }

  async open(): Promise<void> {
    this.#stores.push(await this.another(), await this.another());
  }

  /** One handle. */
  get here(): KnowledgeStore {
    return this.#stores[0] as KnowledgeStore;
  }

  /** Another handle on the same store. */
  get there(): KnowledgeStore {
    return this.#stores[1] as KnowledgeStore;
  }

  /** One more handle. */
  async another(options?: { readonly timeoutMs?: number }): Promise<KnowledgeStore> {
    const store = await this.running.open(options);
    this.#context.after(() => store.close());
    return store;
  }

  key(name: string): string {
    return `${this.prefix}${name}`;
  }

  /** Another process with the same store. */
  async process(): Promise<StoreProcess> {
    const child = await startStoreProcess(this.running.url);
    this.#context.after(() => child.kill());
    return child;
  }

  /** The store's revision now. */
  async revision(): Promise<number> {
    return (await this.here.list(this.prefix)).revision;
  }

  async isThere(name: string): Promise<boolean> {
    return (await this.there.get(this.key(name))) !== undefined;
  }

  /** Collects what a watch yields, in the background. */
  collect(watch: StoreWatch): Collected {
    this.#context.after(() => watch.close());
    return new Collected(watch, this.prefix);
  }
}

/** The changes of a watch so far. */
class Collected {
  readonly changes: StoreChange[] = [];
  readonly ended: Promise<void>;
  readonly #prefix: string;

  constructor(watch: StoreWatch, prefix: string) {
    this.#prefix = prefix;
    this.ended = this.#collect(watch);
    // Who cares for its failure awaits it.
    this.ended.catch(() => undefined);
  }

  /** Waits for so many changes, and gives all in short: `put a=1`, `delete a`. */
  async upTo(count: number): Promise<string[]> {
    await eventually(() => this.changes.length >= count, { describe: `${count} changes; ${this.changes.length} came` });
    return this.short;
  }

  get short(): string[] {
    return this.changes.map((change) =>
      change.type === "put"
        ? `put ${change.document.key.slice(this.#prefix.length)}=${JSON.stringify(change.document.value)}`
        : `delete ${change.key.slice(this.#prefix.length)}`,
    );
  }

  async #collect(watch: StoreWatch): Promise<void> {
    for await (const change of watch) this.changes.push(change);
  }
}

function revisionOf(change: StoreChange): number {
  return change.type === "put" ? change.document.revision : change.revision;
}

/** What `promise` resolves with, unless that takes too long. */
async function inTime<Value>(promise: Promise<Value>): Promise<Value> {
  const stop = new AbortController();
  const tooLate = sleep(10_000, undefined, { signal: stop.signal }).then(
    () => assert.fail("it did not come within 10 s"),
    () => new Promise<never>(() => undefined),
  );
  try {
    return await Promise.race([promise, tooLate]);
  } finally {
    stop.abort();
  }
}

/** What a reader who applies all changes to an empty map ends with. */
function replay(
  changes: readonly StoreChange[],
  start: ReadonlyMap<string, unknown> = new Map(),
): Map<string, unknown> {
  const documents = new Map(start);
  for (const change of changes) {
    if (change.type === "put") documents.set(change.document.key, change.document.value);
    else documents.delete(change.key);
  }
  return documents;
}

async function contents(store: KnowledgeStore, prefix: string): Promise<Map<string, unknown>> {
  return new Map((await store.list(prefix)).documents.map(({ key, value }) => [key, value]));
}

function documentTests(use: Use): void {
  test("a document is what was put, with the revision that the put gave", async (context) => {
    const { here, there, ...bench } = await spread(use, context);
    const revision = await here.put(bench.key("a"), { b: [1, null, "x"] });
    const expected = { key: bench.key("a"), value: { b: [1, null, "x"] }, revision };
    assert.deepEqual(await here.get(bench.key("a")), expected);
    assert.deepEqual(await there.get(bench.key("a")), expected);
    assert.equal(await here.get(bench.key("b")), undefined);
  });

  test("every JSON value comes back as it was", async (context) => {
    const { here, there, key } = await spread(use, context);
    await fc.assert(
      fc.asyncProperty(fc.jsonValue({ noUnicodeString: false }), async (value) => {
        await here.put(key("value"), value);
        const found = await there.get(key("value"));
        assert.equal(JSON.stringify(found?.value), JSON.stringify(value));
      }),
      { numRuns: 50 },
    );
  });

  test("each write raises the revision, whatever its key and whoever writes", async (context) => {
    const { here, there, key } = await spread(use, context);
    const revisions = [
      await here.put(key("a"), 1),
      await there.put(key("b"), 1),
      await there.put(key("a"), 1),
      await here.put(key("b"), 1),
    ];
    assert.deepEqual(
      [...new Set(revisions)].sort((a, b) => a - b),
      revisions,
    );
    const { revision } = await here.list(key(""));
    assert.ok(revision >= Math.max(...revisions));
    await here.delete(key("a"));
    assert.ok((await there.list(key(""))).revision > revision, "a delete raises it too");
  });

  test("a value of 1 MiB of JSON is taken; one byte more is refused, and changes nothing", async (context) => {
    const { here, there, key } = await spread(use, context);
    const largest = "x".repeat(1024 * 1024 - 2);
    const revision = await here.put(key("a"), largest);
    await assert.rejects(here.put(key("a"), `${largest}x`), { code: "message_too_large" });
    await assert.rejects(here.put(key("a"), `${"é".repeat(512 * 1024 - 1)}x`), { code: "message_too_large" });
    const found = await there.get(key("a"));
    assert.equal(found?.revision, revision);
    assert.equal(found?.value, largest);
  });

  test("values that are not JSON, and keys that are not keys, are refused", async (context) => {
    const { here, key } = await spread(use, context);
    const cyclic: Record<string, unknown> = {};
    cyclic["self"] = cyclic;
    for (const value of [undefined, 1n, Symbol("x"), () => 1, cyclic]) {
      await assert.rejects(here.put(key("a"), value), { code: "invalid_argument" });
    }
    for (const bad of ["", "\ud800", `/${"x".repeat(1024)}`]) {
      await assert.rejects(here.put(bad, 1), { code: "invalid_argument" });
      await assert.rejects(here.get(bad), { code: "invalid_argument" });
      await assert.rejects(here.delete(bad), { code: "invalid_argument" });
    }
    const longest = key("x".repeat(1024 - key("").length));
    await here.put(longest, 1);
    assert.equal((await here.get(longest))?.value, 1);
  });

  test("a list has the keys that start with its prefix, sorted by their bytes", async (context) => {
    const { here, there, key } = await spread(use, context);
    // In UTF-16, which JavaScript sorts by, the emoji (D83D …) comes before U+FFFD; in bytes it comes behind.
    const names = ["l", "l/", "l/A", "l/a", "l/a/b", "l/a0", "l/é", "l/\ufffd", "l/😀", "l/\u{10ffff}", "m"];
    for (const name of [...names].reverse()) await here.put(key(name), name);
    assert.deepEqual(
      (await there.list(key("l/"))).documents.map(({ value }) => value),
      names.slice(1, -1),
    );
    assert.deepEqual(
      (await there.list(key("l/a"))).documents.map(({ value }) => value),
      ["l/a", "l/a/b", "l/a0"],
    );
    assert.deepEqual((await there.list(key("l/\u{10ffff}"))).documents.length, 1);
    assert.deepEqual((await there.list(key("none"))).documents, []);
    assert.ok((await there.list("")).documents.length >= names.length);
  });

  test("a list shows the moment that its revision names, while another process writes", async (context) => {
    const { here, key, bench } = await spread(use, context);
    const seen = bench.collect(here.watch(key(""), await bench.revision()));
    const writer = await bench.process();
    let isWriting = true;
    const written = writer
      .tell({ type: "alternate", first: key("1"), second: key("2"), times: 300 })
      .finally(() => (isWriting = false));
    const listings: Listing[] = [];
    while (isWriting) {
      listings.push(await here.list(key("")));
      await setImmediate();
    }
    await written;
    await seen.upTo(600);
    for (const { documents, revision } of listings) {
      const upToThen = replay(seen.changes.filter((change) => revisionOf(change) <= revision));
      assert.deepEqual(new Map(documents.map((document) => [document.key, document.value])), upToThen);
    }
    const moments = new Set(listings.map(({ revision }) => revision));
    assert.ok(moments.size > 10, `the lists show ${moments.size} moments, not many while the other wrote`);
  });
}

function compareAndSwapTests(use: Use): void {
  const refused = { code: "precondition_failed" };

  test("a put that demands revision 0 creates, and fails where there is a document", async (context) => {
    const { here, there, key } = await spread(use, context);
    const revision = await here.put(key("a"), "first", { ifRevision: 0 });
    await assert.rejects(there.put(key("a"), "second", { ifRevision: 0 }), refused);
    assert.deepEqual(await there.get(key("a")), { key: key("a"), value: "first", revision });
  });

  test("a put that demands a revision fails for any other, and changes nothing", async (context) => {
    const { here, there, key } = await spread(use, context);
    await assert.rejects(here.put(key("a"), 1, { ifRevision: 1 }), refused, "there is no document yet");
    assert.equal(await here.get(key("a")), undefined);
    const first = await here.put(key("a"), "first");
    const second = await there.put(key("a"), "second", { ifRevision: first });
    await assert.rejects(here.put(key("a"), "third", { ifRevision: first }), refused);
    assert.deepEqual(await here.get(key("a")), { key: key("a"), value: "second", revision: second });
  });

  test("of two writers with one revision exactly one wins", async (context) => {
    const { here, there, key } = await spread(use, context);
    let revision = await here.put(key("a"), 0);
    for (let round = 0; round < 10; round++) {
      const outcomes = await Promise.allSettled([
        here.put(key("a"), "here", { ifRevision: revision }),
        there.put(key("a"), "there", { ifRevision: revision }),
      ]);
      const won = outcomes.filter((outcome) => outcome.status === "fulfilled");
      assert.equal(won.length, 1);
      revision = won[0]?.value ?? 0;
      assert.equal((await here.get(key("a")))?.revision, revision);
    }
  });

  test("two processes that count by compare-and-swap lose nothing", async (context) => {
    const { here, key, bench } = await spread(use, context);
    const [first, second] = [await bench.process(), await bench.process()];
    const increment = { type: "increment", key: key("count"), times: 150 } as const;
    await Promise.all([first.tell(increment), second.tell(increment)]);
    assert.equal((await here.get(key("count")))?.value, 300);
  });

  test("a delete tells whether there was such a key", async (context) => {
    const { here, there, key } = await spread(use, context);
    assert.equal(await here.delete(key("a")), false);
    await here.put(key("a"), 1);
    assert.equal(await there.delete(key("a")), true);
    assert.equal(await here.get(key("a")), undefined);
    assert.equal(await here.delete(key("a")), false);
    await here.put(key("a"), 2, { ifRevision: 0 });
  });

  test("a delete that demands a revision fails for any other, and changes nothing", async (context) => {
    const { here, there, key } = await spread(use, context);
    const first = await here.put(key("a"), 1);
    const second = await here.put(key("a"), 2);
    await assert.rejects(there.delete(key("a"), { ifRevision: first }), refused);
    await assert.rejects(there.delete(key("a"), { ifRevision: 0 }), refused);
    await assert.rejects(there.delete(key("b"), { ifRevision: first }), refused, "there is no such document");
    assert.equal((await here.get(key("a")))?.value, 2);
    assert.equal(await there.delete(key("b"), { ifRevision: 0 }), false);
    assert.equal(await there.delete(key("a"), { ifRevision: second }), true);
  });
}

function watchTests(use: Use): void {
  test("a watch from a list's revision has every later change of any handle, once and in order", async (context) => {
    const { here, there, key, bench } = await spread(use, context);
    await here.put(key("0"), "before");
    const { revision } = await here.list(key(""));
    const seen = bench.collect(here.watch(key(""), revision));
    const names = Array.from({ length: 200 }, (_, index) => String(index));
    for (const [index, name] of names.entries()) await (index % 2 ? here : there).put(key("a"), name);
    assert.deepEqual(
      await seen.upTo(names.length),
      names.map((name) => `put a="${name}"`),
    );
    const revisions = seen.changes.map(revisionOf);
    assert.ok(revisions.every((value, index) => value > (revisions[index - 1] ?? revision)));
    const last = seen.changes.at(-1);
    assert.deepEqual(await here.get(key("a")), last?.type === "put" && last.document);
  });

  test("lists and watches taken while another process writes miss nothing and repeat nothing", async (context) => {
    const { here, key, bench } = await spread(use, context);
    const writer = await bench.process();
    const written = writer.tell({ type: "alternate", first: key("1"), second: key("2"), times: 100 });
    await eventually(() => bench.isThere("2"), { intervalMs: 1 });
    const { documents, revision } = await here.list(key(""));
    const start = documents.reduce((sum, { value }) => sum + Number(value), 0);
    const seen = bench.collect(here.watch(key(""), revision));
    await written;
    await seen.upTo(200 - start);
    const expected = Array.from({ length: 200 }, (_, index) => `put ${(index % 2) + 1}=${Math.floor(index / 2) + 1}`);
    assert.deepEqual(seen.short, expected.slice(start));
  });

  test("a watch from an old revision begins with the past, deletes included", async (context) => {
    const { here, there, key, bench } = await spread(use, context);
    const { revision } = await here.list(key(""));
    await here.put(key("a"), 1);
    await there.put(key("a"), 2);
    await here.put(key("b"), 1);
    await there.delete(key("a"));
    await here.put(key("a"), 3);
    const all = ["put a=1", "put a=2", "put b=1", "delete a", "put a=3"];
    const seen = bench.collect(there.watch(key(""), revision));
    assert.deepEqual(await seen.upTo(5), all);
    for (const [index, change] of seen.changes.entries()) {
      const later = bench.collect(here.watch(key(""), revisionOf(change)));
      assert.deepEqual(await later.upTo(all.length - index - 1), all.slice(index + 1));
    }
  });

  test("a watch is told of its prefix only", async (context) => {
    const { here, there, key, bench } = await spread(use, context);
    const seen = bench.collect(here.watch(key("a/"), await bench.revision()));
    for (const name of ["a", "b/1", "a/1", "a0", "a/\u{10ffff}", "a/2"]) await there.put(key(name), 1);
    await there.delete(key("b/1"));
    await there.delete(key("a/1"));
    assert.deepEqual(await seen.upTo(4), ["put a/1=1", "put a/\u{10ffff}=1", "put a/2=1", "delete a/1"]);
  });

  test("what changed nothing is not told", async (context) => {
    const { here, there, key, bench } = await spread(use, context);
    await there.put(key("a"), 0);
    const seen = bench.collect(here.watch(key(""), await bench.revision()));
    await there.delete(key("none"));
    await assert.rejects(there.put(key("a"), 1, { ifRevision: 0 }), { code: "precondition_failed" });
    await there.put(key("a"), 2);
    assert.deepEqual(await seen.upTo(1), ["put a=2"]);
  });

  test("a watch ends by close, by abort and by leaving its loop, also while it waits", async (context) => {
    const { here, there, key, bench } = await spread(use, context);
    const revision = await bench.revision();
    const watch = here.watch(key(""), revision);
    const closed = bench.collect(watch);
    const abort = new AbortController();
    const aborted = bench.collect(here.watch(key(""), revision, abort.signal));
    await there.put(key("a"), 1);
    await Promise.all([closed.upTo(1), aborted.upTo(1)]);
    await Promise.all([watch.close(), watch.close()]);
    await watch.close();
    abort.abort();
    await inTime(Promise.all([closed.ended, aborted.ended]));
    await inTime(bench.collect(here.watch(key(""), revision, abort.signal)).ended);
    for await (const change of here.watch(key(""), revision)) {
      assert.equal(change.type, "put");
      break;
    }
    await there.put(key("a"), 2);
    assert.deepEqual(closed.short, ["put a=1"]);
  });

  test("many watches of one handle are each told everything", async (context) => {
    const { here, there, key, bench } = await spread(use, context);
    const revision = await bench.revision();
    const watches = Array.from({ length: 20 }, () => bench.collect(here.watch(key(""), revision)));
    for (let count = 0; count < 10; count++) await there.put(key("a"), count);
    for (const seen of watches) assert.equal((await seen.upTo(10)).length, 10);
  });
}

function leaseTests(use: Use): void {
  const ttlMs = 1000;

  test("when a lease is not renewed its keys go, after one to two times its time to live", async (context) => {
    const { here, there, key, bench } = await spread(use, context);
    const watcher = await bench.process();
    await watcher.tell({ type: "watch", prefix: key(""), fromRevision: await bench.revision() });
    const grantedAt = performance.now();
    const lease = await here.grantLease({ ttlMs, renewal: "manual" });
    assert.equal(lease.ttlMs, ttlMs);
    await here.put(key("a"), 1, { lease });
    await there.put(key("b"), 1, { lease });
    await here.put(key("c"), 1);
    await eventually(async () => !(await bench.isThere("a")), { intervalMs: 10, describe: "the key to go" });
    const tookMs = performance.now() - grantedAt;
    assert.ok(tookMs >= ttlMs - 5 && tookMs <= 2 * ttlMs + 500, `it took ${tookMs} ms`);
    await eventually(() => watcher.changes.length === 5, { describe: "the other process to see both deletes" });
    assert.deepEqual(
      watcher.changes.slice(3).map((change) => change.type === "delete" && change.key),
      [key("a"), key("b")],
    );
    await assert.rejects(lease.renew(), { code: "not_found" });
    await inTime(lease.lost);
    assert.equal(await bench.isThere("c"), true);
  });

  test("a lease lives on by renewal: automatic, by hand, or through another handle", async (context) => {
    const { here, there, key } = await spread(use, context);
    const automatic = await here.grantLease({ ttlMs });
    const byHand = await here.grantLease({ ttlMs, renewal: "manual" });
    const byOther = await here.grantLease({ ttlMs, renewal: "manual" });
    const attached = await there.attachLease(byOther.id);
    assert.equal(attached.ttlMs, ttlMs);
    for (const [name, lease] of Object.entries({ automatic, byHand, byOther })) await here.put(key(name), 1, { lease });
    const until = performance.now() + 3 * ttlMs;
    while (performance.now() < until) {
      await sleep(ttlMs / 4);
      await Promise.all([byHand.renew(), attached.renew()]);
    }
    assert.equal((await there.list(key(""))).documents.length, 3);
    await Promise.all([automatic.release(), byHand.release(), attached.release()]);
    assert.equal((await there.list(key(""))).documents.length, 0);
  });

  test("release deletes the lease's keys at once, and is harmless again; then the lease is gone", async (context) => {
    const { here, there, key, bench } = await spread(use, context);
    const lease = await here.grantLease({ ttlMs: 60_000 });
    const isLost = { yet: false };
    void lease.lost.then(() => (isLost.yet = true));
    await here.put(key("a"), 1, { lease });
    const seen = bench.collect(there.watch(key(""), await bench.revision()));
    await lease.release();
    assert.equal(await bench.isThere("a"), false);
    assert.deepEqual(await seen.upTo(1), ["delete a"]);
    await lease.release();
    await assert.rejects(lease.renew(), { code: "not_found" });
    await assert.rejects(here.put(key("a"), 1, { lease }), { code: "not_found" });
    await assert.rejects(there.attachLease(lease.id), { code: "not_found" });
    assert.equal(await bench.isThere("a"), false);
    assert.equal(isLost.yet, false, "what was released is not lost");
  });

  test("a put without the lease, or with another, detaches the key", async (context) => {
    const { here, there, key } = await spread(use, context);
    const lease = await here.grantLease({ ttlMs: 60_000 });
    const other = await there.grantLease({ ttlMs: 60_000 });
    for (const name of ["kept", "moved", "again", "left"]) await here.put(key(name), 1, { lease });
    await there.put(key("kept"), 2);
    await there.put(key("moved"), 2, { lease: other });
    await there.delete(key("again"));
    await there.put(key("again"), 2);
    await lease.release();
    const names = async (): Promise<string[]> =>
      (await here.list(key(""))).documents.map((document) => document.key.slice(key("").length));
    assert.deepEqual(await names(), ["again", "kept", "moved"]);
    await other.release();
    assert.deepEqual(await names(), ["again", "kept"]);
  });

  test("a lease that another handle ends is lost to its owner", async (context) => {
    const { here, there, key, bench } = await spread(use, context);
    const lease = await here.grantLease({ ttlMs });
    await here.put(key("a"), 1, { lease });
    await (await there.attachLease(lease.id)).release();
    assert.equal(await bench.isThere("a"), false);
    await inTime(lease.lost);
  });

  test("ids of no lease, and times to live that are too short, are refused", async (context) => {
    const { here } = await spread(use, context);
    for (const id of [randomUUID(), "", "7"]) await assert.rejects(here.attachLease(id), { code: "not_found" });
    for (const ttl of [999, 0, -1, Number.NaN]) {
      await assert.rejects(here.grantLease({ ttlMs: ttl }), { code: "invalid_argument" });
    }
  });

  test("the keys of a process that was killed go", async (context) => {
    const { key, bench } = await spread(use, context);
    const owner = await bench.process();
    await owner.tell({ type: "hold", keys: [key("a"), key("b")], ttlMs });
    assert.equal(await bench.isThere("a"), true);
    await owner.kill();
    await eventually(async () => !(await bench.isThere("a")) && !(await bench.isThere("b")), { timeoutMs: 5000 });
  });

  test("a process that stood still too long learns that its lease is lost", async (context) => {
    const { key, bench } = await spread(use, context);
    const owner = await bench.process();
    await owner.tell({ type: "hold", keys: [key("a")], ttlMs });
    owner.signal("SIGSTOP");
    await eventually(async () => !(await bench.isThere("a")), { timeoutMs: 5000 });
    owner.signal("SIGCONT");
    await eventually(() => owner.messages.some(({ type }) => type === "lost"), { timeoutMs: 5000 });
    await owner.tell({ type: "hold", keys: [key("a")], ttlMs });
    assert.equal(await bench.isThere("a"), true);
  });

  test("closing a handle lets its leases run out, and leaves manual ones to others", async (context) => {
    const { there, key, bench } = await spread(use, context);
    const owner = await bench.another();
    await owner.put(key("a"), 1, { lease: await owner.grantLease({ ttlMs }) });
    const shared = await owner.grantLease({ ttlMs: 60_000, renewal: "manual" });
    await owner.put(key("b"), 1, { lease: shared });
    await owner.close();
    assert.equal(await bench.isThere("a"), true);
    await eventually(async () => !(await bench.isThere("a")), { timeoutMs: 5000 });
    await (await there.attachLease(shared.id)).renew();
    assert.equal(await bench.isThere("b"), true);
  });
}

function lifeTests(use: Use): void {
  test("a closed handle ends its watches and refuses everything; others go on", async (context) => {
    const { there, key, bench } = await spread(use, context);
    const store = await bench.another();
    await store.ping();
    const lease = await store.grantLease({ ttlMs: 60_000 });
    const waiting = bench.collect(store.watch(key(""), await bench.revision()));
    await there.put(key("a"), 1);
    await waiting.upTo(1);
    await store.close();
    await store.close();
    await inTime(waiting.ended);
    const calls = [
      () => store.get(key("a")),
      () => store.list(key("")),
      () => store.put(key("a"), 1),
      () => store.delete(key("a")),
      () => store.grantLease({ ttlMs: 1000 }),
      () => store.attachLease("x"),
      () => store.ping(),
      () => lease.renew(),
      () => inTime(bench.collect(store.watch(key(""), 0)).ended),
    ];
    for (const call of calls) await assert.rejects(call, { code: "unavailable" });
    await there.put(key("a"), 2);
    await there.ping();
  });
}

function compactionTests(use: Use): void {
  test("a watch that stood still while the past was forgotten is told the difference", async (context) => {
    const { here, there, key, bench } = await spread(use, context);
    for (const name of ["gone", "back", "kept", "changed"]) await here.put(key(name), 0);
    const start = await contents(here, key(""));
    const watch = here.watch(key(""), await bench.revision());
    const reader = watch[Symbol.asyncIterator]();
    await there.put(key("changed"), 1);
    assert.equal((await reader.next()).done, false);
    for (let count = 2; count < 200; count++) await there.put(key("changed"), count);
    await there.delete(key("gone"));
    await there.delete(key("back"));
    await there.put(key("back"), 1);
    await there.put(key("new"), 1);
    await there.put(key("never"), 1);
    await there.delete(key("never"));
    await bench.running.compact();
    await there.put(key("late"), 1);
    const seen: StoreChange[] = [];
    for (let change = await reader.next(); !change.done; change = await reader.next()) {
      seen.push(change.value);
      if (change.value.type === "put" && change.value.document.key === key("late")) break;
    }
    await watch.close();
    assert.deepEqual(replay(seen, start), await contents(here, key("")));
    const revisions = seen.map(revisionOf);
    assert.deepEqual(
      [...revisions].sort((a, b) => a - b),
      revisions,
    );
  });

  test("a watch cannot begin where the past is forgotten; from a new list it can", async (context) => {
    const { here, there, key, bench } = await spread(use, context);
    const { revision } = await here.list(key(""));
    await there.put(key("a"), 1);
    await there.put(key("a"), 2);
    await bench.running.compact();
    await assert.rejects(inTime(bench.collect(here.watch(key(""), revision)).ended), { code: "unavailable" });
    const seen = bench.collect(here.watch(key(""), await bench.revision()));
    await there.put(key("a"), 3);
    assert.deepEqual(await seen.upTo(1), ["put a=3"]);
  });
}

function interruptionTests(use: Use): void {
  test("a store that takes no writes makes them fail at their deadline, and works again afterwards", async (context) => {
    const { here, key, bench } = await spread(use, context);
    const store = await bench.another({ timeoutMs: 300 });
    await store.put(key("a"), 1);
    const resume = await bench.running.interrupt();
    const startedAt = performance.now();
    try {
      await assert.rejects(inTime(store.put(key("a"), 2)), { code: "unavailable" });
    } finally {
      await resume();
    }
    assert.ok(performance.now() - startedAt < 3000, "it did not wait for ever");
    await eventually(() => store.put(key("a"), 3), { describe: "the store to take writes again" });
    assert.equal((await here.get(key("a")))?.value, 3);
  });

  test("watches and leases outlive a short interruption: no gap, no repetition, no key lost", async (context) => {
    const { here, there, key, bench } = await spread(use, context);
    const lease = await here.grantLease({ ttlMs: 5000 });
    const isLost = { yet: false };
    void lease.lost.then(() => (isLost.yet = true));
    await here.put(key("held"), 1, { lease });
    const seen = bench.collect(here.watch(key(""), await bench.revision()));
    await there.put(key("a"), 1);
    await seen.upTo(1);
    const resume = await bench.running.interrupt();
    const duringIt = there.put(key("a"), 2).catch(() => undefined);
    await sleep(2000);
    await resume();
    await duringIt;
    await eventually(() => there.put(key("a"), 3), { describe: "the store to take writes again" });
    await eventually(() => seen.short.at(-1) === "put a=3", { describe: "the watch to go on" });
    assert.equal(new Set(seen.changes.map(revisionOf)).size, seen.changes.length);
    await lease.renew();
    assert.equal(isLost.yet, false);
    assert.equal(await bench.isThere("held"), true);
  });
}

function modelTests(use: Use): void {
  const name = fc.constantFrom("a", "b", "a/b", "c");
  const command = fc.record({
    act: fc.constantFrom("put", "put", "create", "swap", "swapStale", "delete", "deleteStale"),
    handle: fc.constantFrom("here", "there"),
    name,
    value: fc.nat(),
  });

  test("any sequence of calls has the effect it has on a map, and a watch replays it", async (context) => {
    const bench = await use(context);
    let run = 0;
    await fc.assert(
      fc.asyncProperty(fc.array(command, { maxLength: 30 }), async (commands) => {
        const prefix = bench.key(`${run++}/`);
        const model = new Map<string, { value: number; revision: number }>();
        let { revision } = await bench.here.list(prefix);
        const watched = bench.collect(bench.there.watch(prefix, revision));
        let changeCount = 0;
        for (const { act, handle, name, value } of commands) {
          const [store, key] = [bench[handle], prefix + name];
          const known = model.get(key)?.revision ?? 0;
          const demand = { put: {}, create: { ifRevision: 0 }, swap: { ifRevision: known } }[act as "put"];
          const options = demand ?? { ifRevision: act === "delete" ? known : known + 1 };
          const isAllowed = !("ifRevision" in options) || options.ifRevision === known;
          const call: Promise<unknown> = act.startsWith("delete")
            ? store.delete(key, options)
            : store.put(key, value, options);
          if (!isAllowed) {
            await assert.rejects(call, { code: "precondition_failed" });
          } else if (act.startsWith("delete")) {
            assert.equal(await call, model.delete(key));
            changeCount += known > 0 ? 1 : 0;
          } else {
            const given = (await call) as number;
            assert.ok(given > revision);
            revision = given;
            model.set(key, { value, revision });
            changeCount++;
          }
        }
        const listed = (await bench.there.list(prefix)).documents;
        const expected = [...model].sort(([a], [b]) => (a < b ? -1 : 1)).map(([key, rest]) => ({ key, ...rest }));
        assert.deepEqual(listed, expected);
        await watched.upTo(changeCount);
        assert.equal(watched.changes.length, changeCount);
        assert.deepEqual(replay(watched.changes), new Map(listed.map(({ key, value }) => [key, value])));
      }),
      { numRuns: 60 },
    );
  });
}

/** A bench, with what nearly every test uses of it at hand. */
async function spread(use: Use, context: TestContext) {
  const bench = await use(context);
  return { bench, here: bench.here, there: bench.there, key: (name: string): string => bench.key(name) };
}
