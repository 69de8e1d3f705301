import assert from "node:assert/strict";
import { EventEmitter, once } from "node:events";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { systemClock } from "../../lib/clock.ts";
import { lockKeys } from "../../lib/knowledge/keys.ts";
import { KnowledgeBase } from "../../lib/knowledge/knowledge-base.ts";
import type { KnowledgeStore } from "../../lib/knowledge/knowledge-store.ts";
import { openKnowledgeStore } from "../../lib/knowledge/open.ts";
import { packageRoot } from "../../lib/package-root.ts";
import { KnowledgeAdmin } from "../../orchestrator/knowledge-admin.ts";
import { seedIfEmpty } from "../../orchestrator/seed.ts";
import { agreementOf } from "../support/front-door.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const EXTRA = { name: "extra", computeProvider: "other", resultRecipient: "requestor", weight: 900 };

async function openStore(t: TestContext, folder: string): Promise<KnowledgeStore> {
  const store = await openKnowledgeStore({ kind: "sqlite", path: join(folder, "store.db") });
  t.after(() => store.close());
  return store;
}

/** The same store, whose puts below this prefix wait for `gate` once they are reached. */
function heldAt(store: KnowledgeStore, prefix: string, gate: Promise<unknown>, reached: () => void): KnowledgeStore {
  const put: KnowledgeStore["put"] = async (key, value, options) => {
    if (key.startsWith(prefix)) {
      reached();
      await gate;
    }
    return store.put(key, value, options);
  };
  return new Proxy(store, {
    get: (target, name) => {
      if (name === "put") return put;
      const member: unknown = Reflect.get(target, name, target);
      return typeof member === "function" ? (member.bind(target) as unknown) : member;
    },
  });
}

test("a write at one replica waits for what another has checked and not yet stored, and is checked together with it", async (t) => {
  const folder = await temporaryFolder();
  const [first, second] = [await openStore(t, folder), await openStore(t, folder)];
  await seedIfEmpty(new KnowledgeBase(first), join(packageRoot, "configuration"), systemClock);
  const there = new KnowledgeAdmin(new KnowledgeBase(second), systemClock);
  await there.put("archetypes", EXTRA);

  const events = new EventEmitter();
  const gate = once(events, "gate");
  const reached = once(events, "reached");
  const held = heldAt(first, "/policyEnforcer/", gate, () => events.emit("reached"));
  const here = new KnowledgeAdmin(new KnowledgeBase(held), systemClock);
  const put = here.put("agreements", agreementOf("NEW", { archetypes: [EXTRA.name] }));
  await reached;
  const removed = there.delete("archetypes", EXTRA.name);
  // Without a lock it would be done by now. That it waits can only be seen by waiting.
  await Promise.race([removed.catch(() => undefined), systemClock.sleep(1000)]);
  events.emit("gate");
  const outcomes = await Promise.allSettled([put, removed]);
  assert.deepEqual(
    outcomes.map(({ status }) => status),
    ["fulfilled", "rejected"],
  );
});

test("a replica that stood still for longer than its lock lasts stores nothing when it goes on", async (t) => {
  const folder = await temporaryFolder();
  const [first, second] = [await openStore(t, folder), await openStore(t, folder)];
  const events = new EventEmitter();
  const gate = once(events, "gate");
  const reached = once(events, "reached");
  const held = heldAt(first, "/archetypes/", gate, () => events.emit("reached"));
  const put = new KnowledgeAdmin(new KnowledgeBase(held), systemClock).put("archetypes", EXTRA);
  await reached;
  // What its lease does when nobody renews it, without the wait.
  await second.delete(lockKeys.key({ name: "documents" }));
  await new KnowledgeAdmin(new KnowledgeBase(second), systemClock).put("archetypes", { ...EXTRA, weight: 1 });
  events.emit("gate");
  await assert.rejects(put, { code: "unavailable", message: /lock of the documents was lost/ });
  assert.equal((await new KnowledgeBase(second).get("archetypes", EXTRA.name))?.document.weight, 1);
});
