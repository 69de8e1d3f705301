/**
 * The keys of the orchestrator's replicas: one signs tokens, others may only check them, and one lets admins in.
 *
 * They are taken from `keys/` in the state folder, where a mounted Secret may lie, read-only; what is not there is made at the
 * first start, in the state folder itself.
 *
 * | File | Is |
 * |---|---|
 * | `keys/signing-key.pem`, `keys/signing-key.json` | the key that signs |
 * | `keys/signing-key-<anything>.pem`, `….json` | published, and signs nothing: the next key, or the one before |
 * | `keys/admin-key` | the admin key |
 */
import { randomBytes } from "node:crypto";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import type { JWK } from "jose";
import { AppError } from "../lib/errors.ts";
import { privateJwk } from "../lib/private-keys.ts";
import { loadOrCreateSecretFile } from "../lib/secret-files.ts";
import { loadOrCreateSigningKey } from "../lib/tokens.ts";

/** See the file comment. */
export interface OrchestratorKeys {
  readonly signingKey: JWK;
  /** All whose tokens count, the one that signs first. */
  readonly publishedKeys: readonly JWK[];
  readonly adminKey: string;
}

const SIGNING_KEY = /^signing-key(-.+)?\.(pem|json)$/;

/** Reads the keys of a state folder. `configuration_invalid`, naming the file, where one is no good or cannot be made. */
export async function loadOrchestratorKeys(stateFolder: string): Promise<OrchestratorKeys> {
  const folder = join(stateFolder, "keys");
  const names = await namesIn(folder);
  const [signing, ...others] = orderOfUse(names, folder);
  const signingKey =
    signing === undefined
      ? await loadOrCreateSigningKey(join(stateFolder, "signing-key.json"))
      : await readKey(join(folder, signing));
  const publishedKeys = [signingKey, ...(await Promise.all(others.map((name) => readKey(join(folder, name)))))];
  return { signingKey, publishedKeys, adminKey: await readAdminKey(stateFolder, names) };
}

/** The key that signs, then those that are only published. */
function orderOfUse(names: readonly string[], folder: string): readonly string[] {
  const keys = names.filter((name) => SIGNING_KEY.test(name)).sort();
  const signing = keys.filter((name) => SIGNING_KEY.exec(name)?.[1] === undefined);
  if (signing.length === 1 || keys.length === 0) return [...new Set([...signing, ...keys])];
  const fault = signing.length > 1 ? `more than one key that signs: ${signing.join(" and ")}` : "none that signs";
  throw new AppError(
    "configuration_invalid",
    `The folder ${folder} has ${fault}. Keep one as signing-key.pem; others are to be called signing-key-<anything>.pem.`,
    { place: { file: folder } },
  );
}

function readKey(path: string): Promise<JWK> {
  // It is there: nothing is made.
  return path.endsWith(".json")
    ? loadOrCreateSigningKey(path)
    : readFile(path, "utf8").then(
        (pem) => privateJwk(pem, path),
        (cause: unknown) => {
          throw new AppError("configuration_invalid", `The key file ${path} cannot be read.`, {
            cause,
            place: { file: path },
          });
        },
      );
}

async function readAdminKey(stateFolder: string, names: readonly string[]): Promise<string> {
  const path = names.includes("admin-key") ? join(stateFolder, "keys", "admin-key") : join(stateFolder, "admin-key");
  const key = (await loadOrCreateSecretFile(path, () => `${randomBytes(24).toString("hex")}\n`)).trim();
  if (key !== "") return key;
  throw new AppError("configuration_invalid", `The admin key in ${path} is empty: with it anybody would be an admin.`, {
    place: { file: path },
  });
}

async function namesIn(folder: string): Promise<readonly string[]> {
  try {
    return await readdir(folder);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw new AppError("configuration_invalid", `The folder of keys ${folder} cannot be read.`, {
      cause,
      place: { file: folder },
    });
  }
}
