/** Reading ranges of keys from etcd, as of one revision however many pages they take. */
import { type IKeyValue, type IRangeRequest, type IRangeResponse } from "etcd3";
import { AppError } from "../errors.ts";
import { type EtcdCalls, type StoreCall } from "./etcd-calls.ts";
import { EtcdFailure } from "./etcd-errors.ts";
import { type EtcdKeys, type EtcdRange, rangeBehind } from "./etcd-keys.ts";
import { type StoredDocument } from "./knowledge-store.ts";

/** Documents per page: with the usual few kilobytes each, a page is far below the limit of a message. */
const DOCUMENTS_PER_PAGE = 256;
const KEYS_PER_PAGE = 5000;
/** How often a list begins anew because the revision that it began with was forgotten meanwhile. */
const LIST_ATTEMPTS = 3;

/** All keys of a range with their values, and the revision that they are of. */
export async function readDocuments(
  calls: EtcdCalls,
  keys: EtcdKeys,
  call: StoreCall,
  range: EtcdRange,
): Promise<{ readonly documents: readonly StoredDocument[]; readonly revision: number }> {
  for (let attempt = 1; ; attempt++) {
    try {
      const { kvs, revision } = await readPages(calls, call, range, { limit: DOCUMENTS_PER_PAGE });
      return { documents: kvs.map((kv) => toDocument(keys, kv)), revision };
    } catch (error) {
      const isForgotten = error instanceof EtcdFailure && error.kind === "compacted";
      if (!isForgotten || attempt === LIST_ATTEMPTS) throw error;
    }
  }
}

/** The keys of a range that existed at a revision. Fails with {@link EtcdFailure} `compacted` or `future`. */
export async function readKeysAt(
  calls: EtcdCalls,
  keys: EtcdKeys,
  call: StoreCall,
  range: EtcdRange,
  revision: number,
): Promise<Set<string>> {
  const { kvs } = await readPages(calls, call, range, { limit: KEYS_PER_PAGE, keys_only: true, revision });
  return new Set(kvs.map((kv) => keys.fromEtcd(kv.key)));
}

/** Fails with {@link EtcdFailure} `compacted` when changes behind a revision are no longer kept, `future` when it is not reached yet. */
export async function requireKept(
  calls: EtcdCalls,
  call: StoreCall,
  range: EtcdRange,
  revision: number,
): Promise<void> {
  await calls.unary(call, "KV.range", { ...range, revision, limit: 1, keys_only: true }, "safe");
}

/** A key and its value as a document. Fails with `data_invalid` when the value is not JSON. */
export function toDocument(keys: EtcdKeys, { key: bytes, value, mod_revision: revision }: IKeyValue): StoredDocument {
  const key = keys.fromEtcd(bytes);
  try {
    return { key, value: JSON.parse(value.toString("utf8")) as unknown, revision: Number(revision) };
  } catch (error) {
    const message = `What etcd has under ${keys.prefix}${key} is not JSON: something else writes below this prefix. Delete it, or use another prefix.`;
    throw new AppError("data_invalid", message, { cause: error });
  }
}

async function readPages(
  calls: EtcdCalls,
  call: StoreCall,
  range: EtcdRange,
  options: { readonly limit: number; readonly keys_only?: boolean; readonly revision?: number },
): Promise<{ readonly kvs: readonly IKeyValue[]; readonly revision: number }> {
  const kvs: IKeyValue[] = [];
  let revision = options.revision;
  let rest = range;
  let limit = options.limit;
  for (;;) {
    const page = await readPage(calls, call, {
      ...options,
      ...rest,
      limit,
      ...(revision === undefined ? {} : { revision }),
    });
    if (page === "too large") {
      limit = Math.max(1, Math.floor(limit / 8));
      continue;
    }
    kvs.push(...page.kvs);
    revision ??= Number(page.header.revision);
    const last = page.kvs.at(-1);
    if (!page.more || last === undefined) return { kvs, revision };
    rest = rangeBehind(last.key, range);
  }
}

async function readPage(
  calls: EtcdCalls,
  call: StoreCall,
  request: IRangeRequest & { readonly limit: number },
): Promise<IRangeResponse | "too large"> {
  try {
    return await calls.unary(call, "KV.range", request, "safe");
  } catch (error) {
    const isTooLarge = error instanceof EtcdFailure && error.kind === "response-too-large";
    if (isTooLarge && request.limit > 1) return "too large";
    throw error;
  }
}
