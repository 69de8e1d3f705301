/** Key files: made once, by whichever process comes first, and readable by their owner only. */
import { randomBytes } from "node:crypto";
import { link, mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { dirname } from "node:path";
import { AppError } from "./errors.ts";

/**
 * The text of a key file; made if it is not there. Two processes at once end with the same text: the file appears whole
 * under its name, by a hard link, or not at all.
 *
 * @param make produces the text of a new file.
 */
export async function loadOrCreateSecretFile(path: string, make: () => Promise<string> | string): Promise<string> {
  const existing = await readIfThere(path);
  if (existing !== undefined) return existing;
  await mkdir(dirname(path), { recursive: true, mode: 0o700 });
  const draft = `${path}.${randomBytes(6).toString("hex")}`;
  try {
    await writeFile(draft, await make(), { mode: 0o600, flag: "wx" });
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

async function readIfThere(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    if (isCode(error, "ENOENT")) return undefined;
    throw error;
  }
}

function isCode(error: unknown, code: string): boolean {
  return error instanceof Error && "code" in error && error.code === code;
}
