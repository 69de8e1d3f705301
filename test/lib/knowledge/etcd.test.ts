/** The store on an etcd that is killed, stopped, cut off and compacted. What all stores promise is in `test/contract`. */
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { type KnowledgeStore, type StoreChange } from "../../../lib/knowledge/knowledge-store.ts";
import { openKnowledgeStore } from "../../../lib/knowledge/open.ts";
import { startMetrics } from "../../../lib/telemetry/metrics.ts";
import { Collected, contents, inTime, replay, revisionOf } from "../../contract/knowledge-store-bench.ts";
import { type EtcdOptions, type EtcdServer, noEtcdProgram, startEtcd } from "../../support/etcd.ts";
import { eventually } from "../../support/eventually.ts";
import { startStoreProcess } from "../../support/knowledge-store-process.ts";
import { NetworkPath } from "../../support/network-path.ts";
import { SeededRandom, seedFrom } from "../../support/random.ts";

const skip = noEtcdProgram();

async function server(context: TestContext, options: EtcdOptions = {}): Promise<EtcdServer> {
  const started = await startEtcd(options);
  context.after(() => started.stop());
  return started;
}

async function open(context: TestContext, url: string, timeoutMs = 5000): Promise<KnowledgeStore> {
  const store = await openKnowledgeStore(url, { timeoutMs });
  context.after(() => store.close());
  return store;
}

function collect(context: TestContext, store: KnowledgeStore, prefix: string, revision: number): Collected {
  const watch = store.watch(prefix, revision);
  context.after(() => watch.close());
  return new Collected(watch, "");
}

/** Everything that ever happened, by etcd's own client and one watch that is never disturbed. */
async function history(etcd: EtcdServer, prefix: string): Promise<StoreChange[]> {
  const admin = await etcd.admin();
  try {
    const end = (await admin.put(`${prefix}end`).value('"end"')).header.revision;
    const changes: StoreChange[] = [];
    const watcher = await admin.watch().prefix(prefix).startRevision("1").create();
    watcher.on("put", ({ key, value, mod_revision: revision }) => {
      const document = {
        key: key.toString(),
        value: JSON.parse(value.toString()) as unknown,
        revision: Number(revision),
      };
      changes.push({ type: "put", document });
    });
    watcher.on("delete", ({ key, mod_revision: revision }) => {
      changes.push({ type: "delete", key: key.toString(), revision: Number(revision) });
    });
    await eventually(() => changes.some((change) => revisionOf(change) === Number(end)));
    await watcher.cancel();
    return changes;
  } finally {
    admin.close();
  }
}

test(
  "an etcd that is killed and stopped while others write and watch loses nothing and doubles nothing",
  { skip },
  async (context) => {
    const random = new SeededRandom(seedFrom("DYNAMOS_ETCD_SEED"));
    context.diagnostic(`DYNAMOS_ETCD_SEED=${random.seed}`);
    const etcd = await server(context);
    const [watcher, writer] = [await open(context, etcd.url()), await open(context, etcd.url(), 2000)];
    const { revision } = await watcher.list("/w/");
    const seen = ["/w/", "/w/a", "/w/b"].map((prefix) => ({
      prefix,
      collected: collect(context, watcher, prefix, revision),
    }));

    const confirmed: { readonly key: string; readonly value: number; readonly revision: number }[] = [];
    const tried = new Set<number>();
    let isOver = false;
    const write = async (name: string): Promise<void> => {
      for (let count = 0; !isOver; count++) {
        const key = `/w/${name}/${random.int(0, 3)}`;
        const value = tried.size;
        tried.add(value);
        try {
          if (random.chance(0.2)) await writer.delete(key);
          else confirmed.push({ key, value, revision: await writer.put(key, value) });
        } catch (error) {
          assert.equal((error as { code?: string }).code, "unavailable", String(error));
        }
        await sleep(random.int(0, 5));
      }
    };
    const writing = ["a", "b", "c"].map((name) => write(name));
    for (let fault = 0; fault < 5; fault++) {
      const before = confirmed.length;
      await eventually(() => confirmed.length > before + 20, { timeoutMs: 30_000, describe: "more writes" });
      if (random.chance(0.6)) {
        await etcd.kill();
        await etcd.start();
      } else {
        await etcd.pause();
        await sleep(random.int(100, 1500));
        etcd.resume();
      }
    }
    isOver = true;
    await Promise.all(writing);

    const truth = await history(etcd, "/w/");
    const puts = truth.flatMap((change) => (change.type === "put" ? [change.document] : []));
    assert.equal(new Set(puts.map(({ value }) => value)).size, puts.length, "no write was carried out twice");
    const byRevision = new Map(puts.map((document) => [document.revision, document]));
    for (const write of confirmed)
      assert.deepEqual(byRevision.get(write.revision), write, "what was confirmed is there");
    for (const { prefix, collected } of seen) {
      const expected = truth.filter((change) => keyOf(change).startsWith(prefix));
      await eventually(() => collected.changes.length >= expected.length, { timeoutMs: 30_000 });
      assert.deepEqual(collected.changes, expected);
    }
  },
);

function keyOf(change: StoreChange): string {
  return change.type === "put" ? change.document.key : change.key;
}

test(
  "a watch whose past is forgotten while it is cut off is told the difference, and goes on",
  { skip },
  async (context) => {
    const etcd = await server(context);
    const path = await NetworkPath.to(etcd.ports.client);
    context.after(() => path.close());
    const near = await open(context, etcd.url());
    const far = await open(context, `etcd://127.0.0.1:${path.port}`);
    for (const name of ["gone", "back", "kept", "changed"]) await near.put(`/a/${name}`, 0);
    const start = await contents(near, "/a/");
    const seen = collect(context, far, "/a/", (await near.list("/a/")).revision);
    await near.put("/a/changed", 1);
    await seen.upTo(1);
    path.cut();
    for (let count = 2; count < 50; count++) await near.put("/a/changed", count);
    await near.delete("/a/gone");
    await near.delete("/a/back");
    await near.put("/a/back", 1);
    await near.put("/a/never", 1);
    await near.delete("/a/never");
    await etcd.compact();
    await near.put("/a/late", 1);
    path.mend();
    await eventually(() => seen.short.includes("put /a/late=1"), { timeoutMs: 20_000 });
    assert.deepEqual(seen.short, [
      "put /a/changed=1",
      "put /a/changed=49",
      "put /a/back=1",
      "put /a/late=1",
      "delete /a/gone",
    ]);
    assert.deepEqual(replay(seen.changes, start), await contents(near, "/a/"));
    await near.put("/a/after", 1);
    await seen.upTo(6);
  },
);

test(
  "a path that swallows everything is noticed by watches, which go on over a new connection",
  { skip },
  async (context) => {
    const etcd = await server(context);
    const path = await NetworkPath.to(etcd.ports.client);
    context.after(() => path.close());
    const near = await open(context, etcd.url());
    const far = await open(context, `etcd://127.0.0.1:${path.port}`, 1000);
    const seen = collect(context, far, "/", (await near.list("/")).revision);
    await near.put("/a", 1);
    await seen.upTo(1);
    path.silence();
    await near.put("/a", 2);
    await assert.rejects(inTime(far.get("/a")), { code: "unavailable" });
    // Only what is new passes again: the old connections stay dead, as behind a firewall that forgot them.
    path.forget();
    await eventually(() => seen.short.includes("put /a=2"), { timeoutMs: 30_000, describe: "the watch to go on" });
    assert.deepEqual(seen.short, ["put /a=1", "put /a=2"]);
  },
);

test(
  "a write whose answer is lost fails as unavailable, and is not repeated behind its caller's back",
  { skip },
  async (context) => {
    const etcd = await server(context);
    const path = await NetworkPath.to(etcd.ports.client);
    context.after(() => path.close());
    const near = await open(context, etcd.url());
    const far = await open(context, `etcd://127.0.0.1:${path.port}`, 20_000);
    path.swallowAnswers();
    const refused = assert.rejects(inTime(far.put("/a", 1)), {
      code: "unavailable",
      message: /carried out nevertheless/,
    });
    await eventually(() => near.get("/a"));
    path.cut();
    path.mend();
    await refused;
    await far.ping();
    const puts = (await history(etcd, "/a")).filter((change) => change.type === "put" && change.document.key === "/a");
    assert.equal(puts.length, 1);
  },
);

test(
  "every call ends at its deadline while etcd stands still, and works again when it goes on",
  { skip },
  async (context) => {
    const etcd = await server(context);
    const store = await open(context, etcd.url(), 2000);
    const lease = await store.grantLease({ ttlMs: 60_000, renewal: "manual" });
    await etcd.pause();
    const startedAt = performance.now();
    const calls = [
      store.get("/a"),
      store.list("/"),
      store.put("/a", 1),
      store.delete("/a"),
      store.grantLease({ ttlMs: 1000 }),
      store.attachLease(lease.id),
      lease.renew(),
      lease.release(),
      store.ping(),
      openKnowledgeStore(etcd.url(), { timeoutMs: 2000 }),
    ];
    const outcomes = await Promise.allSettled(calls);
    const tookMs = performance.now() - startedAt;
    etcd.resume();
    for (const outcome of outcomes) {
      assert.equal(outcome.status === "rejected" && (outcome.reason as { code?: string }).code, "unavailable");
    }
    assert.ok(tookMs < 8000, `it took ${tookMs} ms`);
    await eventually(() => store.put("/a", 2));
  },
);

test(
  "closing ends what is under way at once, also calls and watches that wait for a dead etcd",
  { skip },
  async (context) => {
    const etcd = await server(context);
    const store = await openKnowledgeStore(etcd.url(), { timeoutMs: 60_000 });
    const watch = collect(context, store, "/", 0);
    await store.put("/a", 1);
    await watch.upTo(1);
    await etcd.pause();
    const waiting = store.get("/a");
    const refused = assert.rejects(inTime(waiting), { code: "unavailable", message: /closed/ });
    await etcd.kill();
    const another = assert.rejects(inTime(store.put("/a", 2)), { code: "unavailable" });
    await store.close();
    await Promise.all([refused, another, inTime(watch.ended)]);
  },
);

test(
  "a lease that ran out while etcd stood still is lost to its owner, who registers again",
  { skip },
  async (context) => {
    const etcd = await server(context);
    // Long enough for a busy machine to renew it in time.
    const ttlMs = 4000;
    const store = await open(context, etcd.url(), 3000);
    const lease = await store.grantLease({ ttlMs });
    await store.put("/online", 1, { lease });
    const path = await NetworkPath.to(etcd.ports.client);
    context.after(() => path.close());
    const cutOff = await open(context, `etcd://127.0.0.1:${path.port}`, 3000);
    const far = await cutOff.grantLease({ ttlMs });
    await cutOff.put("/far", 1, { lease: far });
    path.cut();
    await eventually(async () => (await store.get("/far")) === undefined, {
      timeoutMs: 20_000,
      describe: "the other's key to go",
    });
    path.mend();
    await inTime(far.lost);
    await assert.rejects(cutOff.put("/far", 2, { lease: far }), { code: "not_found" });
    const again = await cutOff.grantLease({ ttlMs });
    await cutOff.put("/far", 2, { lease: again });
    assert.equal((await store.get("/far"))?.value, 2);
    assert.equal((await store.get("/online"))?.value, 1, "who could renew keeps what it has");
  },
);

test(
  "a lease outlives an etcd that is away for longer than its time: restarted, it counts anew",
  { skip },
  async (context) => {
    const etcd = await server(context);
    const store = await open(context, etcd.url(), 1000);
    const lease = await store.grantLease({ ttlMs: 2000 });
    const isLost = { yet: false };
    void lease.lost.then(() => (isLost.yet = true));
    await store.put("/online", 1, { lease });
    await etcd.kill();
    await sleep(3000);
    await etcd.start();
    // Either it was renewed in time, and then its key is there; or it was not, and then its owner is told. Never neither.
    await eventually(async () => isLost.yet || (await store.get("/online")) !== undefined);
    await sleep(3000);
    assert.equal(isLost.yet, (await store.get("/online")) === undefined);
  },
);

test(
  "a killed etcd that comes back is used again by every handle, in other processes too",
  { skip },
  async (context) => {
    const etcd = await server(context);
    const store = await open(context, etcd.url());
    const other = await startStoreProcess(etcd.url());
    context.after(() => other.kill());
    await other.tell({ type: "watch", prefix: "/", fromRevision: (await store.list("/")).revision });
    const started = etcd.kill().then(() => etcd.start());
    await eventually(() => store.put("/a", 1));
    await started;
    await other.tell({ type: "increment", key: "/count", times: 3 });
    await eventually(() => other.changes.length >= 4);
    assert.equal((await store.get("/count"))?.value, 3);
  },
);

test("of several members the one that answers is used, and the next when it goes", { skip }, async (context) => {
  const etcd = await server(context);
  const paths = [await NetworkPath.to(etcd.ports.client), await NetworkPath.to(etcd.ports.client)] as const;
  context.after(() => Promise.all(paths.map((path) => path.close())));
  const [first, second] = paths;
  first.cut();
  const store = await open(context, `etcd://127.0.0.1:${first.port},127.0.0.1:${second.port}`, 3000);
  const seen = collect(context, store, "/", (await store.list("/")).revision);
  await store.put("/a", 1);
  assert.equal(first.connections, 0);
  first.mend();
  second.silence();
  await eventually(() => store.put("/a", 2), { timeoutMs: 20_000, describe: "the other member to be used" });
  await eventually(() => seen.short.includes("put /a=2"), { timeoutMs: 20_000 });
});

test(
  "an exchange sees nothing of its neighbour on the same etcd, though one's prefix begins the other's",
  { skip },
  async (context) => {
    const etcd = await server(context);
    const stores = [
      await open(context, etcd.url("/ex")),
      await open(context, etcd.url("/ex2")),
      await open(context, etcd.url()),
    ];
    const [one, two, all] = stores as [KnowledgeStore, KnowledgeStore, KnowledgeStore];
    const seen = collect(context, one, "", (await one.list("")).revision);
    await two.put("/a", "two");
    await one.put("/a", "one");
    await one.delete("/a");
    await one.put("/b", "one");
    assert.deepEqual(await seen.upTo(3), ['put /a="one"', "delete /a", 'put /b="one"']);
    assert.deepEqual([...(await contents(one, ""))], [["/b", "one"]]);
    assert.deepEqual([...(await contents(two, "/"))], [["/a", "two"]]);
    assert.deepEqual([...(await contents(all, "")).keys()], ["/ex/b", "/ex2/a"]);
    await assert.rejects(one.list("2/"), { code: "invalid_argument" });
    await assert.rejects(one.get("2/a"), { code: "invalid_argument" });
  },
);

test("a list of more than a page, and of large documents, is of one moment", { skip }, async (context) => {
  const etcd = await server(context, { quotaBytes: 2 ** 31 });
  const [store, other] = [await open(context, etcd.url(), 30_000), await open(context, etcd.url(), 30_000)];
  // Together more than one message may have.
  const large = "x".repeat(1024 * 1024 - 2);
  const names = Array.from({ length: 70 }, (_, index) => `/large/${String(index).padStart(3, "0")}`);
  for (const name of names) await store.put(name, large);
  assert.deepEqual(
    (await store.list("/large/")).documents.map(({ key }) => key),
    names,
  );
  const many = Array.from({ length: 1000 }, (_, index) => `/many/${String(index).padStart(4, "0")}`);
  for (let at = 0; at < many.length; at += 50) {
    await Promise.all(many.slice(at, at + 50).map((key) => store.put(key, 0)));
  }
  let isOver = false;
  const writing = (async () => {
    // Always the last first: a list that mixes moments has a later document with a lower count.
    for (let count = 1; !isOver; count++) for (const key of [many[999], many[0]]) await other.put(key ?? "", count);
  })();
  for (let round = 0; round < 20; round++) {
    const { documents, revision } = await store.list("/many/");
    assert.equal(documents.length, 1000);
    const [first, last] = [Number(documents[0]?.value), Number(documents[999]?.value)];
    assert.ok(last === first || last === first + 1, `${last} and ${first}`);
    assert.ok(documents.every((document) => document.revision <= revision));
  }
  isOver = true;
  await writing;
});

test(
  "a revision that etcd has not reached (it came back from a backup) makes the watcher list again",
  { skip },
  async (context) => {
    const etcd = await server(context);
    const store = await open(context, etcd.url());
    const { revision } = await store.list("/");
    await assert.rejects(inTime(collect(context, store, "/", revision + 1000).ended), {
      code: "unavailable",
      message: /list again/,
    });
  },
);

test("a store that is full says so, and what to do", { skip }, async (context) => {
  const etcd = await server(context, { quotaBytes: 4 * 1024 * 1024 });
  const store = await open(context, etcd.url());
  const fill = async (): Promise<void> => {
    for (let count = 0; count < 40; count++) await store.put(`/a/${count}`, "x".repeat(500_000));
  };
  await assert.rejects(fill(), { code: "unavailable", message: /quota is used up: compact and defragment/ });
  assert.equal((await store.get("/a/0"))?.key, "/a/0");
});

test("what is not ours below the prefix is named, not guessed at", { skip }, async (context) => {
  const etcd = await server(context);
  const store = await open(context, etcd.url("/ours"));
  const admin = await etcd.admin();
  await admin.put("/ours/a").value("no JSON");
  admin.close();
  await assert.rejects(store.get("/a"), { code: "data_invalid", message: /\/ours\/a is not JSON/ });
});

test("operators see calls, reconnections and lost leases", { skip }, async (context) => {
  const etcd = await server(context);
  const releases: (() => unknown)[] = [];
  const metrics = startMetrics(
    { DYNAMOS_METRICS: "on" },
    { push: (_name: string, release: () => unknown) => releases.push(release) },
  );
  try {
    const store = await open(context, etcd.url());
    const lease = await store.grantLease({ ttlMs: 5000 });
    await (await store.attachLease(lease.id)).release();
    await inTime(lease.lost);
    await assert.rejects(store.put("/a", 1, { lease }), { code: "not_found" });
    await etcd.kill();
    await etcd.start();
    await store.ping();
    const text = (await metrics?.scrape()) ?? "";
    assert.match(text, /^dynamos_store_lease_losses_total(\{.*\})? 1$/m);
    assert.match(text, /^dynamos_store_reconnects_total(\{.*\})? 1$/m);
    assert.match(text, /^dynamos_store_call_duration_seconds_count\{operation="put",outcome="not_found"\} 1$/m);
  } finally {
    for (const release of releases) await release();
  }
});
