import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { openKnowledgeStore, parseKnowledgeStoreUrl } from "../../../lib/knowledge/open.ts";
import { etcdForTests, noEtcd } from "../../support/etcd.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

test("a sqlite URL opens the store in that file, making its folder", async () => {
  const store = await openKnowledgeStore(`sqlite:${join(await temporaryFolder(), "new", "knowledge.db")}`);
  try {
    assert.equal(await store.put("/a", 1), 1);
  } finally {
    await store.close();
  }
});

test("an etcd URL is understood, and opens what answers there", { skip: noEtcd() }, async () => {
  for (const url of ["etcd://localhost:2379", "etcds://localhost:2379"]) {
    assert.deepEqual(parseKnowledgeStoreUrl(url), { kind: "etcd", url });
  }
  const etcd = await etcdForTests();
  try {
    const store = await openKnowledgeStore(etcd.url);
    assert.ok((await store.put("/a", 1)) > 0);
    await store.close();
  } finally {
    await etcd.stop();
  }
});

test("other URLs are refused without repeating what may be a password", async () => {
  for (const url of ["redis://user:secret@localhost", "knowledge.db", "sqlite:", ""]) {
    await assert.rejects(openKnowledgeStore(url), (error: Error & { code: string }) => {
      assert.equal(error.code, "configuration_invalid");
      assert.doesNotMatch(error.message, /secret/);
      return true;
    });
  }
});
