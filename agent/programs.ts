/** Where the programs of this package are, from source and from `dist/` alike. */
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";

/**
 * The command of a program of this package that runs in a job: `sidecar`, or a microservice's folder name. The bundle is
 * taken where there is one, since it starts faster; for the same reason without source maps, which are a sixth of a chain's
 * processor time (names of functions stay in stack traces). A name that this package does not have gives a command whose
 * start fails by name.
 */
export function packageProgram(name: string): readonly string[] {
  const path = name === "sidecar" ? "sidecar/main" : `microservices/${name}/main`;
  const candidates = [`../bundle/${path}.js`, `../${path}.js`, `../${path}.ts`].map((candidate) =>
    fileURLToPath(new URL(candidate, import.meta.url)),
  );
  const program = candidates.find((candidate) => existsSync(candidate)) ?? candidates[1] ?? path;
  return [process.execPath, program];
}
