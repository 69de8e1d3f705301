/**
 * Port 1: the knowledge store. Small documents under slash-separated keys: agreements, archetypes, who is online, jobs,
 * states of requests. Nothing large, no rows, no history.
 *
 * Its model is etcd's: one revision counter for the whole store, which every write raises; compare-and-swap by revision;
 * watches that continue from a revision; leases that delete their keys when they end. `test/contract/knowledge-store.contract.ts`
 * checks each sentence below for every adapter.
 */

/** Longest key, in bytes of UTF-8. */
export const MAX_KEY_BYTES = 1024;

/** Largest value, in bytes of JSON: 1 MiB. */
export const MAX_VALUE_BYTES = 1024 * 1024;

/** Shortest time to live of a lease, in milliseconds. */
export const MIN_LEASE_TTL_MS = 1000;

/** A document with the store revision of its last write. */
export interface StoredDocument {
  readonly key: string;
  /** A JSON value. */
  readonly value: unknown;
  /** Revision of the last write to this key; greater than that of every earlier write to any key. */
  readonly revision: number;
}

/**
 * One change. Changes of one watch arrive in the order of their revisions, each once. Deletes may share a revision (a
 * lease that ends takes all its keys at once), so a watch is resumed from a {@link Listing.revision}, not from a change.
 *
 * A watch that falls so far behind that the store no longer keeps the changes between is given the difference instead:
 * it is not told of writes that later ones superseded, and deletes may carry a later revision than their own.
 */
export type StoreChange =
  | { readonly type: "put"; readonly document: StoredDocument }
  | { readonly type: "delete"; readonly key: string; readonly revision: number };

/** Another document that must not have changed: what makes the holder of a lock write only while it holds it. */
export interface Guard {
  readonly key: string;
  /** Revision that the guarding key must have; 0 means: there must be no such key. */
  readonly revision: number;
}

/** What a put may demand and attach. */
export interface PutOptions {
  /**
   * Write only if the key's revision is this one; 0 means: only if there is no such key. Otherwise the put fails with
   * `precondition_failed` and changes nothing.
   */
  readonly ifRevision?: number;
  /**
   * Write only while that other key has that revision, else fail with `precondition_failed`, whose detail `guard` is that
   * key, and change nothing.
   */
  readonly guard?: Guard;
  /**
   * The key is deleted when this lease ends. A put without a lease, or with another, detaches the key from the one it
   * had. Fails with `not_found` when the lease has ended.
   */
  readonly lease?: Lease;
}

/** What a delete may demand. */
export interface DeleteOptions {
  /** As in {@link PutOptions.ifRevision}. */
  readonly ifRevision?: number;
  /** As in {@link PutOptions.guard}. */
  readonly guard?: Guard;
}

/** A list, and the revision at which it is complete: watching from `revision` misses nothing and repeats nothing. */
export interface Listing {
  readonly documents: readonly StoredDocument[];
  readonly revision: number;
}

/**
 * A running watch, to be iterated once. Yields changes until `close`, or throws `unavailable` where a gap cannot be
 * avoided (it began at a revision whose changes are no longer kept, or the store stayed out of reach): then list again.
 */
export interface StoreWatch extends AsyncIterable<StoreChange> {
  /** Ends the iteration. May be called more than once. */
  close(): Promise<void>;
}

/**
 * A lease: as long as its owner renews it, the keys attached to it stay. It renews itself in the background until
 * `release` or the death of the process.
 */
export interface Lease {
  readonly id: string;
  readonly ttlMs: number;
  /**
   * Resolves when the lease was lost without `release` (its keys are gone): the owner must register anew. With manual
   * renewal that is noticed by {@link Lease.renew}.
   */
  readonly lost: Promise<void>;
  /** Renews now. Fails with `not_found` when the lease has ended. */
  renew(): Promise<void>;
  /** Ends the lease and deletes its keys. Releasing an ended lease is harmless. */
  release(): Promise<void>;
}

/** How a lease is kept. */
export interface LeaseOptions {
  /** Time to live in milliseconds, at least 1000; the keys go between one and two times this after the last renewal. */
  readonly ttlMs: number;
  /**
   * `automatic` (default): renewed in the background while the process lives. `manual`: only by {@link Lease.renew};
   * for things that must end by themselves when nobody uses them, such as a job's registration.
   */
  readonly renewal?: "automatic" | "manual";
}

/**
 * Every call fails with `unavailable` when the store cannot be reached before its deadline (default 5 s), and after
 * `close`; a write that fails so may have been carried out nevertheless. Keys are well-formed strings of 1 to
 * {@link MAX_KEY_BYTES} bytes that begin with a slash, prefixes are empty or begin with one; others, and values that are
 * not JSON, fail with `invalid_argument`. Where the store refuses our credentials, calls and watches fail with
 * `access_refused`.
 */
export interface KnowledgeStore {
  /** The document, or undefined. Sees every write that was confirmed before the call began. */
  get(key: string): Promise<StoredDocument | undefined>;
  /** All documents whose key starts with `prefix`, sorted by key (byte order), as of one revision. */
  list(prefix: string): Promise<Listing>;
  /** Writes; resolves with the new revision once it is durable. Values over 1 MiB of JSON fail with `message_too_large`. */
  put(key: string, value: unknown, options?: PutOptions): Promise<number>;
  /** Deletes; resolves with whether there was such a key. */
  delete(key: string, options?: DeleteOptions): Promise<boolean>;
  /**
   * Changes to keys that start with `prefix`, with revisions greater than `fromRevision` (see {@link Listing.revision}).
   * Aborting `signal` is the same as closing the watch: the iteration ends.
   */
  watch(prefix: string, fromRevision: number, signal?: AbortSignal): StoreWatch;
  /** A new lease. A time to live below {@link MIN_LEASE_TTL_MS} fails with `invalid_argument`. */
  grantLease(options: LeaseOptions): Promise<Lease>;
  /**
   * A handle on a lease that another process granted (ids travel in documents), renewed only by hand. Fails with
   * `not_found` when it has ended.
   */
  attachLease(id: string): Promise<Lease>;
  /** Cheap proof that the store answers; fails with `unavailable`. */
  ping(): Promise<void>;
  /** Ends watches and background renewals (leases then run out by themselves). The store is unusable afterwards. */
  close(): Promise<void>;
}
