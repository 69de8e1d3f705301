/**
 * A program that uses a knowledge store in a process of its own, so that tests can hammer, stop and kill it.
 * Started by `startStoreProcess` (`knowledge-store-process.ts`) with the store's URL; ends when its parent goes.
 */
import { toFailure } from "../../lib/errors.ts";
import { type KnowledgeStore } from "../../lib/knowledge/knowledge-store.ts";
import { openKnowledgeStore } from "../../lib/knowledge/open.ts";
import { type StoreProcessCommand, type StoreProcessMessage } from "./knowledge-store-process.ts";

const url = process.argv[2];
if (url === undefined || process.send === undefined) throw new Error("Start this with startStoreProcess.");

const store = await openKnowledgeStore(url, { timeoutMs: 20_000 });
process.on("disconnect", () => process.exit());
process.on("message", (command: StoreProcessCommand) => {
  obey(store, command).then(
    () => tell({ type: "done" }),
    (error: unknown) => tell({ type: "failed", detail: JSON.stringify(toFailure(error)) }),
  );
});
tell({ type: "ready" });

async function obey(store: KnowledgeStore, command: StoreProcessCommand): Promise<void> {
  switch (command.type) {
    case "increment":
      for (let done = 0; done < command.times;) done += (await increment(store, command.key)) ? 1 : 0;
      return;
    case "alternate":
      for (let count = 1; count <= command.times; count++) {
        await store.put(command.first, count);
        await store.put(command.second, count);
      }
      return;
    case "hold": {
      const lease = await store.grantLease({ ttlMs: command.ttlMs });
      void lease.lost.then(() => tell({ type: "lost" }));
      for (const key of command.keys) await store.put(key, "held", { lease });
      return;
    }
    case "watch":
      void relayChanges(store, command.prefix, command.fromRevision);
      return;
  }
}

async function increment(store: KnowledgeStore, key: string): Promise<boolean> {
  const found = await store.get(key);
  try {
    await store.put(key, Number(found?.value ?? 0) + 1, { ifRevision: found?.revision ?? 0 });
    return true;
  } catch (error) {
    if (toFailure(error).code === "precondition_failed") return false;
    throw error;
  }
}

async function relayChanges(store: KnowledgeStore, prefix: string, fromRevision: number): Promise<void> {
  for await (const change of store.watch(prefix, fromRevision)) tell({ type: "change", change });
}

function tell(message: StoreProcessMessage): void {
  process.send?.(message);
}
