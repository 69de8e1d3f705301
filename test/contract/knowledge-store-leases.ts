/** The knowledge store's contract: leases, and of the end of a handle. */
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { eventually } from "../support/eventually.ts";
import { pauseProcess, resumeProcess } from "../support/pause-process.ts";
import { type Use, inTime, spread } from "./knowledge-store-bench.ts";

/** Leases, in this and other processes. */
export function leaseTests(use: Use): void {
  // Long enough for a busy machine to do within it what a test does while the lease stands.
  const ttlMs = 3000;
  /** A lease's end comes within two times its time to live; the rest is for a machine that has much else to do. */
  const endsWithin = { timeoutMs: 20_000 };

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
    await eventually(async () => !(await bench.isThere("a")), {
      ...endsWithin,
      intervalMs: 10,
      describe: "the key to go",
    });
    const tookMs = performance.now() - grantedAt;
    assert.ok(tookMs >= ttlMs - 5 && tookMs <= 2 * ttlMs + 3000, `it took ${tookMs} ms`);
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
    // Long enough for a machine that has much else to do.
    const ttlMs = 4000;
    const { here, there, key } = await spread(use, context);
    const automatic = await here.grantLease({ ttlMs });
    const byHand = await here.grantLease({ ttlMs, renewal: "manual" });
    const byOther = await here.grantLease({ ttlMs, renewal: "manual" });
    const attached = await there.attachLease(byOther.id);
    assert.equal(attached.ttlMs, ttlMs);
    for (const [name, lease] of Object.entries({ automatic, byHand, byOther })) {
      await here.put(key(name), 1, { lease });
      await Promise.all([byHand.renew(), attached.renew()]);
    }
    const until = performance.now() + 2.25 * ttlMs;
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
    await eventually(async () => !(await bench.isThere("a")) && !(await bench.isThere("b")), endsWithin);
  });

  test("a process that stood still too long learns that its lease is lost", async (context) => {
    const { key, bench } = await spread(use, context);
    const owner = await bench.process();
    await owner.tell({ type: "hold", keys: [key("a")], ttlMs });
    await pauseProcess(owner.pid);
    await eventually(async () => !(await bench.isThere("a")), endsWithin);
    resumeProcess(owner.pid);
    await eventually(() => owner.messages.some(({ type }) => type === "lost"), endsWithin);
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
    await eventually(async () => !(await bench.isThere("a")), endsWithin);
    await (await there.attachLease(shared.id)).renew();
    assert.equal(await bench.isThere("b"), true);
  });
}

/** Closing. */
export function lifeTests(use: Use): void {
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
