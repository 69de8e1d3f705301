import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { readdirSync, statSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { type AddressInfo } from "node:net";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { promisify } from "node:util";
import { importJWK, SignJWT, UnsecuredJWT } from "jose";
import type { Clock } from "../../lib/clock.ts";
import {
  issueTokens,
  loadOrCreateSigningKey,
  localJwks,
  publicJwks,
  remoteJwks,
  TOKEN_ISSUER,
  AccessTokenVerifier,
  verifyAccessToken,
  verifyRefreshToken,
  type TokenClaims,
} from "../../lib/tokens.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

class TestClock implements Clock {
  #nowMs = Date.parse("2025-06-01T12:00:00Z");
  now(): number {
    return this.#nowMs;
  }
  advance(ms: number): void {
    this.#nowMs += ms;
  }
  async sleep(ms: number): Promise<void> {
    this.advance(ms);
  }
}

const claims: TokenClaims = {
  sub: "ada@example.org",
  uid: "ada",
  job: "ada-1f2e3d4c",
  requestType: "sqlDataRequest",
  dataSets: ["wageGap"],
  aud: ["UVA", "VU", "SURF"],
  agreements: { VU: 3, UVA: 4 },
};

const newKey = async () => loadOrCreateSigningKey(join(await temporaryFolder(), "key.json"));

async function serveKeys(t: TestContext, answer: () => object) {
  let requests = 0;
  const server = createServer((_request, response) => {
    requests++;
    response.setHeader("content-type", "application/json").end(JSON.stringify(answer()));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const close = () => new Promise((resolve) => server.close(resolve).closeAllConnections());
  t.after(close);
  const url = `http://127.0.0.1:${String((server.address() as AddressInfo).port)}/.well-known/jwks.json`;
  return { url, close, requests: () => requests };
}

test("a token that was issued is verified at every party of its audience", async () => {
  const [key, clock] = [await newKey(), new TestClock()];
  const { accessToken } = await issueTokens(claims, key, clock);
  for (const audience of ["VU", "SURF"]) {
    const { jti, exp, ...verified } = await verifyAccessToken(accessToken, localJwks([key]), { audience, clock });
    assert.deepEqual(verified, claims);
    assert.ok(jti.length > 10);
    assert.equal(exp, clock.now() / 1000 + 600);
  }
});

test("a verifier asks for the key of a token once in a while, and refuses it when it has ended", async () => {
  const [key, clock] = [await newKey(), new TestClock()];
  const getKey = localJwks([key]);
  let asked = 0;
  const counting: typeof getKey = (header, token) => {
    asked += 1;
    return getKey(header, token);
  };
  const verifier = new AccessTokenVerifier(counting, { audience: "VU", clock });
  const { accessToken } = await issueTokens(claims, key, clock);
  const first = await verifier.verify(accessToken);
  assert.deepEqual(await verifier.verify(accessToken), first);
  assert.equal(asked, 1);
  await assert.rejects(verifier.verify(`${accessToken.slice(0, -8)}AAAAAAAA`), { code: "token_invalid" });
  await assert.rejects(verifier.verify(undefined), { code: "unauthenticated" });
  clock.advance(31_000);
  await verifier.verify(accessToken);
  assert.equal(asked, 3);
  clock.advance(700_000);
  await assert.rejects(verifier.verify(accessToken), { code: "token_expired" });
});

test("a verifier forgets tokens whose time is over, and expired ones, when another comes", async () => {
  const [key, clock] = [await newKey(), new TestClock()];
  const verifier = new AccessTokenVerifier(localJwks([key]), { audience: "VU", clock });
  const verifyNew = async () => verifier.verify((await issueTokens(claims, key, clock)).accessToken);
  for (let token = 0; token < 5; token++) await verifyNew();
  assert.equal(verifier.size, 5);
  clock.advance(20_000);
  await verifyNew();
  assert.equal(verifier.size, 6, "their time is not over");
  clock.advance(10_000);
  await verifyNew();
  assert.equal(verifier.size, 2, "of the last ten seconds");
  const { accessToken } = await issueTokens(claims, key, clock);
  clock.advance(590_000);
  await verifier.verify(accessToken);
  assert.equal(verifier.size, 1);
  clock.advance(10_000);
  await verifyNew();
  assert.equal(verifier.size, 1, "it expired before its half minute was over");
});

test("tokens that are missing, expired, forged, unsigned, foreign, or of the other kind are refused with their code", async () => {
  const [key, otherKey, clock] = [await newKey(), await newKey(), new TestClock()];
  const getKey = localJwks([key]);
  const tokens = await issueTokens(claims, key, clock);
  const verify = (token: string | undefined, audience = "VU") => verifyAccessToken(token, getKey, { audience, clock });
  await assert.rejects(verify(undefined), { code: "unauthenticated" });
  await assert.rejects(verify("abc"), { code: "token_invalid" });
  await assert.rejects(verify(tokens.accessToken, "RUG"), { code: "token_invalid", message: /not for RUG/ });
  await assert.rejects(verify(tokens.refreshToken), { code: "token_invalid", message: /not an access token/ });
  await assert.rejects(verifyRefreshToken(tokens.accessToken, getKey, { clock }), { code: "token_invalid" });
  await assert.rejects(verify((await issueTokens(claims, otherKey, clock)).accessToken), { code: "token_invalid" });
  await assert.rejects(verify((await issueTokens(claims, { ...otherKey, kid: key.kid! }, clock)).accessToken), {
    code: "token_invalid",
  });
  const [header = "", body = "", signature = ""] = tokens.accessToken.split(".");
  const altered = Buffer.from(
    JSON.stringify({ ...(JSON.parse(Buffer.from(body, "base64url").toString()) as object), sub: "eve@example.org" }),
  );
  await assert.rejects(verify([header, altered.toString("base64url"), signature].join(".")), { code: "token_invalid" });
  const unsigned = new UnsecuredJWT({ ...claims, typ: "access", jti: "x" })
    .setIssuer(TOKEN_ISSUER)
    .setIssuedAt()
    .setExpirationTime("1h")
    .encode();
  await assert.rejects(verify(unsigned), { code: "token_invalid" });
  clock.advance(600_000 + 29_000);
  await verify(tokens.accessToken);
  clock.advance(2_000);
  await assert.rejects(verify(tokens.accessToken), { code: "token_expired" });
});

test("a token without an end is not accepted", async () => {
  const [key, clock] = [await newKey(), new TestClock()];
  const endless = await new SignJWT({ ...claims, typ: "access", jti: "x" })
    .setProtectedHeader({ alg: "EdDSA", kid: key.kid! })
    .setIssuer(TOKEN_ISSUER)
    .setIssuedAt(clock.now() / 1000)
    .sign(await importJWK(key, "EdDSA"));
  await assert.rejects(verifyAccessToken(endless, localJwks([key]), { audience: "VU", clock }), {
    code: "token_invalid",
  });
});

test("what is published holds no private part", async () => {
  const key = await newKey();
  assert.ok(key.d);
  assert.doesNotMatch(JSON.stringify(publicJwks([key])), new RegExp(`"d"|${key.d}`));
});

test("processes that start at once end with the same key, readable by its owner alone, and nothing beside it", async () => {
  const folder = await temporaryFolder();
  const path = join(folder, "key.json");
  const module = new URL("../../lib/tokens.js", import.meta.url).href;
  const program = `
    const { loadOrCreateSigningKey } = await import(${JSON.stringify(module)});
    process.stdout.write((await loadOrCreateSigningKey(${JSON.stringify(path)})).kid);`;
  const run = promisify(execFile);
  const kids = await Promise.all(
    Array.from({ length: 4 }, async () => (await run(process.execPath, ["--input-type=module", "-e", program])).stdout),
  );
  assert.equal(new Set(kids).size, 1, kids.join(" "));
  assert.equal(statSync(path).mode & 0o777, 0o600);
  assert.deepEqual(readdirSync(folder), ["key.json"]);
});

test("a key file with something else in it is an error that names the file", async () => {
  const path = join(await temporaryFolder(), "key.json");
  writeFileSync(path, '{"kty":"oct","k":"abc"}');
  await assert.rejects(loadOrCreateSigningKey(path), { code: "configuration_invalid", message: new RegExp(path) });
});

test("published keys are fetched once, again for an unknown key, and go on counting when the orchestrator is gone", async (t) => {
  const [first, second, clock] = [await newKey(), await newKey(), new TestClock()];
  let published = [first];
  const keys = await serveKeys(t, () => publicJwks(published));
  const getKey = remoteJwks([keys.url], { clock });
  const verify = async (key: typeof first) =>
    verifyAccessToken((await issueTokens(claims, key, clock)).accessToken, getKey, { audience: "VU", clock });
  await Promise.all([verify(first), verify(first), verify(first)]);
  assert.equal(keys.requests(), 1);
  published = [first, second];
  await assert.rejects(verify(second), { code: "token_invalid" });
  assert.equal(keys.requests(), 1, "within the cooldown it does not ask again");
  clock.advance(5_000);
  await verify(second);
  assert.equal(keys.requests(), 2);
  await keys.close();
  clock.advance(3_600_000);
  await verify(second);
});

test("published keys come from any of the orchestrator's replicas that answers", async (t) => {
  const [key, clock] = [await newKey(), new TestClock()];
  const [gone, there] = [await serveKeys(t, () => ({})), await serveKeys(t, () => publicJwks([key]))];
  await gone.close();
  const { accessToken } = await issueTokens(claims, key, clock);
  const getKey = remoteJwks([gone.url, there.url], { clock });
  assert.equal((await verifyAccessToken(accessToken, getKey, { audience: "VU", clock })).sub, claims.sub);
});

test("without keys and without orchestrator a token cannot be checked, and it says so", async (t) => {
  const [key, clock] = [await newKey(), new TestClock()];
  const keys = await serveKeys(t, () => ({}));
  await keys.close();
  const { accessToken } = await issueTokens(claims, key, clock);
  await assert.rejects(verifyAccessToken(accessToken, remoteJwks([keys.url], { clock }), { audience: "VU", clock }), {
    code: "unavailable",
    party: "orchestrator",
  });
});
