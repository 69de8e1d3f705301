/**
 * The knowledge store on etcd.
 *
 * Siblings: `etcd-url.ts` says where it is and how to get in, `etcd-connection.ts` connects, `etcd-calls.ts` gives every
 * request its deadline and repeats what may be repeated, `etcd-errors.ts` sorts failures, `etcd-keys.ts` and `etcd-reads.ts`
 * are about keys and ranges of them, `etcd-watch.ts` and `etcd-lease.ts` are what their names say. What of the client
 * library is used, and what is not: `docs/decisions/0013-etcd-adapter.md`.
 */
import { randomBytes } from "node:crypto";
import { type ICompare, type IRequestOp, type ITxnResponse } from "etcd3";
import { type Clock, systemClock } from "../clock.ts";
import { checkedTtl, guardChanged, leaseEnded, notAsDemanded, toJson } from "./argument-checks.ts";
import { EtcdCalls, type StoreCall } from "./etcd-calls.ts";
import { EtcdConnections } from "./etcd-connection.ts";
import { EtcdFailure } from "./etcd-errors.ts";
import { EtcdKeys } from "./etcd-keys.ts";
import { EtcdLease, type EtcdLeaseContext } from "./etcd-lease.ts";
import { readDocuments, toDocument } from "./etcd-reads.ts";
import { parseEtcdUrl } from "./etcd-url.ts";
import { EtcdWatch } from "./etcd-watch.ts";
import {
  type DeleteOptions,
  type Guard,
  type KnowledgeStore,
  type Lease,
  type LeaseOptions,
  type Listing,
  type PutOptions,
  type StoreWatch,
  type StoredDocument,
} from "./knowledge-store.ts";
import { StoreMetrics } from "./store-metrics.ts";

/** Settings of {@link openEtcdKnowledgeStore}. */
export interface EtcdKnowledgeStoreOptions {
  /** See `etcd-url.ts`. */
  readonly url: string;
  readonly clock?: Clock;
  /** Deadline of every call in milliseconds; default 5000. */
  readonly timeoutMs?: number;
}

/** What a write may demand of its own key and of another one. */
interface Demands {
  readonly ifRevision?: number;
  readonly guard?: Guard;
}

/**
 * Opens the store: a first call has been answered then. Fails with `configuration_invalid` for a wrong URL or unreadable
 * files, with `unavailable` when no member can be reached, with `access_refused` when none lets us in.
 */
export async function openEtcdKnowledgeStore(options: EtcdKnowledgeStoreOptions): Promise<KnowledgeStore> {
  const { clock = systemClock, timeoutMs = 5000 } = options;
  const store = new EtcdKnowledgeStore(options.url, clock, timeoutMs);
  try {
    await store.ping();
    return store;
  } catch (error) {
    await store.close();
    throw error;
  }
}

class EtcdKnowledgeStore implements KnowledgeStore {
  readonly #clock: Clock;
  readonly #keys: EtcdKeys;
  readonly #calls: EtcdCalls;
  readonly #leases: EtcdLeaseContext;
  readonly #watches = new Set<StoreWatch>();

  constructor(url: string, clock: Clock, timeoutMs: number) {
    const place = parseEtcdUrl(url);
    const metrics = new StoreMetrics();
    this.#clock = clock;
    this.#keys = new EtcdKeys(place.prefix);
    const connections = new EtcdConnections(place, clock, metrics);
    this.#calls = new EtcdCalls(connections, this.#keys, { clock, metrics, timeoutMs });
    this.#leases = { calls: this.#calls, metrics, renewing: new Set() };
  }

  async get(key: string): Promise<StoredDocument | undefined> {
    const bytes = this.#keys.toEtcd(key);
    return this.#calls.during("get", key, async (call) => {
      const { kvs } = await this.#calls.unary(call, "KV.range", { key: bytes }, "safe");
      return kvs[0] && toDocument(this.#keys, kvs[0]);
    });
  }

  async list(prefix: string): Promise<Listing> {
    const range = this.#keys.range(prefix);
    return this.#calls.during("list", prefix, (call) => readDocuments(this.#calls, this.#keys, call, range));
  }

  async put(key: string, value: unknown, options: PutOptions = {}): Promise<number> {
    const bytes = this.#keys.toEtcd(key);
    const lease = options.lease && { lease: requireLeaseId(options.lease.id) };
    const request = { key: bytes, value: Buffer.from(toJson(value)), ...lease };
    return this.#write("put", key, async (call) => {
      try {
        const { header } = await this.#transact(call, key, bytes, options, { request_put: request });
        return Number(header.revision);
      } catch (error) {
        const isEnded = error instanceof EtcdFailure && error.kind === "lease-ended";
        throw isEnded ? leaseEnded(options.lease?.id ?? "") : error;
      }
    });
  }

  async delete(key: string, options: DeleteOptions = {}): Promise<boolean> {
    const bytes = this.#keys.toEtcd(key);
    return this.#write("delete", key, async (call) => {
      const { responses } = await this.#transact(call, key, bytes, options, { request_delete_range: { key: bytes } });
      return Number(responses[0]?.response_delete_range.deleted) > 0;
    });
  }

  watch(prefix: string, fromRevision: number, signal?: AbortSignal): StoreWatch {
    const onAbort = (): void => void watch.close();
    const context = { calls: this.#calls, keys: this.#keys, clock: this.#clock };
    const watch = new EtcdWatch(context, {
      prefix,
      fromRevision,
      onEnd: () => {
        this.#watches.delete(watch);
        signal?.removeEventListener("abort", onAbort);
      },
    });
    this.#watches.add(watch);
    signal?.addEventListener("abort", onAbort, { once: true });
    if (signal?.aborted) onAbort();
    return watch;
  }

  async grantLease({ ttlMs, renewal = "automatic" }: LeaseOptions): Promise<Lease> {
    const ttlSeconds = Math.ceil(checkedTtl(ttlMs) / 1000);
    // An id of our own makes the request one that may be repeated.
    const id = newLeaseId();
    await this.#calls.during("grantLease", "", async (call) => {
      try {
        await this.#calls.unary(call, "Lease.leaseGrant", { ID: id, TTL: ttlSeconds }, "safe");
      } catch (error) {
        // Granted by an attempt whose answer was lost: nobody else draws the same 62 bits.
        if (!(error instanceof EtcdFailure && error.kind === "lease-exists")) throw error;
      }
    });
    const lease = new EtcdLease(this.#leases, id, ttlMs);
    if (renewal === "automatic") lease.renewAutomatically();
    return lease;
  }

  async attachLease(id: string): Promise<Lease> {
    const seconds = await this.#calls.during("attachLease", "", async (call) => {
      const request = { ID: requireLeaseId(id) };
      // What is left of it is told in whole seconds: 0 in its last one. Of an ended lease nothing was granted.
      return Number((await this.#calls.unary(call, "Lease.leaseTimeToLive", request, "safe")).grantedTTL);
    });
    if (seconds === 0) throw leaseEnded(id);
    return new EtcdLease(this.#leases, id, seconds * 1000);
  }

  async ping(): Promise<void> {
    // Whoever may read only some keys is denied this one, and that is an answer too.
    const key = this.#keys.toEtcd("/ping");
    await this.#calls.during("ping", "", async (call) => {
      try {
        await this.#calls.unary(call, "KV.range", { key, keys_only: true }, "safe");
      } catch (error) {
        const isAnswer = error instanceof EtcdFailure && error.failure.details.includes("permission denied");
        if (!isAnswer) throw error;
      }
    });
  }

  async close(): Promise<void> {
    for (const lease of this.#leases.renewing) lease.abandon();
    await Promise.all([...this.#watches].map((watch) => watch.close()));
    this.#calls.close();
  }

  #write<Result>(operation: string, key: string, work: (call: StoreCall) => Promise<Result>): Promise<Result> {
    return this.#calls.during(operation, key, work, true);
  }

  /** Does one thing if the demands are met, in one transaction; else fails with `precondition_failed`. */
  async #transact(
    call: StoreCall,
    key: string,
    bytes: Buffer,
    { ifRevision, guard }: Demands,
    operation: IRequestOp,
  ): Promise<ITxnResponse> {
    const guardBytes = guard && this.#keys.toEtcd(guard.key);
    const compare = [
      ...(guard === undefined || guardBytes === undefined ? [] : [hasRevision(guardBytes, guard.revision)]),
      ...(ifRevision === undefined ? [] : [hasRevision(bytes, ifRevision)]),
    ];
    // What was found instead, for the message.
    const failure: IRequestOp[] = [
      ...(guardBytes === undefined ? [] : [{ request_range: { key: guardBytes, keys_only: true } }]),
      ...(ifRevision === undefined ? [] : [{ request_range: { key: bytes, keys_only: true } }]),
    ];
    // Never repeated blindly: meanwhile somebody may have written what the repetition would undo.
    const response = await this.#calls.unary(call, "KV.txn", { compare, success: [operation], failure }, "unsafe");
    if (response.succeeded) return response;
    const found = response.responses.map(({ response_range: { kvs } }) => Number(kvs[0]?.mod_revision ?? 0));
    const foundGuard = guard === undefined ? undefined : found.shift();
    if (guard !== undefined && foundGuard !== undefined && foundGuard !== guard.revision) {
      throw guardChanged(guard.key, guard.revision, foundGuard);
    }
    throw notAsDemanded(ifRevision ?? 0, found[0] ?? 0);
  }
}

/** True when the key was last written at this revision; for 0, when there is none. */
function hasRevision(key: Buffer, revision: number): ICompare {
  return { key, target: "Mod", result: "Equal", mod_revision: String(revision) };
}

function newLeaseId(): string {
  const bits = randomBytes(8).readBigUInt64BE() >> 2n;
  return String(bits === 0n ? 1n : bits);
}

/** The id, if it can be one of etcd's (63 bits); else it is of no lease. */
function requireLeaseId(id: string): string {
  if (/^[1-9]\d{0,18}$/.test(id) && BigInt(id) < 2n ** 63n) return id;
  throw leaseEnded(id);
}
