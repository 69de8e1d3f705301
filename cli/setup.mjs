// Makes a fresh checkout ready: installs packages when the lock file asks for others than are there, and builds, which is
// incremental: about a second where nothing has changed. Plain JavaScript without imports from npm, since it runs before anything is installed.
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const [major, minor] = process.versions.node.split(".").map(Number);
if (major < 20 || (major === 20 && minor < 19)) {
  console.error(`Node ${process.versions.node} is too old: this needs 20.19 or later.`);
  process.exit(1);
}
// From 24.19 on, Node's own headers make every statement of better-sqlite3 12 abort the process when it is collected; its
// version 13 does without them, but cannot be loaded by Node 20 (WiseLibs/better-sqlite3, issues 1514 and 1515).
if (major > 24 || (major === 24 && minor >= 19)) {
  console.error(
    `Node ${process.versions.node} is too new: better-sqlite3 aborts under it. Use Node 22, or 20.19 or later.`,
  );
  process.exit(1);
}

const lockHash = createHash("sha256")
  .update(readFileSync(join(root, "package-lock.json")))
  .update(process.versions.modules)
  .digest("hex");
const stamp = join(root, "node_modules", ".dynamos-lock");
if (!existsSync(stamp) || readFileSync(stamp, "utf8") !== lockHash) {
  console.error("Installing packages (once; compiling better-sqlite3 may take two minutes) …");
  // The compiler is a development dependency, which npm leaves out where NODE_ENV is "production".
  run("npm", ["ci", "--include=dev", "--no-audit", "--no-fund"]);
  mkdirSync(dirname(stamp), { recursive: true });
  writeFileSync(stamp, lockHash);
}
run(process.execPath, [join(root, "cli/build.mjs")]);

/** Runs a step with its output on standard error, and ends with its exit code where it fails. */
function run(command, args) {
  const result = spawnSync(command, args, {
    cwd: root,
    stdio: ["ignore", 2, 2],
    shell: process.platform === "win32" && command === "npm",
  });
  if (result.error) console.error(`Cannot run ${command}: ${result.error.message}`);
  if (result.status !== 0) process.exit(result.status ?? 1);
}
