/** Key files: made once, by whichever process comes first, and readable by their owner only. */
import { randomBytes } from "node:crypto";
import { link, mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { dirname } from "node:path";
import { AppError } from "./errors.ts";

const NOT_WRITABLE = ["EROFS", "EACCES", "EPERM"];

/**
 * The text of a key file; made if it is not there. Two processes at once end with the same text: the file appears whole
 * under its name, by a hard link, or not at all.
 *
 * @param make produces the text of a new file.
 * @throws AppError `configuration_invalid`, naming the file, where it cannot be read, or is not there and cannot be made, as in a
 * folder that is read-only.
 */
export async function loadOrCreateSecretFile(path: string, make: () => Promise<string> | string): Promise<string> {
  const existing = await readSecretFile(path);
  if (existing !== undefined) return existing;
  const text = await make();
  try {
    return await createSecretFile(path, text);
  } catch (cause) {
    if (!NOT_WRITABLE.some((code) => isCode(cause, code))) throw cause;
    throw new AppError(
      "configuration_invalid",
      `The file ${path} is not there, and cannot be made, since its folder is not writable: put it there.`,
      { cause, place: { file: path } },
    );
  }
}

/** The text of a key file; undefined where there is none. `configuration_invalid` where it cannot be read. */
export async function readSecretFile(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, "utf8");
  } catch (cause) {
    if (isCode(cause, "ENOENT")) return undefined;
    const code = (cause as NodeJS.ErrnoException).code ?? "unknown error";
    throw new AppError("configuration_invalid", `The key file ${path} cannot be read: ${code}.`, {
      cause,
      place: { file: path },
    });
  }
}

async function createSecretFile(path: string, text: string): Promise<string> {
  await mkdir(dirname(path), { recursive: true, mode: 0o700 });
  const draft = `${path}.${randomBytes(6).toString("hex")}`;
  try {
    await writeFile(draft, text, { mode: 0o600, flag: "wx" });
    try {
      await link(draft, path);
    } catch (error) {
      if (!isCode(error, "EEXIST")) throw error;
    }
  } finally {
    await rm(draft, { force: true });
  }
  return readFile(path, "utf8");
}

/**
 * The secret in a file that people write: without the line break at its end.
 *
 * @throws AppError `configuration_invalid` naming a file that cannot be read.
 */
export async function secretFileText(path: string): Promise<string> {
  try {
    return (await readFile(path, "utf8")).replace(/\r?\n$/, "");
  } catch (cause) {
    throw new AppError("configuration_invalid", `The password file "${path}" cannot be read.`, {
      cause,
      place: { file: path },
    });
  }
}

/** Writes a secret under its name in one step, readable by the owner only, in place of what was there. */
export async function replaceSecretFile(path: string, text: string): Promise<void> {
  const draft = `${path}.${randomBytes(6).toString("hex")}`;
  try {
    await writeFile(draft, text, { mode: 0o600, flag: "wx" });
    await rename(draft, path);
  } finally {
    await rm(draft, { force: true });
  }
}

function isCode(error: unknown, code: string): boolean {
  return error instanceof Error && "code" in error && error.code === code;
}
