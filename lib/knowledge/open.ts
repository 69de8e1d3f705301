/** Chooses the knowledge store's adapter; the only file that knows which there are. */
import { type Clock } from "../clock.ts";
import { AppError } from "../errors.ts";
import { type KnowledgeStore } from "./knowledge-store.ts";

/** Which store, and where. As a URL: `sqlite:<path>`, `etcd://…` or `etcds://…` (`docs/configuration.md`). */
export type KnowledgeStoreConfiguration =
  | {
      readonly kind: "sqlite";
      /** The file, absolute or relative to the working folder; made when missing. */
      readonly path: string;
    }
  | { readonly kind: "etcd"; readonly url: string };

/** What an adapter is given besides its place. */
export interface KnowledgeStoreOptions {
  readonly clock?: Clock;
  /** Deadline of every call in milliseconds; default 5000. */
  readonly timeoutMs?: number;
}

/** The configuration that a URL stands for. Fails with `configuration_invalid` when it names no store we have. */
export function parseKnowledgeStoreUrl(url: string): KnowledgeStoreConfiguration {
  if (url.startsWith("sqlite:") && url.length > "sqlite:".length) {
    return { kind: "sqlite", path: url.slice("sqlite:".length) };
  }
  if (/^etcds?:\/\//.test(url)) return { kind: "etcd", url };
  // Only the scheme is repeated: URLs may carry credentials.
  const scheme = /^[a-z][a-z0-9+.-]*:/i.exec(url)?.[0] ?? "no scheme";
  const message = `The knowledge store's URL has ${scheme}; write sqlite:<path> or etcd://<host>:<port>.`;
  throw new AppError("configuration_invalid", message);
}

/**
 * Opens the store that the configuration, or its URL, names. Fails with `configuration_invalid` when there is no such
 * adapter, with `unavailable` when the store cannot be reached.
 */
export async function openKnowledgeStore(
  configuration: KnowledgeStoreConfiguration | string,
  options: KnowledgeStoreOptions = {},
): Promise<KnowledgeStore> {
  const chosen = typeof configuration === "string" ? parseKnowledgeStoreUrl(configuration) : configuration;
  switch (chosen.kind) {
    case "sqlite": {
      const { openSqliteKnowledgeStore } = await import("./sqlite.ts");
      return openSqliteKnowledgeStore({ path: chosen.path, ...options });
    }
    case "etcd": {
      const { openEtcdKnowledgeStore } = await import("./etcd.ts");
      return openEtcdKnowledgeStore({ url: chosen.url, ...options });
    }
    default:
      return chosen satisfies never;
  }
}
