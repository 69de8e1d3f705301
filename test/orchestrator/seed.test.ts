import assert from "node:assert/strict";
import { cp, mkdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { systemClock } from "../../lib/clock.ts";
import { KnowledgeBase } from "../../lib/knowledge/knowledge-base.ts";
import { seedKeys } from "../../lib/knowledge/keys.ts";
import { openKnowledgeStore } from "../../lib/knowledge/open.ts";
import { packageRoot } from "../../lib/package-root.ts";
import { seedIfEmpty } from "../../orchestrator/seed.ts";
import { etcdForTests, noEtcd } from "../support/etcd.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const sample = join(packageRoot, "configuration");

async function emptyStore(t: TestContext): Promise<KnowledgeBase> {
  const store = await openKnowledgeStore({ kind: "sqlite", path: join(await temporaryFolder(), "store.db") });
  t.after(() => store.close());
  return new KnowledgeBase(store);
}

async function sampleWith(file: string, text: string): Promise<string> {
  const folder = await temporaryFolder();
  await cp(sample, folder, { recursive: true });
  await mkdir(join(folder, file, ".."), { recursive: true });
  await writeFile(join(folder, file), text);
  return folder;
}

test("an empty store is filled once, and a document that was changed since stays as it is", async (t) => {
  const knowledge = await emptyStore(t);
  assert.ok((await seedIfEmpty(knowledge, sample, systemClock)) >= 10);
  await knowledge.delete("agreements", "VU");
  assert.equal(await seedIfEmpty(knowledge, sample, systemClock), 0);
  assert.equal(await knowledge.get("agreements", "VU"), undefined);
});

test("of two that seed at once one does, and the other waits for it and finds the store full", async (t) => {
  await seedTwiceAtOnce(t, `sqlite:${join(await temporaryFolder(), "store.db")}`);
});

test("of two that seed at once on etcd one does", { skip: noEtcd() }, async (t) => {
  const etcd = await etcdForTests();
  try {
    await seedTwiceAtOnce(t, etcd.url);
  } finally {
    await etcd.stop();
  }
});

/** Two handles, as two orchestrators that start together have them. */
async function seedTwiceAtOnce(t: TestContext, url: string): Promise<void> {
  const stores = [await openKnowledgeStore(url), await openKnowledgeStore(url)];
  const knowledge = stores.map((store) => new KnowledgeBase(store));
  try {
    const counts = await Promise.all(knowledge.map((each) => seedIfEmpty(each, sample, systemClock)));
    const all = await seedIfEmpty(await emptyStore(t), sample, systemClock);
    assert.deepEqual(
      counts.sort((one, other) => one - other),
      [0, all],
    );
    const marker = await stores[0]?.get(seedKeys.key({ name: "documents" }));
    assert.equal(marker?.value, "done");
  } finally {
    for (const store of stores) await store.close();
  }
}

test("a seeding that was interrupted is completed", async (t) => {
  const knowledge = await emptyStore(t);
  const all = await seedIfEmpty(knowledge, sample, systemClock);
  await knowledge.store.put(seedKeys.key({ name: "documents" }), "under way");
  await knowledge.delete("agreements", "VU");
  assert.equal(await seedIfEmpty(knowledge, sample, systemClock), 1);
  assert.ok(all > 1);
});

test("a fault in a file is named with file and place, and nothing is stored", async (t) => {
  const knowledge = await emptyStore(t);
  const fault = async (file: string, text: string) => {
    const folder = await sampleWith(file, text);
    const error = await seedIfEmpty(knowledge, folder, systemClock).then(
      () => assert.fail("it was to fail"),
      (thrown: { code: string; message: string; place?: { file?: string; line?: number; pointer?: string } }) => thrown,
    );
    assert.equal(error.place?.file, join(folder, file), error.message);
    const { line, pointer } = error.place;
    assert.ok(error.message.startsWith(`${join(folder, file)}${line === undefined ? "" : `:${line}`}`), error.message);
    return [error.code, line ?? pointer];
  };
  assert.deepEqual(await fault("archetypes/broken.json", '{\n  "name": "x",\n  weight: 1\n}'), [
    "configuration_invalid",
    3,
  ]);
  assert.deepEqual(await fault("archetypes/broken.json", '{\n  "name": "x"'), ["configuration_invalid", 2]);
  assert.deepEqual(
    await fault(
      "archetypes/wrong.json",
      '{"name":"x","computeProvider":"other","resultRecipient":"requestor","weight":"1"}',
    ),
    ["configuration_invalid", "/weight"],
  );
  const agreement = '{"name":"RUG","relations":{},"computeProviders":[],"archetypes":["byPost"]}';
  assert.deepEqual(await fault("agreements/RUG.json", agreement), ["configuration_invalid", "/archetypes/0"]);
  assert.deepEqual(
    await fault("agreements/second-VU.json", agreement.replace("RUG", "VU").replace("byPost", "computeToData")),
    ["configuration_invalid", "/name"],
  );
  assert.equal(
    (
      await fault(
        "microservices/sql-graph.json",
        '{"name":"sql-graph","label":"computeProvider","allowedOutputs":["lost"],"invalidArchetypes":[]}',
      )
    )[0],
    "chain_invalid",
  );
  assert.equal((await knowledge.list("archetypes")).documents.length, 0);
});

test("a file may begin with a byte order mark", async (t) => {
  const agreement = '\uFEFF{"name":"RUG","relations":{},"computeProviders":[],"archetypes":["computeToData"]}';
  const knowledge = await emptyStore(t);
  await seedIfEmpty(knowledge, await sampleWith("agreements/RUG.json", agreement), systemClock);
  assert.equal((await knowledge.get("agreements", "RUG"))?.document.name, "RUG");
});

test("a folder without documents is a fault, not an empty system", async (t) => {
  const folder = await temporaryFolder();
  await assert.rejects(seedIfEmpty(await emptyStore(t), folder, systemClock), {
    code: "configuration_invalid",
    message: new RegExp(folder),
  });
  await rm(folder, { recursive: true });
});
