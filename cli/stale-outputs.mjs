// What earlier builds left in `dist/` and no source makes any more. The compiler leaves it there, and a test whose source is
// gone would go on running.
import { existsSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";

const OUTPUT = /\.js(\.map)?$/;
const BUNDLE_OUTPUT = /\.(c?js(\.map)?|code)$/;

/** Deletes the compiler's outputs in `dist` whose TypeScript under `root` is gone; not the bundles. Gives their paths in `dist`. */
export function removeStaleOutputs(root, dist) {
  return removeFiles(dist, OUTPUT, (file) => {
    if (/^bundle[/\\]/.test(file)) return false;
    return !existsSync(join(root, file.replace(OUTPUT, ".ts")));
  });
}

/** Deletes the outputs in `folder` but those in the set `kept`, whose paths are absolute. Gives their paths in `folder`. */
export function removeOtherOutputs(folder, kept) {
  return removeFiles(folder, BUNDLE_OUTPUT, (file) => !kept.has(join(folder, file)));
}

function removeFiles(folder, kind, isStale) {
  if (!existsSync(folder)) return [];
  const stale = readdirSync(folder, { recursive: true, encoding: "utf8" })
    .filter((file) => kind.test(file) && isStale(file))
    .sort();
  for (const file of stale) rmSync(join(folder, file), { force: true });
  return stale;
}
