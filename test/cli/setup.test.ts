import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { copyFile, mkdir, readFile, writeFile } from "node:fs/promises";
import { delimiter, join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";
import { packageRoot } from "../../lib/package-root.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

for (const [version, why] of [
  ["18.20.4", "too old"],
  ["20.18.3", "too old"],
  ["24.19.0", "too new"],
  ["26.1.0", "too new"],
] as const) {
  test(`Node ${version} is refused with a sentence, before anything is installed`, async () => {
    const pretend = `Object.defineProperty(process, "versions", { value: { ...process.versions, node: "${version}" } });`;
    const { status, stderr } = await failureOf([
      "--import",
      `data:text/javascript,${encodeURIComponent(pretend)}`,
      await setupAlone(),
    ]);
    assert.equal(status, 1);
    assert.match(stderr, new RegExp(`^Node ${version} is ${why}: .*\\.\n$`));
  });
}

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

/** `setup.mjs` in a folder without anything that it could install or build. */
async function setupAlone(): Promise<string> {
  const folder = join(await temporaryFolder(), "cli");
  await mkdir(folder);
  await copyFile(join(packageRoot, "cli", "setup.mjs"), join(folder, "setup.mjs"));
  return join(folder, "setup.mjs");
}

async function failureOf(args: readonly string[]): Promise<{ status: number | undefined; stderr: string }> {
  try {
    await promisify(execFile)(process.execPath, args);
  } catch (thrown) {
    const { code, stderr } = thrown as { code?: number; stderr: string };
    return { status: code, stderr };
  }
  return assert.fail("it was to fail");
}
