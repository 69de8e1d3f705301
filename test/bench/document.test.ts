/** `docs/performance.md` shows what was measured: its tables are those of the reports beside it. */
import assert from "node:assert/strict";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, test } from "node:test";
import { withTables } from "../../bench/document.ts";
import { mergedReports, type Report } from "../../bench/report.ts";
import { packageRoot } from "../../lib/package-root.ts";

const FOLDER = join(packageRoot, "docs", "performance");
const TABLE: Report["tables"][number] = {
  name: "speed",
  title: "How fast",
  columns: [{ name: "what" }, { name: "time", unit: "ms" }],
  rows: [["a run", { median: 1234, min: 0.5, max: 2000, n: 3 }]],
  targets: [{ what: "a run", unit: "ms", measured: 1234, atMost: 1000, isMet: false }],
  notes: [],
  quick: false,
  machine: {
    cores: 2,
    processor: "one",
    memoryGiB: 4,
    node: "v20",
    platform: "linux x64",
    backends: { store: "sqlite", bus: "embedded", sidecar: "inProcess" },
    loadBefore: 0.1,
    loadAfter: 1,
  },
};
const PLACE = "before\n<!-- bench here:speed -->\nold\n<!-- /bench -->\nbehind";

describe("a document's table", () => {
  test("is written between its marks, with median and spread, whether targets are met, and the machine", () => {
    const written = withTables(PLACE, new Map([["here", { format: 1, tables: [TABLE] }]]));
    assert.match(written, /^before\n/);
    assert.match(written, /\nbehind$/);
    assert.ok(!written.includes("old"));
    assert.match(written, /\| a run \| 1,234 \(0\.5…2,000, 3\) \|/);
    assert.match(written, /a run ≤ 1,000 ms: 1,234, not met/);
    assert.match(written, /load average 0\.1 before, 1 after/);
  });

  test("that nobody has measured says so", () => {
    assert.match(withTables(PLACE, new Map()), /Not measured yet/);
  });
});

test("a report that is added to keeps what was not measured again", () => {
  const other = { ...TABLE, name: "other" };
  const again = { ...TABLE, title: "Again" };
  const added = { ...TABLE, name: "added" };
  const merged = mergedReports({ format: 1, tables: [TABLE, other] }, { format: 1, tables: [again, added] });
  assert.deepEqual(merged.tables, [again, other, added]);
});

test("docs/performance.md has the tables of its reports", async () => {
  const reports = new Map<string, Report>();
  for (const file of (await readdir(FOLDER)).filter((name) => name.endsWith(".json")))
    reports.set(file.slice(0, -5), JSON.parse(await readFile(join(FOLDER, file), "utf8")) as Report);
  const text = await readFile(join(FOLDER, "..", "performance.md"), "utf8");
  // How wide columns are is the formatter's business.
  const bare = (document: string): string => document.replaceAll(/[ -]+/g, " ").replaceAll(/\n+/g, "\n");
  assert.equal(bare(withTables(text, reports)), bare(text), "write it anew with npm run bench -- --document");
});

test("no picture in docs/performance has a path of the machine that it was made on", async () => {
  for (const file of (await readdir(FOLDER)).filter((name) => name.endsWith(".svg"))) {
    const text = await readFile(join(FOLDER, file), "utf8");
    assert.ok(text.includes("microservices/"), file);
    assert.doesNotMatch(text, /file:|[( ]\/(?:home|root|tmp|usr|work|Users)\//, file);
  }
});
