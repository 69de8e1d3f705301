/** Where the programs of this package are, from source and from `dist/` alike. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { packageRoot } from "../lib/package-root.ts";

/**
 * V8 lets the space for new objects grow to three times 16 MiB the longer a process allocates; what a batch leaves behind is collected
 * just as well in half of it, and a chain's memory is the same after a million rows and after ten. The bundles are compiled under the same flag (`cli/bundle-programs.mjs`).
 */
const NODE_FLAGS: readonly string[] = ["--max-semi-space-size=8"];

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
  return [process.execPath, ...NODE_FLAGS, program];
}
