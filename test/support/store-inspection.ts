/** A look into a knowledge store from outside, beside its port: which keys it holds, and whether they will go by themselves. */
import Database from "better-sqlite3";

/** One key. */
export interface StoredKey {
  readonly key: string;
  /** Whether it stands under a lease. */
  readonly isLeased: boolean;
}

/** Kept on purpose without a lease: documents, and how far the seeding came. */
const LASTING =
  /^\/(?:archetypes|requestTypes|datasets|forcedServices|microservices|policyEnforcer|orchestrator\/seed)\//;

/** Keys that would stay for ever though nothing needs them, and those that say of somebody who has ended that he is there. */
export function leftOverKeys(keys: readonly StoredKey[]): string[] {
  return keys
    .filter(({ key, isLeased }) => (isLeased ? key.startsWith("/agents/online/") : !LASTING.test(key)))
    .map(({ key, isLeased }) => (isLeased ? key : `${key} (without a lease)`));
}

/** The keys below the prefix of an `etcd://…/prefix`. */
export async function keysInEtcd(url: string): Promise<StoredKey[]> {
  const { host, username, password, pathname } = new URL(url.replace(/^etcd/, "http"));
  const prefix = pathname.replace(/\/+$/, "");
  const { Etcd3 } = await import("etcd3");
  const client = new Etcd3({
    hosts: `http://${host}`,
    ...(username === "" ? {} : { auth: { username, password } }),
  });
  try {
    const { kvs } = await client.getAll().prefix(`${prefix}/`).exec();
    return kvs.map(({ key, lease }) => ({ key: key.toString().slice(prefix.length), isLeased: lease !== "0" }));
  } finally {
    client.close();
  }
}

/** The keys of a SQLite store. */
export async function keysInSqlite(file: string): Promise<StoredKey[]> {
  const store = new Database(file, { readonly: true });
  try {
    // A lease that has ended is tidied up by whoever comes next.
    return store
      .prepare<[number], { key: string; lease: string | null }>(
        `SELECT key, lease_id AS lease FROM documents LEFT JOIN leases ON leases.id = lease_id
         WHERE lease_id IS NULL OR expires_at_ms > ? ORDER BY key`,
      )
      .all(Date.now())
      .map(({ key, lease }) => ({ key, isLeased: lease !== null }));
  } finally {
    store.close();
  }
}
