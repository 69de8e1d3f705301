/** A steward's keys in a folder that is mounted, and where there is none. */
import assert from "node:assert/strict";
import { generateKeyPairSync, randomBytes } from "node:crypto";
import { chmod, readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { calculateJwkThumbprint } from "jose";
import { loadStewardKeys } from "../../agent/identity.ts";
import { signGrant, verifyGrant } from "../../lib/grants.ts";
import type { Grant } from "../../lib/model/grant.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const PKCS8 = { type: "pkcs8", format: "pem" } as const;
const HEX_KEY = randomBytes(32).toString("hex");

async function folderWith(files: Readonly<Record<string, string>>): Promise<string> {
  const folder = await temporaryFolder();
  for (const [name, text] of Object.entries(files)) await writeFile(join(folder, name), text);
  return folder;
}

test("keys of a mounted Secret are the replicas' common keys, and nothing is written", async () => {
  const pem = generateKeyPairSync("ed25519").privateKey.export(PKCS8) as string;
  const folder = await folderWith({ "grant-key.pem": pem, "anonymization-key": `${HEX_KEY}\n` });
  await chmod(folder, 0o500);
  const [one, other] = [await loadStewardKeys(folder), await loadStewardKeys(folder)];
  assert.equal(one.grantKey.kid, await calculateJwkThumbprint(one.grantKey));
  assert.equal(one.publicGrantKey.kid, other.publicGrantKey.kid);
  assert.ok(!("d" in one.publicGrantKey));
  const jws = await signGrant({ nothing: true } as unknown as Grant, one.grantKey);
  // The signature fits; what is signed is no grant.
  await assert.rejects(verifyGrant(jws, [other.publicGrantKey]), { code: "bad_request" });
  assert.deepEqual((await readdir(folder)).sort(), ["anonymization-key", "grant-key.pem"]);
});

test("a grant key of JSON counts before one of PEM, so that a steward who has one keeps it", async () => {
  const folder = await temporaryFolder();
  const made = await loadStewardKeys(folder);
  await writeFile(join(folder, "grant-key.pem"), generateKeyPairSync("ed25519").privateKey.export(PKCS8));
  assert.equal((await loadStewardKeys(folder)).grantKey.kid, made.grantKey.kid);
});

test("a grant key of another kind, and an anonymization key that is none, end the start with the file", async () => {
  const pem = generateKeyPairSync("ec", { namedCurve: "P-256" }).privateKey.export(PKCS8) as string;
  const invalid = (message: RegExp) => ({ code: "configuration_invalid", message });
  await assert.rejects(
    loadStewardKeys(await folderWith({ "grant-key.pem": pem })),
    invalid(/grant-key\.pem is of a kind/),
  );
  await assert.rejects(
    loadStewardKeys(await folderWith({ "anonymization-key": "word" })),
    invalid(/anonymization-key holds no key/),
  );
});

test(
  "a key that is missing where nothing can be written is named",
  { skip: process.platform !== "linux" && "only Linux has a file system where not even root can write" },
  async () => {
    await assert.rejects(loadStewardKeys("/sys/dynamos-keys"), {
      code: "configuration_invalid",
      message: /grant-key\.json is not there, and cannot be made/,
    });
  },
);
