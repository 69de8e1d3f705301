/** Watches of etcd. */
import { type IEvent, type IWatchResponse } from "etcd3";
import { type Clock } from "../clock.ts";
import { AppError } from "../errors.ts";
import { changesForgotten } from "./argument-checks.ts";
import { type EtcdCalls, toEtcdFailure } from "./etcd-calls.ts";
import { EtcdFailure } from "./etcd-errors.ts";
import { type EtcdKeys, type EtcdRange } from "./etcd-keys.ts";
import { readDocuments, readKeysAt, requireKept, toDocument } from "./etcd-reads.ts";
import { type StoreChange, type StoreWatch } from "./knowledge-store.ts";

/** How long the store may be out of reach before a watch fails, in milliseconds. */
const OUT_OF_REACH_MS = 60_000;
/** Between two attempts to resume, in milliseconds: doubled each time, half of it random. */
const RESUME_AFTER_MS = { first: 20, most: 2000 };
/** A stream that lasted so long was none of a series of failures, in milliseconds. */
const LASTING_MS = 1000;
/** A watch with a token that ran out is denied like one without permission: the second denial counts. */
const DENIALS = 2;

/** What a watch needs of its store. */
export interface EtcdWatchContext {
  readonly calls: EtcdCalls;
  readonly keys: EtcdKeys;
  readonly clock: Clock;
}

/**
 * One watch: a position in the store's revisions, and the keys that exist there.
 *
 * It follows one stream after the other. Each begins behind the position, which only complete revisions move (a stream
 * that breaks off within a revision must not hide its rest), and never what the server says about its own progress. What a
 * stream repeats is dropped. Where the changes behind the position are forgotten, it leaps: it lists, puts the documents
 * that are newer than the position, deletes the keys that are gone (that is why it knows its keys), and goes on from the
 * list's revision. It reads on only when asked for more, so a slow reader costs no memory.
 */
export class EtcdWatch implements StoreWatch {
  readonly #context: EtcdWatchContext;
  readonly #prefix: string;
  readonly #range: EtcdRange;
  readonly #end = new AbortController();
  readonly #keysAtStart: Promise<Set<string>>;
  readonly #iteration: AsyncGenerator<StoreChange, void, undefined>;
  readonly #onEnd: () => void;
  #position: number;
  /** When the present stream began, and since when there was none that lasted, by {@link performance.now}. */
  #followingSince: number | undefined;
  #outOfReachSince: number | undefined;
  /** Set when no other stream would help. */
  #final: AppError | undefined;
  #attempts = 0;
  #denials = 0;

  constructor(
    context: EtcdWatchContext,
    start: { readonly prefix: string; readonly fromRevision: number; readonly onEnd: () => void },
  ) {
    this.#context = context;
    this.#prefix = start.prefix;
    this.#range = context.keys.range(start.prefix);
    this.#position = start.fromRevision;
    this.#onEnd = start.onEnd;
    this.#keysAtStart = this.#readKeysAtStart();
    // Whoever iterates is told of a failure; nobody need iterate.
    this.#keysAtStart.catch(() => undefined);
    this.#iteration = this.#changes();
  }

  [Symbol.asyncIterator](): AsyncGenerator<StoreChange, void, undefined> {
    return this.#iteration;
  }

  async close(): Promise<void> {
    this.#end.abort();
    this.#onEnd();
  }

  async *#changes(): AsyncGenerator<StoreChange, void, undefined> {
    const end = this.#end.signal;
    try {
      const keys = await this.#keysAtStart;
      while (!end.aborted) {
        const following = this.#follow(keys);
        for (;;) {
          const next = await this.#nextOf(following);
          if (next === "broken off" || end.aborted) break;
          yield next;
        }
      }
    } catch (error) {
      // Closing the store ends its watches; what they were reading just then does not matter.
      if (!end.aborted) throw this.#context.calls.translate(error, this.#prefix, false);
    } finally {
      await this.close();
    }
  }

  /** The next change, or that a new stream is needed. Fails when a new stream would not help. */
  async #nextOf(following: AsyncGenerator<StoreChange, void, undefined>): Promise<StoreChange | "broken off"> {
    try {
      const next = await following.next();
      return next.done ? "broken off" : next.value;
    } catch (error) {
      if (!this.#end.signal.aborted) await this.#recover(toEtcdFailure(error));
      return "broken off";
    }
  }

  /** Everything that one stream has behind the position; if the past is forgotten, the difference first. */
  async *#follow(keys: Set<string>): AsyncGenerator<StoreChange, void, undefined> {
    const { calls } = this.#context;
    const leap = await this.#leapIfForgotten(keys);
    for (const change of leap) yield change;
    const connection = await calls.during("watch", this.#prefix, (call) => calls.connection(call));
    const stream = calls.openWatch(connection);
    const onEnd = (): void => stream.cancel();
    this.#end.signal.addEventListener("abort", onEnd, { once: true });
    try {
      stream.write({ create_request: { ...this.#range, start_revision: String(this.#position + 1), fragment: true } });
      yield* this.#changesOf(stream as AsyncIterable<IWatchResponse>, keys);
    } finally {
      this.#end.signal.removeEventListener("abort", onEnd);
      stream.cancel();
    }
  }

  async *#changesOf(
    responses: AsyncIterable<IWatchResponse>,
    keys: Set<string>,
  ): AsyncGenerator<StoreChange, void, undefined> {
    let revision: IEvent[] = [];
    for await (const response of responses) {
      if (response.canceled) throw cancellation(response);
      this.#followingSince ??= performance.now();
      for (const event of response.events) {
        const isNext = revision[0] !== undefined && modRevision(revision[0]) !== modRevision(event);
        if (isNext) {
          yield* this.#complete(revision, keys);
          revision = [];
        }
        if (modRevision(event) > this.#position) revision.push(event);
      }
      // A response that is not the part of a larger one ends with a complete revision.
      if (response.fragment) continue;
      yield* this.#complete(revision, keys);
      revision = [];
    }
  }

  /** Moves the position behind the events of one revision, and `keys` with it; gives the changes. */
  #complete(events: readonly IEvent[], keys: Set<string>): StoreChange[] {
    const last = events.at(-1);
    if (last === undefined) return [];
    const changes = events.flatMap((event) => this.#toChange(event, keys));
    this.#position = modRevision(last);
    return changes;
  }

  #toChange(event: IEvent, keys: Set<string>): StoreChange[] {
    if (event.type === "Delete") {
      const key = this.#context.keys.fromEtcd(event.kv.key);
      // After a leap the stream may delete a key that was never announced.
      return keys.delete(key) ? [{ type: "delete", key, revision: modRevision(event) }] : [];
    }
    const document = toDocument(this.#context.keys, event.kv);
    keys.add(document.key);
    return [{ type: "put", document }];
  }

  /** The difference between the position and now, if the changes between are forgotten; then the position moves. */
  async #leapIfForgotten(keys: Set<string>): Promise<StoreChange[]> {
    const { calls } = this.#context;
    return calls.during("watch", this.#prefix, async (call) => {
      try {
        await requireKept(calls, call, this.#range, Math.max(1, this.#position));
        return [];
      } catch (error) {
        if (!(error instanceof EtcdFailure)) throw error;
        // The store has gone back in time, to a backup say: what it has now cannot be compared.
        if (error.kind === "future") throw (this.#final = changesForgotten(this.#position));
        if (error.kind !== "compacted") throw error;
      }
      const { documents, revision } = await readDocuments(calls, this.#context.keys, call, this.#range);
      const puts = documents
        .filter((document) => document.revision > this.#position)
        .sort((one, other) => one.revision - other.revision);
      const present = new Set(documents.map(({ key }) => key));
      const gone = [...keys].filter((key) => !present.has(key)).sort();
      for (const key of gone) keys.delete(key);
      for (const { key } of puts) keys.add(key);
      this.#position = revision;
      return [
        ...puts.map((document): StoreChange => ({ type: "put", document })),
        ...gone.map((key): StoreChange => ({ type: "delete", key, revision })),
      ];
    });
  }

  async #readKeysAtStart(): Promise<Set<string>> {
    const { calls, keys } = this.#context;
    return calls.during("watch", this.#prefix, async (call) => {
      try {
        // An etcd begins with revision 1, which has no keys; 0 would mean "now".
        return await readKeysAt(calls, keys, call, this.#range, Math.max(1, this.#position));
      } catch (error) {
        const isForgotten = error instanceof EtcdFailure && (error.kind === "compacted" || error.kind === "future");
        throw isForgotten ? changesForgotten(this.#position) : error;
      }
    });
  }

  /** Waits before the next stream. Fails when there is no sense in one, or no more time. */
  async #recover(error: unknown): Promise<void> {
    const now = performance.now();
    if (this.#followingSince !== undefined && now - this.#followingSince > LASTING_MS) this.#forgiveAll();
    this.#followingSince = undefined;
    const isDenied = error instanceof EtcdFailure && error.kind === "denied";
    if (isDenied && ++this.#denials >= DENIALS) throw error;
    const isPassing = error instanceof EtcdFailure || (error instanceof AppError && error.retryable);
    if (!isPassing || error === this.#final) throw error;
    this.#outOfReachSince ??= now;
    if (now - this.#outOfReachSince > OUT_OF_REACH_MS) throw error;
    const ms = Math.min(RESUME_AFTER_MS.most, RESUME_AFTER_MS.first * 2 ** Math.min(this.#attempts++, 10));
    await this.#context.clock.sleep(ms / 2 + (Math.random() * ms) / 2, this.#end.signal);
  }

  #forgiveAll(): void {
    this.#outOfReachSince = undefined;
    this.#attempts = 0;
    this.#denials = 0;
  }
}

function modRevision(event: IEvent): number {
  return Number(event.kv.mod_revision);
}

/** Why the server ended a watch. */
function cancellation({ compact_revision: compacted, cancel_reason: reason }: IWatchResponse): EtcdFailure {
  const failure = { code: 14, details: `the watch was cancelled: ${reason || "no reason given"}` };
  return Number(compacted) > 0 ? new EtcdFailure(failure, "compacted") : new EtcdFailure(failure);
}
