import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { copyFile, readFile, readdir, stat, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import Database from "better-sqlite3";
import type { DataPod } from "../../../agent/data/data-pods.ts";
import { loadDataSet, type LoadedDataSet, type LoadProgress } from "../../../agent/data/load.ts";
import { sampleRows, writeSampleData } from "../../../cli/generate-sample-data.ts";
import { systemClock as clock } from "../../../lib/clock.ts";
import { holdFile } from "../../../lib/data/held-files.ts";
import type { DataSet } from "../../../lib/model/dataset.ts";
import { packageRoot } from "../../../lib/package-root.ts";
import { eventually } from "../../support/eventually.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

const wageGap = JSON.parse(await readFile(join(packageRoot, "configuration/datasets/wageGap.json"), "utf8")) as DataSet;
const small: DataSet = {
  name: "small",
  type: "csv",
  tables: [
    {
      name: "T",
      columns: [
        { name: "k", type: { type: "text" } },
        { name: "d", type: { type: "decimal", precision: 15, scale: 6 } },
        { name: "i", type: { type: "integer" } },
      ],
    },
  ],
  sensitive_columns: {},
};

async function smallPod(
  content = "k;d;i\n007;123456789.123456;9007199254740993\n",
): Promise<{ path: string; pod: DataPod }> {
  const path = join(await temporaryFolder(), "T.csv");
  await writeFile(path, content);
  return { path, pod: { engine: "csv", files: { T: path } } };
}

function rowsOf(loaded: LoadedDataSet, table: string): unknown[][] {
  const database = new Database(loaded.path, { readonly: true });
  try {
    return database.prepare<[], unknown[]>(`SELECT * FROM "${table}"`).safeIntegers(true).raw(true).all();
  } finally {
    database.close();
  }
}

test("the sample data of a steward are loaded completely, in less than a second or so", async () => {
  const files = await writeSampleData(await temporaryFolder(), "UVA", { pairs: 200 });
  const folder = await temporaryFolder();
  const progress: LoadProgress[] = [];
  const loaded = await loadDataSet(
    wageGap,
    { engine: "csv", files },
    { folder, clock, onProgress: (at) => progress.push(at) },
  );
  const expected = [...sampleRows("UVA", { pairs: 200 })];
  for (const table of ["Personen", "Aanstellingen"]) {
    const rows = expected.filter((row) => row.table === table);
    assert.equal(rowsOf(loaded, table).length, rows.length);
    assert.equal(rowsOf(loaded, table)[0]?.[1], rows[0]?.cells[1], "leading zeros are kept");
    assert.equal(progress.find((at) => at.table === table)?.rows, rows.length);
  }
});

test("decimals of fifteen digits, integers of 64 bits and leading zeros survive", async () => {
  const { pod } = await smallPod();
  const loaded = await loadDataSet(small, pod, { folder: await temporaryFolder(), clock });
  assert.deepEqual(rowsOf(loaded, "T"), [["007", 123456789.123456, 9007199254740993n]]);
});

test("an unchanged file is neither loaded nor read again; other times only make it be read; other content makes it be loaded", async () => {
  const { path, pod } = await smallPod();
  const folder = await temporaryFolder();
  let loads = 0;
  const options = { folder, clock, onProgress: () => loads++ };
  const first = await loadDataSet(small, pod, options);
  assert.deepEqual(await loadDataSet(small, pod, options), first);
  assert.equal(loads, 1);

  await utimes(path, 1, 1);
  assert.deepEqual(await loadDataSet(small, pod, options), first);
  assert.equal(loads, 1, "the same content was loaded again");

  const { mtime, atime } = await stat(path);
  await writeFile(path, "k;d;i\n008;123456789.123456;9007199254740993\n");
  await utimes(path, atime, mtime);
  const changed = await loadDataSet(small, pod, options);
  assert.notEqual(changed.contentHash, first.contentHash, "a change that keeps size and time was missed");
  assert.equal(rowsOf(changed, "T")[0]?.[0], "008");
  assert.equal(loads, 2);
});

test("a changed declaration loads the same file anew", async () => {
  const { pod } = await smallPod();
  const folder = await temporaryFolder();
  const first = await loadDataSet(small, pod, { folder, clock });
  const asText = structuredClone(small);
  asText.tables[0]!.columns[2]!.type = { type: "text" };
  const second = await loadDataSet(asText, pod, { folder, clock });
  assert.notEqual(second.path, first.path);
  assert.equal(rowsOf(second, "T")[0]?.[2], "9007199254740993");
});

test("several loaders at once load once", async () => {
  const { pod } = await smallPod();
  const folder = await temporaryFolder();
  let loads = 0;
  const load = (): Promise<LoadedDataSet> => loadDataSet(small, pod, { folder, clock, onProgress: () => loads++ });
  const all = await Promise.all([load(), load(), load(), load()]);
  assert.equal(new Set(all.map((loaded) => loaded.path)).size, 1);
  assert.equal(loads, 1);
});

test("older files of a data set are removed, but not while they are held or read", async () => {
  const { path, pod } = await smallPod();
  const folder = await temporaryFolder();
  const paths: string[] = [];
  for (let version = 0; version < 4; version++) {
    await writeFile(path, `k;d;i\n${version};1;1\n`);
    paths.push((await loadDataSet(small, pod, { folder, clock })).path);
  }
  const load = async (content: number): Promise<string> => {
    await writeFile(path, `k;d;i\n${content};2;2\n`);
    return (await loadDataSet(small, pod, { folder, clock })).path;
  };
  const files = async (): Promise<string[]> =>
    (await readdir(folder)).filter((name) => name.endsWith(".sqlite")).map((name) => join(folder, name));
  assert.deepEqual(await files(), [paths.at(-1)]);

  const hold = holdFile(paths.at(-1)!);
  const reader = new Database(await load(5), { readonly: true });
  const rows = reader.prepare<[], { k: string }>("SELECT k FROM T UNION ALL SELECT k FROM T").iterate();
  rows.next();
  const present = await load(6);
  assert.equal((await files()).length, 3);
  assert.deepEqual(rows.next().value, { k: "5" });
  rows.return?.();
  reader.close();
  hold?.release();
  assert.equal(await load(6), present);
  assert.deepEqual(await files(), [present]);
  assert.equal(holdFile(paths.at(-1)!), undefined, "what is gone cannot be held");
});

test("a faulty file leaves nothing behind, and can be loaded when it is corrected", async () => {
  const { path, pod } = await smallPod("k;d;i\nx;1;y\n");
  const folder = await temporaryFolder();
  await assert.rejects(loadDataSet(small, pod, { folder, clock }), {
    code: "data_invalid",
    place: { file: path, line: 2, column: 5 },
  });
  assert.deepEqual(
    (await readdir(folder)).filter((name) => name.includes("sqlite")),
    [],
  );
  await writeFile(path, "k;d;i\nx;1;1\n");
  assert.equal(rowsOf(await loadDataSet(small, pod, { folder, clock }), "T").length, 1);
});

test("a loader that is killed leaves no half file in use, and does not keep the next one waiting", async (context) => {
  const files = await writeSampleData(await temporaryFolder(), "VU", { pairs: 100 });
  const folder = await temporaryFolder();
  const pod = { engine: "csv", files } as const;
  // It comes no further than the end of the first of two files.
  const program = `
    const onProgress = () => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
    const { loadDataSet } = await import(${JSON.stringify(new URL("../../../agent/data/load.js", import.meta.url).href)});
    const { systemClock: clock } = await import(${JSON.stringify(new URL("../../../lib/clock.js", import.meta.url).href)});
    await loadDataSet(${JSON.stringify(wageGap)}, ${JSON.stringify(pod)}, { folder: ${JSON.stringify(folder)}, clock, onProgress });`;
  const child = spawn(process.execPath, ["--input-type=module", "-e", program], { stdio: "inherit" });
  context.after(() => child.kill("SIGKILL"));
  const exited = once(child, "exit");
  await eventually(async () => (await readdir(folder, { recursive: true })).some((name) => name.includes(".making/")));
  child.kill("SIGKILL");
  assert.deepEqual(await exited, [null, "SIGKILL"]);
  assert.deepEqual(
    (await readdir(folder)).filter((name) => name.endsWith(".sqlite")),
    [],
  );

  const fewer = await writeSampleData(await temporaryFolder(), "VU", { pairs: 10 });
  for (const [table, path] of Object.entries(fewer)) await copyFile(path, files[table as keyof typeof files]);
  const loaded = await loadDataSet(wageGap, pod, { folder, clock });
  assert.ok(rowsOf(loaded, "Personen").length > 0);
});

test("files and declaration must belong together", async () => {
  const folder = await temporaryFolder();
  const { path } = await smallPod();
  await assert.rejects(loadDataSet(small, { engine: "csv", files: {} }, { folder, clock }), {
    code: "configuration_invalid",
    message: /table T/,
  });
  await assert.rejects(loadDataSet(small, { engine: "csv", files: { T: path, U: path } }, { folder, clock }), {
    message: /no table U/,
  });
  await assert.rejects(loadDataSet(small, { engine: "csv", files: { T: "/nowhere.csv" } }, { folder, clock }), {
    code: "not_found",
  });
});

test("files larger than may be loaded are refused, with both sizes and the setting, and nothing is made", async () => {
  const folder = join(await temporaryFolder(), "loaded");
  const { path, pod } = await smallPod();
  const { size } = await stat(path);
  await assert.rejects(loadDataSet(small, pod, { folder, clock, mostBytes: size - 1 }), {
    code: "configuration_invalid",
    message: new RegExp(`${String(size)} bytes.* ${String(size - 1)} .*DYNAMOS_LOAD_MAX_BYTES`),
  });
  assert.equal(existsSync(folder), false);
  assert.equal(rowsOf(await loadDataSet(small, pod, { folder, clock, mostBytes: size }), "T").length, 1);
});

test("a SQLite file is used where it is, if it has what is declared", async () => {
  const path = join(await temporaryFolder(), "pod.sqlite");
  const database = new Database(path);
  database.exec("CREATE TABLE T (k TEXT, d DECIMAL(15,6)); CREATE TABLE other (x)");
  const folder = await temporaryFolder();
  await assert.rejects(loadDataSet(small, { engine: "sqlite", path }, { folder, clock }), {
    code: "data_invalid",
    message: /lacks declared columns: i/,
  });
  database.exec("ALTER TABLE T ADD COLUMN i INTEGER");
  database.close();
  const loaded = await loadDataSet(small, { engine: "sqlite", path }, { folder, clock });
  assert.equal(loaded.path, path);
  const missing = { ...small, tables: [{ ...small.tables[0]!, name: "Nope" }] };
  await assert.rejects(loadDataSet(missing, { engine: "sqlite", path }, { folder, clock }), {
    message: /has no table Nope/,
  });
});

test("what was committed to a SQLite file in WAL mode is other content, though the file itself did not change", async () => {
  const path = join(await temporaryFolder(), "pod.sqlite");
  const database = new Database(path);
  database.pragma("journal_mode = WAL");
  database.exec("CREATE TABLE T (k, d, i)");
  database.pragma("wal_checkpoint(TRUNCATE)");
  const load = async (): Promise<string> =>
    (await loadDataSet(small, { engine: "sqlite", path }, { folder: await temporaryFolder(), clock })).contentHash;
  const hashes = [await load(), await load()];
  const before = await stat(path, { bigint: true });
  database.exec("INSERT INTO T VALUES (1, 2, 3)");
  assert.equal((await stat(path, { bigint: true })).mtimeNs, before.mtimeNs, "it is in the log only");
  hashes.push(await load());
  database.exec("INSERT INTO T VALUES (4, 5, 6)");
  hashes.push(await load(), await load());
  database.close();
  assert.deepEqual(
    hashes.map((hash) => hashes.indexOf(hash)),
    [0, 0, 2, 3, 3],
  );
});
