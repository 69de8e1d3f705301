import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { test } from "node:test";
import { promisify } from "node:util";
import { temporaryFolder } from "./temporary-folder.ts";

const run = promisify(execFile);

test("temporary folders are different and exist", async () => {
  const [first, second] = [await temporaryFolder(), await temporaryFolder()];
  assert.notEqual(first, second);
  assert.ok(existsSync(first) && existsSync(second));
});

test("a temporary folder goes away with its contents when its process ends, also by a failure", async () => {
  const module = new URL("temporary-folder.js", import.meta.url).href;
  const program = `
    import { writeFileSync } from "node:fs";
    const { temporaryFolder } = await import(${JSON.stringify(module)});
    const folder = await temporaryFolder();
    writeFileSync(folder + "/file", "content");
    console.log(folder);
    throw new Error("on purpose");`;
  const failure = await run(process.execPath, ["--input-type=module", "-e", program]).then(
    () => assert.fail("it was to fail"),
    (error: Error & { stdout: string }) => error,
  );
  const folder = failure.stdout.trim();
  assert.match(folder, /dynamos-test-/);
  assert.ok(!existsSync(folder));
});
