import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { JobRegistry } from "../../agent/jobs.ts";
import { systemClock } from "../../lib/clock.ts";
import { openKnowledgeStore } from "../../lib/knowledge/open.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const LEASE_MS = 60_000;

test("a composition is registered under its approval's lease, which is asked for once", async (t) => {
  const store = await openKnowledgeStore(`sqlite:${join(await temporaryFolder(), "store.db")}`);
  t.after(() => store.close());
  const approval = await store.grantLease({ ttlMs: LEASE_MS, renewal: "manual" });
  const asked: string[] = [];
  const attachLease = store.attachLease.bind(store);
  store.attachLease = (id) => {
    asked.push(id);
    return attachLease(id);
  };
  const jobs = new JobRegistry(store, "VU", LEASE_MS, systemClock);
  const composition = {
    archetype_id: "computeToData",
    request_type: "sqlDataRequest",
    role: "all" as const,
    user: { id: "analyst-1", userName: "analyst@example.org" },
    data_providers: ["VU"],
    destination_queue: "VU-in",
    job_name: "analyst-0a1b2c3d",
    local_job_name: "analyst-0a1b2c3d-vu",
    data_sets: ["wageGap"],
    lease_id: approval.id,
    plan_version: 1,
  };
  assert.equal(await jobs.register(composition), undefined, "there was none before");
  assert.deepEqual(asked, [approval.id]);
  const found = await jobs.find("analyst@example.org", "analyst-0a1b2c3d");
  assert.equal(found?.lease, approval.id);
  await approval.release();
  assert.equal(await jobs.find("analyst@example.org", "analyst-0a1b2c3d"), undefined, "it ends with the approval");
  await assert.rejects(jobs.register(composition), { code: "job_unknown" });
});
