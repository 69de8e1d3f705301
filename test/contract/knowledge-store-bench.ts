/** What the tests of the knowledge store's contract work with. */
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { type KnowledgeStore, type StoreChange, type StoreWatch } from "../../lib/knowledge/knowledge-store.ts";
import { eventually } from "../support/eventually.ts";
import { type StoreProcess, startStoreProcess } from "../support/knowledge-store-process.ts";

/** A store that runs, as the suite needs it. */
export interface RunningStore {
  /** What `openKnowledgeStore` opens it by, in this and in other processes. */
  readonly url: string;
  /** A new handle, independent of all others (as from another process). The suite closes it. */
  open(options?: { readonly timeoutMs?: number }): Promise<KnowledgeStore>;
  /**
   * Makes the store forget all changes up to some revision that is not lower than any confirmed before the call. Missing
   * where the suite does not control the store: its tests are skipped then.
   */
  readonly compact?: () => Promise<void>;
  /**
   * Makes the store unable to take writes (server stopped, file locked) until the function it gives is called; all that
   * was confirmed stays. Missing as above.
   */
  readonly interrupt?: () => Promise<() => Promise<void>>;
  /** Ends the store. */
  stop(): Promise<void>;
}

/** Sets up a {@link Bench} for one test. */
export type Use = (context: TestContext) => Promise<Bench>;

/** Two handles on the store, a prefix of its own, and helpers; all is released when the test ends. */
export class Bench {
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
export class Collected {
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

/** Where a change stands. */
export function revisionOf(change: StoreChange): number {
  return change.type === "put" ? change.document.revision : change.revision;
}

/** Skips the test by name where the store that is given cannot be disturbed. */
export function mayDisturb<Action>(context: TestContext, action: Action | undefined): action is Action {
  if (action === undefined) context.skip("this store is not ours to disturb; without DYNAMOS_TEST_ETCD it is");
  return action !== undefined;
}

/** What `promise` resolves with, unless that takes too long. */
export async function inTime<Value>(promise: Promise<Value>): Promise<Value> {
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
export function replay(
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

/** All documents under a prefix. */
export async function contents(store: KnowledgeStore, prefix: string): Promise<Map<string, unknown>> {
  return new Map((await store.list(prefix)).documents.map(({ key, value }) => [key, value]));
}

/** A bench, with what nearly every test uses of it at hand. */
export async function spread(use: Use, context: TestContext) {
  const bench = await use(context);
  return { bench, here: bench.here, there: bench.there, key: (name: string): string => bench.key(name) };
}
