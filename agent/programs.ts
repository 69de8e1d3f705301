/** Where the programs of this package are, from source and from `dist/` alike. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { packageRoot } from "../lib/package-root.ts";

/**
 * V8 lets its heap grow the longer a process allocates: the space for new objects to three times 16 MiB, and the rest to several times what
 * lived at the last collection, with the chunks that young objects keep outside of it. What a batch leaves behind is collected just as well
 * early, so that a chain's programs need nearly as much memory for one million rows as for ten. Whoever has many streams' chunks in
 * hand gets less for new objects: the less there is, the fewer chunks wait for their collection (docs/decisions/0025 has the numbers). The
 * bundles are compiled under the same flags (`cli/bundle-programs.mjs`).
 */
function nodeFlags(name: string): readonly string[] {
  const { semiSpaceMiB, growingPercent } = HEAPS.get(name) ?? { semiSpaceMiB: 4, growingPercent: 25 };
  return [`--max-semi-space-size=${semiSpaceMiB}`, `--heap-growing-percent=${growingPercent}`];
}

/** Semi-spaces are powers of two: V8 makes others into one. */
const HEAPS: ReadonlyMap<string, { readonly semiSpaceMiB: number; readonly growingPercent: number }> = new Map([
  ["sql-aggregate", { semiSpaceMiB: 1, growingPercent: 10 }],
  ["sidecar", { semiSpaceMiB: 2, growingPercent: 25 }],
]);

/**
 * The command of a program of this package that runs in a job: `sidecar`, or a microservice's folder name. The bundle is
 * taken where there is one, since it starts faster; for the same reason without source maps, which are a sixth of a chain's
 * processor time (names of functions stay in stack traces). A name that this package does not have gives a command whose
 * start fails by name.
 */
export function packageProgram(name: string): readonly string[] {
  const path = name === "sidecar" ? "sidecar/main" : `microservices/${name}/main`;
  const candidates = [`dist/bundle/${path}.js`, `dist/${path}.js`, `${path}.ts`].map((candidate) =>
    join(packageRoot, candidate),
  );
  const program = candidates.find((candidate) => existsSync(candidate)) ?? candidates[1] ?? path;
  return [process.execPath, ...nodeFlags(name), program];
}
