/**
 * Runs the tests: `npm test` all of them, `npm test -- contract system/cancel` those whose path has one of the words. First the
 * parts, two files at a time; then the system tests and the documentation, one at a time, since each starts whole exchanges.
 * With `CI=true` a skipped test is a failure: there, everything that a test needs is installed.
 */
import { readdirSync } from "node:fs";
import { join, relative } from "node:path";
import { run } from "node:test";
import { spec } from "node:test/reporters";
import { packageRoot } from "../../lib/package-root.ts";

const TEST_FOLDER = join(packageRoot, "dist", "test");
/** No single test file may take longer. */
const FILE_TIMEOUT_MS = 600_000;

const words = process.argv.slice(2);
const files = readdirSync(TEST_FOLDER, { recursive: true, encoding: "utf8" })
  .filter((file) => file.endsWith(".test.js"))
  .filter((file) => words.length === 0 || words.some((word) => file.includes(word)))
  .sort();
if (files.length === 0) {
  console.error(`No test file has ${words.map((word) => `"${word}"`).join(" or ")} in its path.`);
  process.exit(1);
}

const isWholeSystem = (file: string): boolean => /^(system|docs|cluster)[/\\]/.test(file);
const failed: string[] = [];
const skipped: string[] = [];
await runFiles(
  files.filter((file) => !isWholeSystem(file)),
  2,
);
await runFiles(files.filter(isWholeSystem), 1);

for (const name of skipped) console.log(`skipped: ${name}`);
for (const name of failed) console.log(`failed: ${name}`);
const skipFails = process.env["CI"] === "true" && skipped.length > 0;
if (skipFails) console.log("A skipped test is a failure in CI.");
process.exit(failed.length > 0 || skipFails ? 1 : 0);

async function runFiles(some: readonly string[], concurrency: number): Promise<void> {
  if (some.length === 0) return;
  const stream = run({ files: some.map((file) => join(TEST_FOLDER, file)), concurrency, timeout: FILE_TIMEOUT_MS });
  stream.on("test:fail", ({ name, file }) => failed.push(describe(name, file)));
  stream.on("test:pass", ({ name, file, skip }) => {
    if (skip !== undefined && skip !== false) skipped.push(`${describe(name, file)} (${String(skip)})`);
  });
  const finished = new Promise<void>((resolve, reject) => stream.on("end", resolve).on("error", reject));
  stream.pipe(new spec()).pipe(process.stdout, { end: false });
  await finished;
}

function describe(name: string, file: string | undefined): string {
  return file === undefined ? name : `${relative(TEST_FOLDER, file)}: ${name}`;
}
