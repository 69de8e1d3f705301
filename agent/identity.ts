/** A steward's keys: one signs grants (decision 12), one makes perturbation and pseudonyms repeatable (decision 16). */
import { randomBytes, randomUUID } from "node:crypto";
import { join } from "node:path";
import { exportJWK, generateKeyPair, type JWK } from "jose";
import { loadOrCreateSecretFile } from "../lib/secret-files.ts";

/** The keys of one steward, shared by its agent's replicas. */
export interface StewardKeys {
  /** Private Ed25519 key. */
  readonly grantKey: JWK;
  /** Its public half, which others check grants with. */
  readonly publicGrantKey: JWK;
  /** File with 32 random bytes in hexadecimal. Chains get its path, never its content by environment. */
  readonly anonymizationKeyFile: string;
}

/** Reads the keys from a folder; made at the first start. */
export async function loadStewardKeys(folder: string): Promise<StewardKeys> {
  const grantKey = JSON.parse(await loadOrCreateSecretFile(join(folder, "grant-key.json"), makeGrantKey)) as JWK;
  const anonymizationKeyFile = join(folder, "anonymization-key");
  await loadOrCreateSecretFile(anonymizationKeyFile, () => randomBytes(32).toString("hex"));
  const { d: _private, ...publicGrantKey } = grantKey;
  return { grantKey, publicGrantKey, anonymizationKeyFile };
}

async function makeGrantKey(): Promise<string> {
  const { privateKey } = await generateKeyPair("EdDSA", { crv: "Ed25519", extractable: true });
  return JSON.stringify({ ...(await exportJWK(privateKey)), kid: randomUUID(), alg: "EdDSA", use: "sig" });
}
