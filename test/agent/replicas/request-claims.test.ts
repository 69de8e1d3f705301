import assert from "node:assert/strict";
import { join } from "node:path";
import { describe, test, type TestContext } from "node:test";
import { RequestClaims } from "../../../agent/replicas/request-claims.ts";
import type { AppError } from "../../../lib/errors.ts";
import { agentRequestKeys } from "../../../lib/knowledge/keys.ts";
import type { KnowledgeStore, Lease } from "../../../lib/knowledge/knowledge-store.ts";
import { openKnowledgeStore } from "../../../lib/knowledge/open.ts";
import { eventually } from "../../support/eventually.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

const REQUEST = { user: "ada@example.org", requestId: "r" };
const KEY = agentRequestKeys.key({ party: "VU", userName: REQUEST.user, requestId: REQUEST.requestId });

interface Instance {
  readonly claims: RequestClaims;
  /** What the instance keeps answers under. */
  readonly kept: Set<string>;
  /** Ends its lease, as its death does. */
  die(): Promise<void>;
  /** A lease for the one that was lost. */
  leaseAgain(): Promise<Lease>;
  readonly reports: AppError[];
}

async function openStore(t: TestContext): Promise<KnowledgeStore> {
  const store = await openKnowledgeStore(`sqlite:${join(await temporaryFolder(), "store.db")}`);
  t.after(() => store.close());
  return store;
}

async function instanceOf(store: KnowledgeStore, instance: string): Promise<Instance> {
  let lease: Lease | undefined = await store.grantLease({ ttlMs: 60_000 });
  const kept = new Set<string>();
  const reports: AppError[] = [];
  const claims = new RequestClaims({
    store,
    party: "VU",
    instance,
    instanceUrl: () => `http://${instance}.example.org`,
    lease: () => lease,
    isKept: ({ requestId }) => kept.has(requestId),
    report: (error) => reports.push(error),
  });
  return {
    claims,
    kept,
    reports,
    die: async () => {
      await lease?.release();
      lease = undefined;
    },
    leaseAgain: async () => (lease = await store.grantLease({ ttlMs: 60_000 })),
  };
}

describe("a claim of a request", () => {
  test("is one instance's, of two that ask at once, and the other learns whose", async (t) => {
    const store = await openStore(t);
    const [a, b] = [await instanceOf(store, "a"), await instanceOf(store, "b")];
    const claims = await Promise.all([a.claims.take(REQUEST), b.claims.take(REQUEST), a.claims.take(REQUEST)]);
    const kinds = claims.map(({ kind }) => kind).join(" ");
    assert.ok(kinds === "own foreign own" || kinds === "foreign own foreign", kinds);
    const foreign = claims.find((claim) => claim.kind === "foreign");
    assert.deepEqual(foreign?.owner, (await store.get(KEY))?.value);
  });

  test("stays as long as somebody uses it or an answer is kept, and goes then", async (t) => {
    const store = await openStore(t);
    const a = await instanceOf(store, "a");
    const uses = [await a.claims.take(REQUEST), await a.claims.take(REQUEST)];
    a.kept.add("r");
    for (const use of uses) if (use.kind === "own") use.settle();
    // Taking follows releasing in turn: had it been released, it would have another revision.
    const { revision } = (await store.get(KEY)) ?? {};
    const again = await a.claims.take(REQUEST);
    assert.equal((await store.get(KEY))?.revision, revision);
    if (again.kind === "own") again.settle();
    a.kept.clear();
    a.claims.release(REQUEST);
    await eventually(async () => (await store.get(KEY)) === undefined);
    assert.deepEqual(a.reports, []);
  });

  test("goes with its instance's lease, and is the next one's", async (t) => {
    const store = await openStore(t);
    const [a, b] = [await instanceOf(store, "a"), await instanceOf(store, "b")];
    await a.claims.take(REQUEST);
    await a.die();
    assert.equal((await b.claims.take(REQUEST)).kind, "own");
  });

  test("is taken over once, by one of two that cannot reach its owner", async (t) => {
    const store = await openStore(t);
    const [a, b, c] = [await instanceOf(store, "a"), await instanceOf(store, "b"), await instanceOf(store, "c")];
    await a.claims.take(REQUEST);
    const seen = [await b.claims.take(REQUEST), await c.claims.take(REQUEST)];
    const taken = await Promise.all(
      [b, c].map(async ({ claims }, index) => {
        const claim = seen[index];
        assert.equal(claim?.kind, "foreign");
        return claims.takeOver(REQUEST, claim);
      }),
    );
    assert.deepEqual(taken.sort(), [false, true]);
    const kinds = [(await b.claims.take(REQUEST)).kind, (await c.claims.take(REQUEST)).kind].sort();
    assert.deepEqual(kinds, ["foreign", "own"]);
  });

  test("that was taken over is not deleted by its old owner", async (t) => {
    const store = await openStore(t);
    const [a, b] = [await instanceOf(store, "a"), await instanceOf(store, "b")];
    const own = await a.claims.take(REQUEST);
    const seen = await b.claims.take(REQUEST);
    assert.equal(seen.kind === "foreign" && (await b.claims.takeOver(REQUEST, seen)), true);
    assert.equal(own.kind, "own");
    own.settle();
    assert.equal((await a.claims.take(REQUEST)).kind, "foreign");
    assert.deepEqual(a.reports, []);
  });

  test("is put under a new lease when the old one is lost, unless it is another's by then", async (t) => {
    const store = await openStore(t);
    const [a, b] = [await instanceOf(store, "a"), await instanceOf(store, "b")];
    const other = { ...REQUEST, requestId: "s" };
    await a.claims.take(REQUEST);
    await a.claims.take(other);
    await a.die();
    await b.claims.take(other);
    await a.claims.restore(await a.leaseAgain());
    assert.equal((await b.claims.take(REQUEST)).kind, "foreign");
    assert.equal((await a.claims.take(other)).kind, "foreign");
    await a.die();
    assert.equal(await store.get(KEY), undefined);
  });

  test("cannot be made while its instance has no lease", async (t) => {
    const store = await openStore(t);
    const a = await instanceOf(store, "a");
    await a.die();
    await assert.rejects(a.claims.take(REQUEST), { code: "unavailable" });
  });
});
