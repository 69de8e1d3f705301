/** Signed grants: what is refused, and that other libraries read them. */
import assert from "node:assert/strict";
import { generateKeyPairSync } from "node:crypto";
import { test } from "node:test";
import { compactVerify, CompactSign, type JWK } from "jose";
import { signGrant, verifyGrant } from "../../lib/grants.ts";
import type { Grant } from "../../lib/model/grant.ts";

const GRANT: Grant = {
  steward: "VU",
  requestId: "r1",
  jobName: "job",
  requestType: "sqlDataRequest",
  dataSets: [],
  minimumGroupSize: 5,
  rawRows: false,
  agreementRevision: 3,
  deadlineMs: 1_000,
};

function keyPair(): { readonly own: JWK; readonly published: JWK } {
  const { privateKey, publicKey } = generateKeyPairSync("ed25519");
  return { own: privateKey.export({ format: "jwk" }), published: publicKey.export({ format: "jwk" }) };
}

const encoded = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString("base64url");

test("a grant is a JWS that others verify, and one that others sign is verified", async () => {
  const { own, published } = keyPair();
  const jws = await signGrant(GRANT, own);
  assert.deepEqual(await verifyGrant(jws, [keyPair().published, published]), GRANT);
  const { payload, protectedHeader } = await compactVerify(jws, published, { algorithms: ["EdDSA"] });
  assert.deepEqual([JSON.parse(Buffer.from(payload).toString()), protectedHeader.alg], [GRANT, "EdDSA"]);
  const theirs = await new CompactSign(Buffer.from(JSON.stringify(GRANT)))
    .setProtectedHeader({ alg: "EdDSA" })
    .sign(own);
  assert.deepEqual(await verifyGrant(theirs, [published]), GRANT);
});

test("a grant that was changed, cut, unsigned, or signed by another or in another way is forbidden", async () => {
  const { own, published } = keyPair();
  const [header = "", payload = "", signature = ""] = (await signGrant(GRANT, own)).split(".");
  const wider = encoded({ ...GRANT, rawRows: true });
  const forged = [
    `${header}.${wider}.${signature}`,
    `${encoded({ alg: "none" })}.${payload}.${signature}`,
    `${encoded({ alg: "none" })}.${payload}.`,
    `${encoded({ alg: "HS256" })}.${payload}.${signature}`,
    `${header}.${payload}.${signature.slice(0, 40)}`,
    `${header}.${payload}.${signature}.${signature}`,
    `${header}.${payload}`,
    `.${payload}.${signature}`,
    `${header}.${payload}.${"A".repeat(signature.length)}`,
    "no grant",
    "",
    await signGrant(GRANT, keyPair().own),
  ];
  for (const jws of forged) await assert.rejects(verifyGrant(jws, [published]), { code: "forbidden" }, jws);
  await assert.rejects(verifyGrant(`${header}.${payload}.${signature}`, []), { code: "forbidden" });
  const critical = await new CompactSign(Buffer.from(JSON.stringify(GRANT)))
    .setProtectedHeader({ alg: "EdDSA", crit: ["exp"], exp: 1 })
    .sign(own, { crit: { exp: true } });
  await assert.rejects(verifyGrant(critical, [published]), { code: "forbidden" });
  const { publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const otherKind = publicKey.export({ format: "jwk" }) as JWK;
  await assert.rejects(verifyGrant(`${header}.${payload}.${signature}`, [otherKind]), { code: "forbidden" });
});
