/** The knowledge store's contract: watches, also over compaction and interruption. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { type StoreChange } from "../../lib/knowledge/knowledge-store.ts";
import { eventually } from "../support/eventually.ts";
import { type Use, contents, inTime, mayDisturb, replay, revisionOf, spread } from "./knowledge-store-bench.ts";

/** Watches of a store that runs. */
export function watchTests(use: Use): void {
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

/** Watches when the past is forgotten. Disturbs other tests. */
export function compactionTests(use: Use): void {
  test("a watch that stood still while the past was forgotten is told the difference", async (context) => {
    const { here, there, key, bench } = await spread(use, context);
    const { compact } = bench.running;
    if (!mayDisturb(context, compact)) return;
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
    await compact();
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
    const { compact } = bench.running;
    if (!mayDisturb(context, compact)) return;
    const { revision } = await here.list(key(""));
    await there.put(key("a"), 1);
    await there.put(key("a"), 2);
    await compact();
    await assert.rejects(inTime(bench.collect(here.watch(key(""), revision)).ended), { code: "unavailable" });
    const seen = bench.collect(here.watch(key(""), await bench.revision()));
    await there.put(key("a"), 3);
    assert.deepEqual(await seen.upTo(1), ["put a=3"]);
  });
}

/** Deadlines, watches and leases when the store takes no writes. Disturbs other tests. */
export function interruptionTests(use: Use): void {
  test("a store that takes no writes makes them fail at their deadline, and works again afterwards", async (context) => {
    const { here, key, bench } = await spread(use, context);
    const { interrupt } = bench.running;
    if (!mayDisturb(context, interrupt)) return;
    // Time enough for any write on a busy machine, whose disk is busy too, and less than what `inTime` grants.
    const store = await bench.another({ timeoutMs: 2500 });
    await eventually(() => store.put(key("a"), 1), { timeoutMs: 30_000, describe: "the first write of a new client" });
    const resume = await interrupt();
    try {
      await assert.rejects(inTime(store.put(key("a"), 2)), { code: "unavailable" });
    } finally {
      await resume();
    }
    // Of another key: nobody knows whether the write that failed is carried out yet, or when.
    await eventually(() => store.put(key("b"), 3), {
      timeoutMs: 30_000,
      describe: "the store to take writes again",
    });
    assert.equal((await here.get(key("b")))?.value, 3);
  });

  test("watches and leases outlive a short interruption: no gap, no repetition, no key lost", async (context) => {
    const { here, there, key, bench } = await spread(use, context);
    const { interrupt } = bench.running;
    if (!mayDisturb(context, interrupt)) return;
    const lease = await here.grantLease({ ttlMs: 15_000 });
    const isLost = { yet: false };
    void lease.lost.then(() => (isLost.yet = true));
    await here.put(key("held"), 1, { lease });
    const seen = bench.collect(here.watch(key(""), await bench.revision()));
    await there.put(key("a"), 1);
    await seen.upTo(1);
    const resume = await interrupt();
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
