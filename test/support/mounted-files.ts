/** Files as a kubelet mounts a Secret: links through `..data`, which is swapped as a whole when the Secret changes. */
import { mkdir, readFile, rename, rm, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { temporaryFolder } from "./temporary-folder.ts";

/** See the file comment. */
export class MountedFiles {
  readonly folder: string;
  #version = 0;

  private constructor(folder: string) {
    this.folder = folder;
  }

  /** A mount with these files: name to content. */
  static async make(files: Readonly<Record<string, string | Buffer>>): Promise<MountedFiles> {
    const mounted = new MountedFiles(await temporaryFolder());
    await mounted.swap(files);
    for (const name of Object.keys(files)) await symlink(join("..data", name), mounted.path(name));
    return mounted;
  }

  /** The path of a file, which stays the same. */
  path(name: string): string {
    return join(this.folder, name);
  }

  /** All files at once get other contents, as by the kubelet's atomic writer. */
  async swap(files: Readonly<Record<string, string | Buffer>>): Promise<void> {
    const version = `..version_${String(++this.#version)}`;
    await mkdir(join(this.folder, version));
    for (const [name, content] of Object.entries(files)) await writeFile(join(this.folder, version, name), content);
    await symlink(version, join(this.folder, "..data_tmp"));
    await rename(join(this.folder, "..data_tmp"), join(this.folder, "..data"));
    if (this.#version > 1) await rm(join(this.folder, `..version_${String(this.#version - 1)}`), { recursive: true });
  }
}

/** The pair of a certificate under the names that a Secret of type `kubernetes.io/tls` has. */
export async function tlsSecret({
  certFile,
  keyFile,
}: {
  readonly certFile: string;
  readonly keyFile: string;
}): Promise<Record<"tls.crt" | "tls.key", Buffer>> {
  return { "tls.crt": await readFile(certFile), "tls.key": await readFile(keyFile) };
}
