/** Where the programs of this package are, from source and from `dist/` alike. */
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";

/**
 * The command of a program of this package that runs in a job: `sidecar`, or a microservice's folder name. A name that this
 * package does not have gives a command whose start fails by name.
 */
export function packageProgram(name: string): readonly string[] {
  const path = name === "sidecar" ? "../sidecar/main" : `../microservices/${name}/main`;
  const built = fileURLToPath(new URL(`${path}.js`, import.meta.url));
  return [
    process.execPath,
    "--enable-source-maps",
    existsSync(built) ? built : fileURLToPath(new URL(`${path}.ts`, import.meta.url)),
  ];
}
