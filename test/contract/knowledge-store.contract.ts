/**
 * What every knowledge store must do: the sentences of `lib/knowledge/knowledge-store.ts`, each tried on a real store.
 *
 * Tests know nothing of the store's other contents or of its revision, so that one server can serve them all: each works
 * under a prefix of its own. They are in `knowledge-store-documents.ts`, `-watches.ts` and `-leases.ts`; what they work
 * with is in `-bench.ts`.
 */
import { type TestContext, after, before, describe } from "node:test";
import { Bench, type RunningStore } from "./knowledge-store-bench.ts";
import { compareAndSwapTests, documentTests, guardTests, modelTests } from "./knowledge-store-documents.ts";
import { leaseTests, lifeTests } from "./knowledge-store-leases.ts";
import { compactionTests, interruptionTests, watchTests } from "./knowledge-store-watches.ts";

/** Registers the suite for one adapter. */
export function knowledgeStoreContract(
  name: string,
  start: () => Promise<RunningStore>,
  { skip = false }: { readonly skip?: string | false } = {},
): void {
  describe(`The knowledge store on ${name}`, { skip }, () => {
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
    describe("guards", { concurrency: true }, () => guardTests(use));
    describe("watches", { concurrency: true }, () => watchTests(use));
    describe("leases", { concurrency: 8 }, () => leaseTests(use));
    describe("life", () => lifeTests(use));
    // These disturb everybody, so they run alone.
    describe("compaction", () => compactionTests(use));
    describe("interruption", () => interruptionTests(use));
    describe("model", () => modelTests(use));
  });
}
