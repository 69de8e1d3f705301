// Builds: every source to `dist/` by the compiler, then the programs once more as bundles in `dist/bundle/` with compiled code
// beside them, which start in a fraction of the time: a chain starts several of them for each request, and an exchange a dozen
// services. Outputs of earlier builds that have no source any more are deleted.
import { spawnSync } from "node:child_process";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { removeOtherOutputs, removeStaleOutputs } from "./stale-outputs.mjs";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const compiler = join(root, "node_modules/typescript7/bin/tsc");
const compiled = spawnSync(process.execPath, [compiler, "-p", join(root, "tsconfig.json")], {
  stdio: ["ignore", 2, 2],
});
if (compiled.status !== 0) process.exit(compiled.status ?? 1);
removeStaleOutputs(root, join(root, "dist"));

const { bundlePrograms } = await import("./bundle-programs.mjs");
const outputs = await bundlePrograms(root);
// Afterwards rather than before, so that an exchange that runs from here finds its programs all the time.
removeOtherOutputs(join(root, "dist/bundle"), new Set(outputs));
