/**
 * Tells calls that wait for an agent when its instance is gone: a machine that vanished says nothing, and its socket would be
 * waited at until the deadline. The store knows: the instance's record goes with its lease. One look serves all calls.
 */
import { toAppError } from "../lib/errors.ts";
import { agentInstanceKeys, onlineKeys } from "../lib/knowledge/keys.ts";
import type { KnowledgeStore } from "../lib/knowledge/knowledge-store.ts";
import type { Logger } from "../lib/telemetry/logger.ts";

/** How often the records are looked at while calls wait. */
const LOOK_MS = 1_000;
/** An instance is gone when so many looks in a row did not find it: one that lost its lease registers again at once. */
const LOOKS_UNTIL_GONE = 3;

/** What an instance is known by. */
export interface AgentInstance {
  readonly name: string;
  readonly instance: string;
}

interface Waiting {
  /** Of its own record, and of the online record: one that is stopping has the first only. */
  readonly keys: readonly string[];
  readonly onGone: () => void;
  misses: number;
}

/** See the file comment. One per process. */
export class AgentLiveness {
  readonly #store: Pick<KnowledgeStore, "list">;
  readonly #logger: Logger;
  readonly #lookMs: number;
  readonly #waiting = new Set<Waiting>();
  #timer: NodeJS.Timeout | undefined;

  constructor(store: Pick<KnowledgeStore, "list">, logger: Logger, lookMs = LOOK_MS) {
    this.#store = store;
    this.#logger = logger;
    this.#lookMs = lookMs;
  }

  /** Calls `onGone` once, some seconds after the instance's record ended; not after what this returns was called. */
  watch({ name, instance }: AgentInstance, onGone: () => void): () => void {
    const parts = { party: name, instanceId: instance };
    const waiting = { keys: [agentInstanceKeys.key(parts), onlineKeys.key(parts)], onGone, misses: 0 };
    this.#waiting.add(waiting);
    this.#lookLater();
    return () => void this.#waiting.delete(waiting);
  }

  /** Looks no more. */
  close(): void {
    this.#waiting.clear();
    clearTimeout(this.#timer);
  }

  #lookLater(): void {
    if (this.#timer !== undefined || this.#waiting.size === 0) return;
    this.#timer = setTimeout(() => void this.#look(), this.#lookMs);
  }

  async #look(): Promise<void> {
    try {
      const prefixes = [agentInstanceKeys.prefix(), onlineKeys.prefix()];
      const listings = await Promise.all(prefixes.map((prefix) => this.#store.list(prefix)));
      const living = new Set(listings.flatMap(({ documents }) => documents.map(({ key }) => key)));
      for (const waiting of [...this.#waiting]) {
        this.#judge(
          waiting,
          waiting.keys.some((key) => living.has(key)),
        );
      }
    } catch (thrown) {
      // A store that does not answer says nothing of the agents: calls go on to wait, up to their deadlines.
      this.#logger.warn({ error: toAppError(thrown) }, "whether agents live cannot be seen");
    }
    this.#timer = undefined;
    this.#lookLater();
  }

  #judge(waiting: Waiting, isAlive: boolean): void {
    waiting.misses = isAlive ? 0 : waiting.misses + 1;
    if (waiting.misses < LOOKS_UNTIL_GONE || !this.#waiting.delete(waiting)) return;
    waiting.onGone();
  }
}
