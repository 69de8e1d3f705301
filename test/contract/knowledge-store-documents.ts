/** The knowledge store's contract: the documents: get, put, list, delete, compare-and-swap. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { setImmediate } from "node:timers/promises";
import fc from "fast-check";
import { type Listing } from "../../lib/knowledge/knowledge-store.ts";
import { type Use, replay, revisionOf, spread } from "./knowledge-store-bench.ts";

const MANY_MOMENTS = 10;
const MOST_ROUNDS = 20;

/** Documents as such. */
export function documentTests(use: Use): void {
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
    const listings: Listing[] = [];
    const moments = new Set<number>();
    let rounds = 0;
    // On a busy machine the other may have written all before there was time for many lists.
    for (; moments.size <= MANY_MOMENTS && rounds < MOST_ROUNDS; rounds += 1) {
      let isWriting = true;
      const written = writer
        .tell({ type: "alternate", first: key("1"), second: key("2"), times: 300 })
        .finally(() => (isWriting = false));
      while (isWriting) {
        const listing = await here.list(key(""));
        listings.push(listing);
        moments.add(listing.revision);
        await setImmediate();
      }
      await written;
    }
    await seen.upTo(rounds * 600);
    for (const { documents, revision } of listings) {
      const upToThen = replay(seen.changes.filter((change) => revisionOf(change) <= revision));
      assert.deepEqual(new Map(documents.map((document) => [document.key, document.value])), upToThen);
    }
    assert.ok(moments.size > MANY_MOMENTS, `the lists show ${moments.size} moments, not many while the other wrote`);
  });
}

/** What puts and deletes may demand. */
export function compareAndSwapTests(use: Use): void {
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

/** Writes that another key guards. */
export function guardTests(use: Use): void {
  test("a guarded write is done while the guard has its revision, and refused, changing nothing, when not", async (context) => {
    const { here, there, key } = await spread(use, context);
    const guard = { key: key("lock"), revision: await here.put(key("lock"), 1) };
    const refused = { code: "precondition_failed", details: { guard: key("lock") } };
    const first = await here.put(key("a"), 1, { guard });
    await here.put(key("a"), 2, { guard, ifRevision: first });
    assert.equal(await here.delete(key("b"), { guard }), false);
    await there.put(key("lock"), 2);
    await assert.rejects(here.put(key("a"), 3, { guard }), refused);
    await assert.rejects(here.put(key("a"), 3, { guard, ifRevision: first }), refused);
    await assert.rejects(here.delete(key("a"), { guard }), refused);
    await there.delete(key("lock"));
    await assert.rejects(here.put(key("a"), 3, { guard }), refused);
    assert.equal((await there.get(key("a")))?.value, 2);
  });

  test("a guard of revision 0 demands that there is no such key; the document's own demand still counts", async (context) => {
    const { here, there, key } = await spread(use, context);
    const guard = { key: key("lock"), revision: 0 };
    const revision = await here.put(key("a"), 1, { guard });
    await assert.rejects(here.put(key("a"), 2, { guard, ifRevision: 0 }), { code: "precondition_failed", details: {} });
    assert.equal(await here.delete(key("a"), { guard, ifRevision: revision }), true);
    await there.put(key("lock"), 1);
    await assert.rejects(here.put(key("a"), 1, { guard }), { code: "precondition_failed" });
    await assert.rejects(here.put(key("a"), 1, { guard: { key: "", revision: 0 } }), { code: "invalid_argument" });
  });

  test("who lost its lease in between cannot write under the guard of a key that stood under it", async (context) => {
    const { here, there, key } = await spread(use, context);
    const lease = await here.grantLease({ ttlMs: 60_000 });
    const guard = { key: key("lock"), revision: await here.put(key("lock"), "here", { lease, ifRevision: 0 }) };
    await here.put(key("a"), "here", { guard });
    await (await there.attachLease(lease.id)).release();
    const taken = await there.put(key("lock"), "there", { ifRevision: 0 });
    await there.put(key("a"), "there", { guard: { key: key("lock"), revision: taken } });
    await assert.rejects(here.put(key("a"), "here", { guard }), { code: "precondition_failed" });
    assert.equal((await here.get(key("a")))?.value, "there");
  });
}

/** Random calls against a map. */
export function modelTests(use: Use): void {
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
