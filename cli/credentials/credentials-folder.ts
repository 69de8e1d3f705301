/**
 * One folder with everything that a part needs to come in at store and broker: fit to be one Secret, or two where chains have a
 * user of their own (`chain/`).
 *
 * `settings.env` has the URLs, which hold no password but name the files beside it: `store-password`, `bus-password`,
 * `store-ca.pem`, `bus-ca.pem`.
 */
import { mkdir, readFile } from "node:fs/promises";
import { join, posix, resolve } from "node:path";
import { AppError } from "../../lib/errors.ts";
import { replaceSecretFile } from "../../lib/secret-files.ts";

/** Whose secrets a file is about. */
export type Service = "store" | "bus";

/** Paths of one service's files. */
export interface ServiceFiles {
  readonly passwordFile: string;
  readonly caFile?: string;
}

/** See the file comment. */
export class CredentialsFolder {
  readonly #path: string;
  /** Where the programs that use it will find it. */
  readonly #mount: string;
  readonly #authorities = new Set<Service>();

  private constructor(path: string, mount: string | undefined) {
    this.#path = path;
    this.#mount = mount ?? path;
  }

  /** Makes the folder, for its owner only. `mount`: where its users will see it; absent: where it is. */
  static async make(path: string, mount?: string): Promise<CredentialsFolder> {
    const folder = new CredentialsFolder(resolve(path), mount);
    try {
      await mkdir(folder.#path, { recursive: true, mode: 0o700 });
    } catch (cause) {
      throw unwritable(folder.#path, cause);
    }
    return folder;
  }

  /** The folder below it. */
  below(name: string): Promise<CredentialsFolder> {
    return CredentialsFolder.make(join(this.#path, name), posix.join(this.#mount, name));
  }

  /** Puts a copy of the authorities' certificates into it, where there are any. */
  async addAuthorities(service: Service, caFile: string | undefined): Promise<void> {
    if (caFile === undefined) return;
    await this.#write(`${service}-ca.pem`, await readCertificates(caFile));
    this.#authorities.add(service);
  }

  /** Puts a password into it, in place of an earlier one. */
  addPassword(service: Service, password: string): Promise<void> {
    return this.#write(`${service}-password`, `${password}\n`);
  }

  /** Puts the settings into it. */
  addSettings(settings: Readonly<Record<string, string>>): Promise<void> {
    const lines = Object.entries(settings).map(([name, value]) => `${name}=${value}\n`);
    return this.#write("settings.env", lines.join(""));
  }

  /** A service's files as their users will see them; `isHere`: as we do. */
  files(service: Service, isHere = false): ServiceFiles {
    const at = (name: string): string => (isHere ? join(this.#path, name) : posix.join(this.#mount, name));
    const passwordFile = at(`${service}-password`);
    return this.#authorities.has(service) ? { passwordFile, caFile: at(`${service}-ca.pem`) } : { passwordFile };
  }

  async #write(name: string, text: string): Promise<void> {
    const path = join(this.#path, name);
    try {
      await replaceSecretFile(path, text);
    } catch (cause) {
      throw unwritable(path, cause);
    }
  }
}

async function readCertificates(path: string): Promise<string> {
  try {
    return await readFile(path, "utf8");
  } catch (cause) {
    throw new AppError("configuration_invalid", `The caFile "${path}" cannot be read.`, {
      cause,
      place: { file: path },
    });
  }
}

function unwritable(path: string, cause: unknown): AppError {
  const code = (cause as NodeJS.ErrnoException).code ?? "unknown error";
  return new AppError("configuration_invalid", `${path} cannot be written (${code}): name another folder with --out.`, {
    cause,
    place: { file: path },
  });
}
