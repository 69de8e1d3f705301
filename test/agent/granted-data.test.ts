import assert from "node:assert/strict";
import { mkdir, readdir, rm, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { test, type TestContext } from "node:test";
import { DataSources } from "../../agent/data-sources.ts";
import { holdGrantedData, type GrantedData } from "../../agent/granted-data.ts";
import { systemClock as clock } from "../../lib/clock.ts";
import { KnowledgeBase } from "../../lib/knowledge/knowledge-base.ts";
import { openKnowledgeStore } from "../../lib/knowledge/open.ts";
import type { DataSet } from "../../lib/model/dataset.ts";
import type { Grant } from "../../lib/model/grant.ts";
import { createLogger } from "../../lib/telemetry/logger.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const unaborted = new AbortController().signal;

function numbers(name: string): DataSet {
  const columns = [{ name: "i", type: { type: "integer" as const } }];
  return { name, type: "csv", tables: [{ name: "T", columns }], sensitive_columns: {} };
}

interface Steward {
  readonly loadedFolder: string;
  /** Holds what is granted of these data sets. */
  readonly hold: (...names: string[]) => Promise<GrantedData>;
  /** What happens when the knowledge base is asked for a data set. */
  onAsked: (name: string) => Promise<void>;
  /** Other rows in a data set's file. */
  readonly change: (name: string, rows: string) => Promise<void>;
  /** The loaded files of a data set. */
  readonly loaded: (name: string) => Promise<string[]>;
}

/** A steward with the data sets `pay` and `wages`. */
async function openSteward(t: TestContext): Promise<Steward> {
  const [folder, loadedFolder] = [await temporaryFolder(), await temporaryFolder()];
  const store = await openKnowledgeStore({ kind: "sqlite", path: join(folder, "knowledge.db") });
  t.after(() => store.close());
  const knowledge = new KnowledgeBase(store);
  const change = (name: string, rows: string): Promise<void> => writeFile(join(folder, `${name}.csv`), `i\n${rows}`);
  const dataSets: Record<string, unknown> = {};
  for (const name of ["pay", "wages"]) {
    await change(name, "1\n2\n");
    await knowledge.put("datasets", numbers(name));
    dataSets[name] = { engine: "csv", files: { T: `${name}.csv` } };
  }
  const dataFile = join(folder, "data.json");
  await writeFile(dataFile, JSON.stringify({ dataSets }));
  const logger = createLogger("test", {}, "silent");
  const worldFolder = join(folder, "worlds");
  const data = new DataSources({ dataFile, folder: loadedFolder, worldFolder, clock, logger });
  const steward: Steward = {
    loadedFolder,
    onAsked: async () => undefined,
    hold: (...names) =>
      holdGrantedData({ knowledge: asked, data }, { dataSets: names.map(numbers) } as unknown as Grant, unaborted),
    change,
    loaded: async (name) =>
      (await readdir(loadedFolder)).filter((file) => file.startsWith(`${name}-`) && file.endsWith(".sqlite")),
  };
  const asked = {
    get: async (kind: "datasets", name: string) => {
      await steward.onAsked(name);
      return knowledge.get(kind, name);
    },
  } as unknown as KnowledgeBase;
  return steward;
}

/** A folder stands where it is remembered what of a data set was loaded last: it cannot be read. */
async function spoil({ loadedFolder }: Steward, name: string): Promise<void> {
  await rm(join(loadedFolder, `${name}.json`));
  await mkdir(join(loadedFolder, `${name}.json`));
}

test("where one data set cannot be released, those after it are released all the same, and its failure is told", async (t) => {
  const steward = await openSteward(t);
  const held = await steward.hold("pay", "wages");
  await spoil(steward, "pay");
  await assert.rejects(held.release(), { code: "EISDIR" });
  await steward.change("wages", "1\n");
  const present = await steward.hold("wages");
  assert.deepEqual(await steward.loaded("wages"), [basename(present.locations["wages"]?.path ?? "")]);
  await present.release();
});

test("where a data set cannot be had, why is told, although those before it cannot be released in order", async (t) => {
  const steward = await openSteward(t);
  steward.onAsked = async (name) => {
    if (name === "unknown") await spoil(steward, "pay");
  };
  await assert.rejects(steward.hold("pay", "wages", "unknown"), { code: "not_found" });
  await steward.change("wages", "1\n");
  const present = await steward.hold("wages");
  assert.deepEqual(await steward.loaded("wages"), [basename(present.locations["wages"]?.path ?? "")]);
  await present.release();
});
