/** The folder that holds `package.json`, `configuration/` and `proto/`, from source and from `dist/` alike; and the version there. */
import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const found = findPackage(dirname(fileURLToPath(import.meta.url)));

/** Absolute path of the package's root folder. */
export const packageRoot: string = found.folder;

/** The version of this package: what `/ready` tells, so that parts of different versions are noticed. */
export const packageVersion: string = found.version;

function findPackage(folder: string): { readonly folder: string; readonly version: string } {
  const file = join(folder, "package.json");
  // Bundled programs have a package.json of their own beside them, of no version.
  const { version } = existsSync(file) ? (JSON.parse(readFileSync(file, "utf8")) as { readonly version?: string }) : {};
  if (version !== undefined) return { folder, version };
  const parent = dirname(folder);
  if (parent === folder) throw new Error("No package.json above the program: the installation is incomplete.");
  return findPackage(parent);
}
