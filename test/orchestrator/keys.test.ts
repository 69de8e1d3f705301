/** Keys of the orchestrator in a folder that is mounted, and where there is none. */
import assert from "node:assert/strict";
import { generateKeyPairSync } from "node:crypto";
import { mkdir, readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, test } from "node:test";
import { calculateJwkThumbprint } from "jose";
import { systemClock } from "../../lib/clock.ts";
import { issueTokens, localJwks, publicJwks, verifyAccessToken, type TokenClaims } from "../../lib/tokens.ts";
import { loadOrchestratorKeys } from "../../orchestrator/keys.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const CLAIMS: TokenClaims = {
  sub: "ada@example.org",
  uid: "ada",
  job: "ada-1f2e3d4c",
  requestType: "sqlDataRequest",
  dataSets: ["wageGap"],
  aud: ["VU"],
  agreements: { VU: 3 },
};

const PKCS8 = { type: "pkcs8", format: "pem" } as const;
const ed25519 = (): string => generateKeyPairSync("ed25519").privateKey.export(PKCS8) as string;

/** As Helm's `genPrivateKey` makes them: "ed25519", "ecdsa" and "rsa". */
const HELM_KEYS: readonly (readonly [string, string, () => string])[] = [
  ["ed25519 (PKCS #8)", "EdDSA", ed25519],
  [
    "ecdsa (SEC 1)",
    "ES256",
    () => {
      const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
      return privateKey.export({ type: "sec1", format: "pem" }) as string;
    },
  ],
  [
    "rsa (PKCS #1)",
    "RS256",
    () => {
      const { privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
      return privateKey.export({ type: "pkcs1", format: "pem" }) as string;
    },
  ],
];

async function stateWith(files: Readonly<Record<string, string>>): Promise<string> {
  const state = await temporaryFolder();
  await mkdir(join(state, "keys"));
  for (const [name, text] of Object.entries(files)) await writeFile(join(state, "keys", name), text);
  return state;
}

describe("the signing key", () => {
  for (const [kind, alg, make] of HELM_KEYS) {
    test(`may be a mounted PEM file, ${kind}: replicas sign alike, and publish nothing private`, async () => {
      const state = await stateWith({ "signing-key.pem": make(), "admin-key": "secret\n" });
      const [one, other] = [await loadOrchestratorKeys(state), await loadOrchestratorKeys(state)];
      assert.equal(one.signingKey.alg, alg);
      assert.equal(one.signingKey.kid, await calculateJwkThumbprint(one.signingKey));
      assert.equal(one.signingKey.kid, other.signingKey.kid);
      const { accessToken } = await issueTokens(CLAIMS, one.signingKey, systemClock);
      const verified = await verifyAccessToken(accessToken, localJwks(other.publishedKeys), {
        audience: "VU",
        clock: systemClock,
      });
      assert.equal(verified.job, CLAIMS.job);
      const [published] = publicJwks(one.publishedKeys).keys;
      for (const secret of ["d", "p", "q", "dp", "dq", "qi"]) assert.ok(!(secret in (published ?? {})), secret);
      assert.equal(one.adminKey, "secret");
      assert.deepEqual(await readdir(state), ["keys"], "nothing is made beside what is there");
    });
  }

  test("may change while tokens of the one before it live, and of the one to come", async () => {
    const [before, now, next] = [ed25519(), ed25519(), ed25519()];
    const old = await loadOrchestratorKeys(await stateWith({ "signing-key.pem": before, "admin-key": "a" }));
    const coming = await loadOrchestratorKeys(await stateWith({ "signing-key.pem": next, "admin-key": "a" }));
    const keys = await loadOrchestratorKeys(
      await stateWith({
        "signing-key-before.pem": before,
        "signing-key.pem": now,
        "signing-key-next.pem": next,
        "admin-key": "a",
      }),
    );
    assert.equal(keys.publishedKeys.length, 3);
    assert.equal(keys.publishedKeys[0]?.kid, keys.signingKey.kid);
    for (const { signingKey } of [old, keys, coming]) {
      const { accessToken } = await issueTokens(CLAIMS, signingKey, systemClock);
      await verifyAccessToken(accessToken, localJwks(keys.publishedKeys), { audience: "VU", clock: systemClock });
    }
    assert.notEqual(keys.signingKey.kid, old.signingKey.kid);
  });

  test("is made in the state folder where none is mounted, and stays", async () => {
    const state = await temporaryFolder();
    const [first, second] = [await loadOrchestratorKeys(state), await loadOrchestratorKeys(state)];
    assert.equal(first.signingKey.kid, second.signingKey.kid);
    assert.equal(first.adminKey, second.adminKey);
    assert.deepEqual((await readdir(state)).sort(), ["admin-key", "signing-key.json"]);
  });

  const faults: readonly (readonly [string, Readonly<Record<string, string>>, RegExp])[] = [
    ["of a kind that cannot sign", { "signing-key.pem": x25519() }, /signing-key\.pem is of a kind.*x25519/],
    ["of RSA that is too short", { "signing-key.pem": shortRsa() }, /rsa, 1024 bits/],
    ["that is none", { "signing-key.pem": "nothing" }, /signing-key\.pem holds no private key/],
    ["that is there twice", { "signing-key.pem": ed25519(), "signing-key.json": "{}" }, /more than one key that signs/],
    ["that only others could follow", { "signing-key-next.pem": ed25519() }, /none that signs/],
  ];
  for (const [which, files, says] of faults) {
    test(`${which} ends the start, with the file and what helps`, async () => {
      await assert.rejects(loadOrchestratorKeys(await stateWith({ "admin-key": "a", ...files })), {
        code: "configuration_invalid",
        message: says,
      });
    });
  }

  test("lets no empty admin key pass", async () => {
    await assert.rejects(loadOrchestratorKeys(await stateWith({ "signing-key.pem": ed25519(), "admin-key": "\n" })), {
      code: "configuration_invalid",
      message: /admin-key is empty/,
    });
  });
});

function x25519(): string {
  return generateKeyPairSync("x25519").privateKey.export(PKCS8) as string;
}

function shortRsa(): string {
  return generateKeyPairSync("rsa", { modulusLength: 1024 }).privateKey.export(PKCS8) as string;
}
