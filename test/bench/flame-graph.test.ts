/** `node dist/bench/flame-graph.js PROGRAM OUT.svg PROFILES…`, as docs/performance.md runs it. */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { before, test } from "node:test";
import { promisify } from "node:util";
import { packageRoot } from "../../lib/package-root.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const run = promisify(execFile);
const FLAME_GRAPH = join(packageRoot, "dist", "bench", "flame-graph.js");
const PROGRAM = "cli/main";
let folder = "";
let profile = "";

before(async () => {
  folder = await temporaryFolder();
  const program = join(packageRoot, "dist", `${PROGRAM}.js`);
  await run(process.execPath, ["--cpu-prof", `--cpu-prof-dir=${folder}`, program], { cwd: folder }).catch(
    () => undefined,
  );
  profile = join(folder, (await readdir(folder)).find((file) => file.endsWith(".cpuprofile")) ?? "");
});

test("a profile becomes a picture that names functions by their place in the project, and no path of the machine", async () => {
  const picture = join(folder, "picture.svg");
  await run(process.execPath, [FLAME_GRAPH, PROGRAM, picture, profile]);
  const svg = await readFile(picture, "utf8");
  assert.match(svg, /^<svg[^]*\((?:cli|lib|node)[^]*<\/svg>\s*$/);
  assert.ok(!svg.includes(packageRoot) && !svg.includes(folder));
});

test("instead of a picture, it prints the hottest functions", async () => {
  const { stdout } = await run(process.execPath, [FLAME_GRAPH, PROGRAM, "-", profile]);
  const shares = stdout
    .trim()
    .split("\n")
    .map((line) => /^ *([0-9.]+) % {2}\S/.exec(line)?.[1]);
  assert.ok(shares.length > 3 && shares.every((share) => share !== undefined), stdout);
  assert.deepEqual(
    shares.map(Number),
    shares.map(Number).sort((a, b) => b - a),
  );
});
