import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { copyFile, mkdir, readFile, writeFile } from "node:fs/promises";
import { delimiter, join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";
import { packageRoot } from "../../lib/package-root.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

test("a fresh checkout gets the compiler also where development packages are left out by default, and only once", async () => {
  const root = await temporaryFolder();
  const calls = join(root, "calls");
  await mkdir(join(root, "cli"));
  await mkdir(join(root, "bin"));
  await copyFile(join(packageRoot, "cli", "setup.mjs"), join(root, "cli", "setup.mjs"));
  await writeFile(
    join(root, "cli", "build.mjs"),
    `import { appendFileSync } from "node:fs"; appendFileSync(${JSON.stringify(calls)}, "build\\n");`,
  );
  await writeFile(join(root, "package-lock.json"), "{}");
  // Stands for npm: it would take minutes, and is not what is tried here.
  await writeFile(join(root, "bin", "npm"), `#!/bin/sh\necho "npm $*" >> '${calls}'\n`, { mode: 0o755 });
  const env = {
    ...process.env,
    NODE_ENV: "production",
    PATH: `${join(root, "bin")}${delimiter}${process.env["PATH"] ?? ""}`,
  };
  for (let time = 0; time < 2; time++) {
    await promisify(execFile)(process.execPath, [join(root, "cli", "setup.mjs")], { env });
  }
  const [install, ...builds] = (await readFile(calls, "utf8")).trim().split("\n");
  assert.match(install ?? "", /^npm ci .*--include=dev\b/);
  assert.deepEqual(builds, ["build", "build"]);
});
