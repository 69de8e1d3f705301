/** `dynamos data`: proposals and checks of a steward's files, by the command as it is run. */
import assert from "node:assert/strict";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { Value } from "@sinclair/typebox/value";
import { packageRoot } from "../../lib/package-root.ts";
import { DataSet, type ColumnType } from "../../lib/model/dataset.ts";
import { dynamos } from "../support/command.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

/** Proposes columns for a file with these lines. */
async function propose(
  lines: readonly string[],
  ...args: readonly string[]
): Promise<{
  readonly dataSet: DataSet;
  readonly types: Readonly<Record<string, ColumnType>>;
  readonly notes: string;
}> {
  const file = join(await temporaryFolder(), "people.csv");
  await writeFile(file, lines.join("\r\n"));
  const { code, stdout, stderr } = await dynamos("data", "propose", file, ...args);
  assert.equal(code, 0, stderr);
  const dataSet = JSON.parse(stdout) as DataSet;
  assert.equal(Value.Check(DataSet, dataSet), true, "what is proposed is a data set");
  const columns = dataSet.tables[0]?.columns ?? [];
  return { dataSet, types: Object.fromEntries(columns.map(({ name, type }) => [name, type])), notes: stderr };
}

/** A folder with a data set of one table, its file, and the party's file that names it. */
async function folderWith(file: string): Promise<{ folder: string; dataSet: string; party: string; csv: string }> {
  const folder = await temporaryFolder();
  const [dataSet, party, csv] = [join(folder, "pay.json"), join(folder, "VU.json"), join(folder, "pay.csv")];
  const columns = [
    { name: "name", type: { type: "text" } },
    { name: "amount", type: { type: "decimal", precision: 9, scale: 2, decimalSeparator: "," } },
  ];
  const document = { name: "pay", type: "csv", tables: [{ name: "Pay", columns }], sensitive_columns: {} };
  await writeFile(dataSet, JSON.stringify(document));
  await writeFile(party, JSON.stringify({ dataSets: { pay: { engine: "csv", files: { Pay: "pay.csv" } } } }));
  await writeFile(csv, file);
  return { folder, dataSet, party, csv };
}

test("a proposal gives each column the narrowest type that all cells have", async () => {
  const { dataSet, types } = await propose([
    "number;whole;amount;ratio;active;born;seen;note",
    "0012;5;1,50;2,5e3;J;31-12-1990;2022-12-31T23:59:59Z;free text",
    "0013;;12,75;0,001;N;01-02-1985;2022-12-31 23:59:59;",
  ]);
  assert.deepEqual(types, {
    number: { type: "text" },
    whole: { type: "integer" },
    amount: { type: "decimal", precision: 15, scale: 2, decimalSeparator: "," },
    ratio: { type: "float", decimalSeparator: "," },
    active: { type: "boolean", trueValue: "J", falseValue: "N" },
    born: { type: "date", format: "dd-mm-yyyy" },
    seen: { type: "timestamp" },
    note: { type: "text" },
  });
  assert.equal(dataSet.delimiter, ";");
  const nullable = dataSet.tables[0]?.columns.filter((column) => column.nullable !== false).map(({ name }) => name);
  assert.deepEqual(nullable, ["whole", "note"], "columns with an empty cell may be null");
});

test("a proposal keeps a date as text where two orders fit every cell, and says so", async () => {
  const unclear = await propose(["day;n", "01/02/2022;1", "03/04/2022;2"]);
  assert.deepEqual(unclear.types["day"], { type: "text" });
  assert.match(unclear.notes, /day: dd\/mm\/yyyy and mm\/dd\/yyyy both fit/);
  const clear = await propose(["day;n", "01/02/2022;1", "03/14/2022;2"]);
  assert.deepEqual(clear.types["day"], { type: "date", format: "mm/dd/yyyy" });
});

test("a proposal points at separators that may stand between thousands", async () => {
  const { notes, types } = await propose(["pay,n", "1.234,1", "2.000,2"]);
  assert.equal(types["pay"]?.type, "decimal");
  assert.match(notes, /pay: every "\." has three digits behind it/);
});

test("a proposal whose delimiter cannot be told asks for it, and takes the one named", async () => {
  const file = join(await temporaryFolder(), "one.csv");
  await writeFile(file, "a;b,c\n1;2,3\n");
  const refused = await dynamos("data", "propose", file);
  assert.equal(refused.code, 1);
  assert.equal(refused.stderr.startsWith(`${file}:1:1: `), true, refused.stderr);
  assert.match(refused.stderr, /--delimiter/);
  const { types } = await propose(["a;n", "1;2"], "--delimiter", ";");
  assert.deepEqual(Object.keys(types), ["a", "n"]);
});

test("a broken line is named with file, line and column when columns are proposed", async () => {
  const file = join(await temporaryFolder(), "broken.csv");
  await writeFile(file, 'a;b\n1;2\n3;"4\n');
  const { code, stderr, stdout } = await dynamos("data", "propose", file);
  assert.equal(code, 1);
  assert.equal(stdout, "");
  assert.equal(stderr.startsWith(`${file}:3:3: `), true, stderr);
});

test("the sample's own files are as its data set declares", async () => {
  const folder = await temporaryFolder();
  const made = await dynamos("data", "sample", folder);
  assert.equal(made.code, 0, made.stderr);
  assert.equal(made.stdout.trim().split("\n").length, 6);
  const party = join(folder, "UVA.json");
  const files = { Personen: "UVA/Personen.csv", Aanstellingen: "UVA/Aanstellingen.csv" };
  await writeFile(party, JSON.stringify({ dataSets: { wageGap: { engine: "csv", files } } }));
  const checked = await dynamos("data", "check", join(packageRoot, "configuration/datasets/wageGap.json"), party);
  assert.equal(checked.code, 0, checked.stderr);
  assert.equal(checked.stdout.match(/\d+ rows as declared/g)?.length, 2);
  const proposed = await dynamos("data", "propose", join(folder, "UVA/Personen.csv"));
  assert.deepEqual(
    typeKinds(JSON.parse(proposed.stdout) as DataSet),
    typeKinds(await sampleDataSet()),
    proposed.stdout,
  );
});

async function sampleDataSet(): Promise<DataSet> {
  return JSON.parse(await readFile(join(packageRoot, "configuration/datasets/wageGap.json"), "utf8")) as DataSet;
}

function typeKinds(dataSet: DataSet): Readonly<Record<string, string>> {
  const columns = dataSet.tables.find(({ name }) => name === "Personen")?.columns ?? [];
  return Object.fromEntries(columns.map(({ name, type }) => [name, type.type]));
}

test("a check names every fault with file, line and column, and no cell's value", async () => {
  const { dataSet, party, csv } = await folderWith("name;amount\nA;1,50\nB;1.50\nC;canary\nD;2,00\n");
  const { code, stdout, stderr } = await dynamos("data", "check", dataSet, party);
  assert.equal(code, 1);
  const lines = stderr.trim().split("\n");
  assert.equal(lines[0]?.startsWith(`${csv}:3:3: In the column amount`), true, stderr);
  assert.equal(lines[1]?.startsWith(`${csv}:4:3: In the column amount`), true, stderr);
  assert.equal(lines[2], "2 faults.");
  assert.doesNotMatch(stdout + stderr, /canary/);
});

test("a fault in a document is named with its place", async () => {
  const { folder, dataSet, party } = await folderWith("name;amount\n");
  const broken = join(folder, "broken.json");
  await writeFile(broken, '{\n  "name": "pay",\n  "type": csv\n}\n');
  const notJson = await dynamos("data", "check", broken, party);
  assert.equal(notJson.code, 1);
  assert.equal(notJson.stderr.startsWith(`${broken}:3:11: `), true, notJson.stderr);
  await writeFile(broken, '{"name": "pay", "type": "csv", "tables": [], "sensitive_columns": {}}');
  const notADataSet = await dynamos("data", "check", broken, party);
  assert.equal(notADataSet.code, 1);
  assert.match(notADataSet.stderr, /broken\.json: \/tables: .*\[configuration_invalid\]/);
  const absent = await dynamos("data", "check", dataSet, join(folder, "absent.json"));
  assert.equal(absent.code, 1);
  assert.match(absent.stderr, /absent\.json.*\[not_found\]/);
});

test("a wrong command line ends with 2 and says how to use the command", async () => {
  for (const args of [["data"], ["data", "propose"], ["data", "check", "one.json"], ["data", "sample"], ["nothing"]]) {
    const { code, stdout, stderr } = await dynamos(...args);
    assert.equal(code, 2, args.join(" "));
    assert.match(stdout + stderr, /dynamos data/);
  }
});
