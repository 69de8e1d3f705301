import assert from "node:assert/strict";
import { cp, mkdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { KnowledgeBase } from "../../lib/knowledge/knowledge-base.ts";
import { seedKeys } from "../../lib/knowledge/keys.ts";
import { openKnowledgeStore } from "../../lib/knowledge/open.ts";
import { packageRoot } from "../../lib/package-root.ts";
import { seedIfEmpty } from "../../orchestrator/seed.ts";
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
  assert.ok((await seedIfEmpty(knowledge, sample)) >= 10);
  await knowledge.delete("agreements", "VU");
  assert.equal(await seedIfEmpty(knowledge, sample), 0);
  assert.equal(await knowledge.get("agreements", "VU"), undefined);
});

test("two that seed at once store each document once", async (t) => {
  const knowledge = await emptyStore(t);
  const [first = 0, second = 0] = await Promise.all([seedIfEmpty(knowledge, sample), seedIfEmpty(knowledge, sample)]);
  const once = await seedIfEmpty(await emptyStore(t), sample);
  assert.equal(first + second, once);
});

test("a seeding that was interrupted is completed", async (t) => {
  const knowledge = await emptyStore(t);
  const all = await seedIfEmpty(knowledge, sample);
  await knowledge.store.put(seedKeys.key({ name: "documents" }), "under way");
  await knowledge.delete("agreements", "VU");
  assert.equal(await seedIfEmpty(knowledge, sample), 1);
  assert.ok(all > 1);
});

test("a fault in a file is named with file and place, and nothing is stored", async (t) => {
  const knowledge = await emptyStore(t);
  const fault = async (file: string, text: string) => {
    const folder = await sampleWith(file, text);
    const error = await seedIfEmpty(knowledge, folder).then(
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
  await seedIfEmpty(knowledge, await sampleWith("agreements/RUG.json", agreement));
  assert.equal((await knowledge.get("agreements", "RUG"))?.document.name, "RUG");
});

test("a folder without documents is a fault, not an empty system", async (t) => {
  const folder = await temporaryFolder();
  await assert.rejects(seedIfEmpty(await emptyStore(t), folder), {
    code: "configuration_invalid",
    message: new RegExp(folder),
  });
  await rm(folder, { recursive: true });
});
