/** `docs/operations.md` and the code say the same: metrics that are made, findings of the doctor, settings that are named. */
import assert from "node:assert/strict";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { FINDING_IDS } from "../../cli/doctor/findings.ts";
import { packageRoot } from "../../lib/package-root.ts";
import { codeSpans, readPackageFile, tableOf } from "../support/markdown.ts";

const document = await readPackageFile("docs/operations.md");

/** Names given to a meter's `create…`, or to a function called like a kind of instrument. */
const MADE =
  /(?:create(?:Observable)?(?:Counter|Gauge|Histogram|UpDownCounter)|\b(?:counter|gauge|histogram))\(\s*"([a-z0-9_.]+)"/g;

async function metricsMade(): Promise<readonly string[]> {
  const names = new Set<string>();
  for (const folder of ["lib", "orchestrator", "agent", "sidecar", "sdk", "microservices"]) {
    const files = await readdir(join(packageRoot, folder), { recursive: true });
    for (const file of files.filter((path) => path.endsWith(".ts"))) {
      for (const [, name = ""] of (await readPackageFile(join(folder, file))).matchAll(MADE)) names.add(name);
    }
  }
  return [...names].sort();
}

function listed(title: string, column: string): readonly string[] {
  return tableOf(document, title).rows.map((row) => codeSpans(row[column] ?? "")[0] ?? "");
}

test("every metric that is made is listed, and no others", async () => {
  assert.deepEqual([...listed("Metrics", "Metric")].sort(), await metricsMade());
});

test("every finding of the doctor is listed, in its order, and no others", () => {
  assert.deepEqual(listed("What the doctor looks at", "Finding"), FINDING_IDS);
});

test("every setting that is named is one", async () => {
  const known = await readPackageFile("docs/configuration.md");
  const named = new Set(document.match(/\bDYNAMOS_[A-Z_]+\b/g));
  assert.deepEqual(
    [...named].filter((name) => !known.includes(`\`${name}\``)),
    [],
  );
});

test("every error code that is named is one", async () => {
  const known = await readPackageFile("docs/errors.md");
  const cells = tableOf(document, "What happens when something dies").rows.flatMap((row) =>
    codeSpans(row["The analyst gets"] ?? ""),
  );
  const codes = cells.filter(
    (span) => /^[a-z]+(_[a-z]+)+$|^(unavailable|internal)$/.test(span) && span !== "no_answer",
  );
  assert.ok(codes.length > 5);
  assert.deepEqual(
    codes.filter((code) => !known.includes(`| \`${code}\``)),
    [],
  );
});

test("every metric that an alarm asks for is one", () => {
  const prometheus = listed("Metrics", "Metric").map((name) => name.replace(/\./g, "_"));
  const alarms = /```text\n([^]*?)```/.exec(document)?.[1] ?? "";
  const asked = [...alarms.matchAll(/\b((?:dynamos|http_server|nodejs|process)_[a-z0-9_]+)/g)].map(
    ([, name = ""]) => name,
  );
  assert.ok(asked.length > 10);
  const isKnown = (name: string): boolean =>
    prometheus.some((known) => {
      const rest = name.startsWith(known) ? name.slice(known.length) : undefined;
      return rest !== undefined && /^(_seconds|_bytes|_ratio)?(_total|_bucket|_count|_sum)?$/.test(rest);
    });
  assert.deepEqual(
    asked.filter((name) => !isKnown(name)),
    ["http_response_status_code"].filter((label) => asked.includes(label)),
  );
});
