import assert from "node:assert/strict";
import { join } from "node:path";
import { describe, test, type TestContext } from "node:test";
import { systemClock } from "../../lib/clock.ts";
import type { KnowledgeStore } from "../../lib/knowledge/knowledge-store.ts";
import { openKnowledgeStore } from "../../lib/knowledge/open.ts";
import { keepRegistered, type Registration, type RegistrationOptions } from "../../lib/registration.ts";
import { createLogger } from "../../lib/telemetry/logger.ts";
import { eventually } from "../support/eventually.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const dependencies = { clock: systemClock, logger: createLogger("test", {}, "info", { write: () => undefined }) };

async function register(
  t: TestContext,
  options: Partial<RegistrationOptions> = {},
): Promise<{ store: KnowledgeStore; registration: Registration; keys: () => Promise<string[]> }> {
  const store = await openKnowledgeStore(`sqlite:${join(await temporaryFolder(), "store.db")}`);
  const records = [
    { key: "/lives/a", value: 1 },
    { key: "/serves/a", value: 2 },
  ];
  const registration = await keepRegistered(store, { records, leaseMs: 1_000, ...options }, dependencies);
  t.after(async () => {
    await registration.close();
    await store.close();
  });
  const keys = async (): Promise<string[]> => (await store.list("/")).documents.map(({ key }) => key);
  return { store, registration, keys };
}

/** Ends the lease behind its keeper's back, as a store does that did not hear of it for long. */
async function loseLease(store: KnowledgeStore, registration: Registration): Promise<void> {
  const id = registration.lease()?.id;
  assert.ok(id);
  await (await store.attachLease(id)).release();
}

describe("a registration", () => {
  test("stands until it is closed, and what else is under its lease with it", async (t) => {
    const { store, registration, keys } = await register(t);
    const lease = registration.lease();
    assert.ok(lease);
    await store.put("/claims/r", "a", { lease });
    assert.deepEqual(await keys(), ["/claims/r", "/lives/a", "/serves/a"]);
    await registration.close();
    assert.deepEqual(await keys(), []);
  });

  test("is made again when its lease was lost, after what else is to be put under the new one", async (t) => {
    const again: string[] = [];
    const { store, registration, keys } = await register(t, {
      onRegisteredAgain: async (lease) => {
        again.push(lease.id);
        assert.equal(registration.isRegistered(), false);
        if (again.length === 1) throw new Error("not yet");
      },
    });
    await loseLease(store, registration);
    await eventually(() => again.length === 2 && registration.isRegistered());
    assert.equal(registration.lease()?.id, again[1]);
    assert.deepEqual(await keys(), ["/lives/a", "/serves/a"]);
  });

  test("loses one record for good where it is withdrawn, the others standing", async (t) => {
    const { store, registration, keys } = await register(t);
    await registration.withdraw("/serves/a");
    assert.deepEqual(await keys(), ["/lives/a"]);
    await loseLease(store, registration);
    const before = registration.lease()?.id;
    await eventually(() => registration.isRegistered() && registration.lease()?.id !== before);
    assert.deepEqual(await keys(), ["/lives/a"]);
  });
});
