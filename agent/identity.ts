/** A steward's keys: one signs grants (decision 12), one makes perturbation and pseudonyms repeatable (decision 16). */
import { randomBytes, randomUUID } from "node:crypto";
import { join } from "node:path";
import { exportJWK, generateKeyPair, type JWK } from "jose";
import { AppError } from "../lib/errors.ts";
import { privateJwk } from "../lib/private-keys.ts";
import { loadOrCreateSecretFile, readSecretFile } from "../lib/secret-files.ts";

/** The keys of one steward, shared by its agent's replicas. */
export interface StewardKeys {
  /** Private Ed25519 key. */
  readonly grantKey: JWK;
  /** Its public half, which others check grants with. */
  readonly publicGrantKey: JWK;
  /** File with 32 random bytes in hexadecimal. Chains get its path, never its content by environment. */
  readonly anonymizationKeyFile: string;
}

/**
 * Reads the keys from a folder, which may be a mounted Secret; made at the first start where they are not there. The grant key is
 * `grant-key.json`, or `grant-key.pem` (PKCS #8), which is known by its thumbprint.
 *
 * @throws AppError `configuration_invalid`, naming the file, where a key is no good or cannot be made.
 */
export async function loadStewardKeys(folder: string): Promise<StewardKeys> {
  const grantKey = await loadGrantKey(folder);
  const anonymizationKeyFile = join(folder, "anonymization-key");
  const anonymizationKey = await loadOrCreateSecretFile(anonymizationKeyFile, () => randomBytes(32).toString("hex"));
  if (!/^[0-9a-f]{64,}\s*$/i.test(anonymizationKey)) {
    throw new AppError(
      "configuration_invalid",
      `The file ${anonymizationKeyFile} holds no key: it is to be 32 random bytes in hexadecimal ("openssl rand -hex 32").`,
      { place: { file: anonymizationKeyFile } },
    );
  }
  const { kty, crv, x, kid, alg, use } = grantKey;
  const publicGrantKey = Object.fromEntries(
    Object.entries({ kty, crv, x, kid, alg, use }).filter(([, value]) => value !== undefined),
  ) as JWK;
  return { grantKey, publicGrantKey, anonymizationKeyFile };
}

async function loadGrantKey(folder: string): Promise<JWK> {
  const jsonFile = join(folder, "grant-key.json");
  const json = await readSecretFile(jsonFile);
  if (json !== undefined) return JSON.parse(json) as JWK;
  const pemFile = join(folder, "grant-key.pem");
  const pem = await readSecretFile(pemFile);
  if (pem !== undefined) return privateJwk(pem, pemFile, ["EdDSA"]);
  return JSON.parse(await loadOrCreateSecretFile(jsonFile, makeGrantKey)) as JWK;
}

async function makeGrantKey(): Promise<string> {
  const { privateKey } = await generateKeyPair("EdDSA", { crv: "Ed25519", extractable: true });
  return JSON.stringify({ ...(await exportJWK(privateKey)), kid: randomUUID(), alg: "EdDSA", use: "sig" });
}
