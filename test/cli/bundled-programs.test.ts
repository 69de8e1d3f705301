/** The programs as the build bundles them: with compiled code that V8 takes, and just as good without it. */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { copyFile, mkdir, readdir, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { basename, dirname, join, sep } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";
import { Script } from "node:vm";
import { packageProgram } from "../../agent/programs.ts";
import { serviceFlags } from "../../cli/exchange/service-process.ts";
import { packageRoot } from "../../lib/package-root.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const FOLDER = join(packageRoot, "dist", "bundle");
/** What sql-query runs it with; V8 takes code only under the flags under which it was compiled. */
const QUERY_FLAGS = ["--max-old-space-size=96", "--max-semi-space-size=2", "--heap-growing-percent=10"];
/** As a shell's command, or as a list in YAML or JSON: flags, and the launcher below the bundles' folder. */
const COMMAND = /\bnode"?((?:[\s,"]+--[^\s,"]+)*)[\s,"]+\S*dist\/bundle\/([\w/-]+\.js)/g;
const run = promisify(execFile);

test("V8 takes the compiled code of every bundled program under the flags that it runs with", async () => {
  const launchers = (await readdir(FOLDER, { recursive: true })).filter((file) => file.endsWith(".js"));
  assert.ok(launchers.includes(join("sidecar", "main.js")) && launchers.includes(join("agent", "main.js")));
  for (const launcher of launchers) {
    const { bundle, code } = await partsOf(join(FOLDER, launcher));
    const flags = flagsOf(launcher);
    if (flags.length === 0) {
      const script = new Script(await readFile(bundle, "latin1"), { cachedData: await readFile(code) });
      assert.equal(script.cachedDataRejected, false, launcher);
      continue;
    }
    const check = `const { readFileSync } = require("node:fs"); console.log(new (require("node:vm").Script)(
      readFileSync(${JSON.stringify(bundle)}, "latin1"), { cachedData: readFileSync(${JSON.stringify(code)}) }).cachedDataRejected)`;
    assert.equal((await run(process.execPath, [...flags, "-e", check])).stdout, "false\n", launcher);
  }
});

test("wherever a bundled program's command is written down, it has the flags under which the program was compiled", async () => {
  const texts = await Promise.all(["docs", "charts"].map((folder) => textsBelow(folder)));
  const agents: string[] = [];
  for (const file of ["Dockerfile", "README.md", "CONTRIBUTING.md", ...texts.flat()]) {
    const text = await readFile(join(packageRoot, file), "utf8");
    for (const [command, flags = "", launcher = ""] of text.matchAll(COMMAND)) {
      const parts = launcher.split("/");
      assert.deepEqual(flags.match(/--[^\s,"]+/g) ?? [], flagsOf(join(...parts)), `${file}: ${command}`);
      if (parts[0] === "agent") agents.push(file);
    }
  }
  assert.deepEqual(agents.sort(), ["Dockerfile", join("charts", "agent", "templates", "statefulset.yaml")].sort());
});

test("no bundled program imports by itself: scripts with compiled code cannot", async () => {
  const launchers = (await readdir(FOLDER, { recursive: true })).filter((file) => file.endsWith(".js"));
  for (const launcher of launchers) {
    const { bundle } = await partsOf(join(FOLDER, launcher));
    assert.doesNotMatch(await readFile(bundle, "latin1"), /(?<![.\w$])import\(/, launcher);
  }
});

for (const [what, spoil] of [
  ["that is not there", (code: string) => rm(code)],
  ["of another version of V8", (code: string) => writeFile(code, Buffer.alloc(64_000, 7))],
  ["that is cut off", (code: string) => truncate(code, 64_000)],
] as const) {
  test(`a program with compiled code ${what} starts all the same`, async () => {
    const launcher = await copyOf(join(FOLDER, "sidecar", "main.js"));
    const sound = await startWithoutSettings(launcher);
    assert.match(sound, /DYNAMOS_BUS: missing/);
    await spoil((await partsOf(launcher)).code);
    assert.equal(await startWithoutSettings(launcher), sound);
  });
}

/** What a program is run with. */
function flagsOf(launcher: string): readonly string[] {
  if (basename(launcher) === "query-child.js") return QUERY_FLAGS;
  const [folder = "", name = ""] = launcher.split(sep);
  const program = folder === "sidecar" ? "sidecar" : name;
  if (folder === "agent") return serviceFlags("agent/main");
  const isInChain = (folder === "microservices" || folder === "sidecar") && basename(launcher) === "main.js";
  return isInChain ? packageProgram(program).slice(1, -1) : [];
}

/** Documents and templates below a folder of the package, from its root. */
async function textsBelow(folder: string): Promise<string[]> {
  const files = await readdir(join(packageRoot, folder), { recursive: true });
  return files.filter((file) => /\.(?:md|ya?ml|tpl|json)$/.test(file)).map((file) => join(folder, file));
}

/** A launcher's program, and the file of what this Node.js's V8 compiled of it. */
async function partsOf(launcher: string): Promise<{ readonly bundle: string; readonly code: string }> {
  const name = /\$\{__dirname\}\/([^`]+)`/.exec(await readFile(launcher, "utf8"))?.[1] ?? "";
  const bundle = join(dirname(launcher), name);
  return { bundle: `${bundle}.cjs`, code: `${bundle}.${process.version}-${process.arch}.code` };
}

/** The same program in a folder of its own, below this package, whose other packages it finds there. */
async function copyOf(launcher: string): Promise<string> {
  const folder = await temporaryFolder();
  await mkdir(folder, { recursive: true });
  const { bundle, code } = await partsOf(launcher);
  for (const file of [launcher, bundle, code]) await copyFile(file, join(folder, basename(file)));
  return join(folder, basename(launcher));
}

/** What it says of its settings, of which it has none. */
async function startWithoutSettings(launcher: string): Promise<string> {
  const failure = await run(process.execPath, [launcher], { env: {} }).then(
    () => assert.fail("it started without settings"),
    (error: unknown) => error as { readonly stderr: string },
  );
  return /settings: \[[^\]]+\]/.exec(failure.stderr)?.[0] ?? failure.stderr;
}
