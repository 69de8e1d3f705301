/** The folder that holds `package.json`, `configuration/` and `proto/`, from source and from `dist/` alike; and the version there. */
import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

/** Absolute path of the package's root folder. */
export const packageRoot: string = findPackageRoot(dirname(fileURLToPath(import.meta.url)));

/** The version of this package: what `/ready` tells, so that parts of different versions are noticed. */
export const packageVersion: string = (
  JSON.parse(readFileSync(join(packageRoot, "package.json"), "utf8")) as { readonly version: string }
).version;

function findPackageRoot(folder: string): string {
  // Bundled programs have a package.json of their own beside them.
  if (existsSync(join(folder, "package.json")) && existsSync(join(folder, "proto"))) return folder;
  const parent = dirname(folder);
  if (parent === folder) throw new Error("No package.json above the program: the installation is incomplete.");
  return findPackageRoot(parent);
}
