import { join } from "node:path";
import Database from "better-sqlite3";
import { openKnowledgeStore } from "../../lib/knowledge/open.ts";
import { openSqliteKnowledgeStore } from "../../lib/knowledge/sqlite.ts";
import { etcdForTests, noEtcd } from "../support/etcd.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { type RunningStore } from "./knowledge-store-bench.ts";
import { knowledgeStoreContract } from "./knowledge-store.contract.ts";

knowledgeStoreContract("SQLite", async (): Promise<RunningStore> => {
  const path = join(await temporaryFolder(), "knowledge.db");
  const url = `sqlite:${path}`;
  return {
    url,
    open: (options = {}) => openKnowledgeStore(url, { timeoutMs: 20_000, ...options }),
    compact: async () => {
      const forgetful = await openSqliteKnowledgeStore({ path, keepChanges: 1, timeoutMs: 20_000 });
      // With one change to keep, the second makes it forget all before.
      for (const value of [1, 2]) await forgetful.put("/compaction", value);
      await forgetful.close();
    },
    interrupt: async () => {
      const other = new Database(path, { timeout: 5000 });
      other.exec("BEGIN IMMEDIATE");
      return async () => {
        other.exec("ROLLBACK");
        other.close();
      };
    },
    stop: async () => undefined,
  };
});

knowledgeStoreContract(
  "etcd",
  async (): Promise<RunningStore> => {
    const { url, server, stop } = await etcdForTests();
    return {
      url,
      open: (options = {}) => openKnowledgeStore(url, { timeoutMs: 20_000, ...options }),
      stop,
      ...(server && {
        compact: () => server.compact(),
        interrupt: async () => {
          await server.pause();
          return async () => server.resume();
        },
      }),
    };
  },
  { skip: noEtcd() },
);
