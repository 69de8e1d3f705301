import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdir, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { pathToFileURL } from "node:url";
import { promisify } from "node:util";
import { packageRoot } from "../../lib/package-root.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const MODULE = pathToFileURL(join(packageRoot, "cli", "stale-outputs.mjs")).href;

test("outputs whose source is gone are deleted; what has a source, the bundles and other files stay", async () => {
  const root = await folderWith([
    "test/here.test.ts",
    "dist/test/here.test.js",
    "dist/test/here.test.js.map",
    "dist/test/gone.test.js",
    "dist/test/gone.test.js.map",
    "dist/lib/gone/deep.js",
    "dist/bundle/chunk.js",
    "dist/.tsbuildinfo",
  ]);
  const removed = await evaluate(`removeStaleOutputs(${JSON.stringify(root)}, ${JSON.stringify(join(root, "dist"))})`);
  assert.deepEqual(removed, ["lib/gone/deep.js", "test/gone.test.js", "test/gone.test.js.map"]);
  for (const file of removed) assert.ok(!existsSync(join(root, "dist", file)), file);
  for (const file of ["test/here.test.js", "test/here.test.js.map", "bundle/chunk.js", ".tsbuildinfo"]) {
    assert.ok(existsSync(join(root, "dist", file)), file);
  }
});

test("where nothing has been built yet nothing is deleted", async () => {
  const root = await folderWith(["lib/a.ts"]);
  const removed = await evaluate(`removeStaleOutputs(${JSON.stringify(root)}, ${JSON.stringify(join(root, "dist"))})`);
  assert.deepEqual(removed, []);
});

test("bundles that the last build did not make are deleted", async () => {
  const folder = await folderWith(["sidecar/main.js", "chunk-OLD.js", "chunk-OLD.js.map", "chunk-NEW.js"]);
  const kept = [join(folder, "sidecar/main.js"), join(folder, "chunk-NEW.js")];
  const removed = await evaluate(`removeOtherOutputs(${JSON.stringify(folder)}, new Set(${JSON.stringify(kept)}))`);
  assert.deepEqual(removed, ["chunk-OLD.js", "chunk-OLD.js.map"]);
  assert.ok(kept.every((file) => existsSync(file)));
});

async function folderWith(files: readonly string[]): Promise<string> {
  const root = await temporaryFolder();
  for (const file of files) {
    await mkdir(dirname(join(root, file)), { recursive: true });
    await writeFile(join(root, file), "");
  }
  return root;
}

/** The value of an expression over the module, which is plain JavaScript without types and so runs in a process of its own. */
async function evaluate(expression: string): Promise<string[]> {
  const program = `import { removeOtherOutputs, removeStaleOutputs } from ${JSON.stringify(MODULE)}; console.log(JSON.stringify(${expression}));`;
  const { stdout } = await promisify(execFile)(process.execPath, ["--input-type=module", "-e", program]);
  return JSON.parse(stdout) as string[];
}
