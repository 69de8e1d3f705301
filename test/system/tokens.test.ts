import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, test } from "node:test";
import {
  decodeJwt,
  exportJWK,
  generateKeyPair,
  importJWK,
  SignJWT,
  UnsecuredJWT,
  type CryptoKey,
  type JWK,
  type JWTPayload,
} from "jose";
import { call } from "../../cli/client.ts";
import { ANALYST, rejectsWith, testExchange } from "../support/exchange.ts";
import {
  KNOWN_SUMS,
  NUMBERS_APPROVAL,
  numbersAgreement,
  numbersConfiguration,
  SUM_QUESTION,
  sumsOf,
} from "../support/numbers.ts";

const exchange = await testExchange({ configuration: await numbersConfiguration({ providers: ["RUG"] }) });
const { client, url, adminKey } = exchange;
const approval = await client.requestApproval(NUMBERS_APPROVAL);
const { accessToken, refreshToken } = approval.auth;
const atVu = approval.authorizedProviders["VU"] ?? "";
const atRug = `${exchange.services.get("agent-RUG")?.url ?? ""}/agent/v1/sqlDataRequest/rug`;
const claims = decodeJwt(accessToken);

/** Both doors that take a token. */
const doors = {
  "an agent": (token: string, body: object = SUM_QUESTION) => client.askAgent(atVu, body as never, { token }),
  "the front door": (token: string, body: object = SUM_QUESTION) => client.askAgain(body as never, { token }),
};

async function signed(payload: JWTPayload, key: CryptoKey | Uint8Array, alg = "EdDSA", kid?: string): Promise<string> {
  return new SignJWT(payload).setProtectedHeader({ alg, typ: "JWT", ...(kid === undefined ? {} : { kid }) }).sign(key);
}

/** Signs as the orchestrator does, with its own key: for tokens that only time, place or kind make wrong. */
async function signedByTheOrchestrator(changes: Record<string, unknown>): Promise<string> {
  const jwk = await signingKey();
  const key = (await importJWK(jwk, "EdDSA")) as CryptoKey;
  return signed({ ...claims, jti: randomUUID(), ...changes }, key, "EdDSA", jwk.kid);
}

async function signingKey(): Promise<JWK> {
  const file = join(exchange.stateFolder, "orchestrator", "signing-key.json");
  return JSON.parse(await readFile(file, "utf8")) as JWK;
}

describe("a token that is not right", () => {
  const nowSeconds = Math.floor(Date.parse(new Date().toISOString()) / 1000);
  const forgeries: Record<string, () => Promise<string> | string> = {
    "signed with another key": async () => signed(claims, (await generateKeyPair("EdDSA")).privateKey),
    "signed with another key under the right key's name": async () =>
      signed(claims, (await generateKeyPair("EdDSA")).privateKey, "EdDSA", (await signingKey()).kid),
    "not signed at all (alg none)": () => new UnsecuredJWT(claims).encode(),
    "signed with the public key as a shared secret (HS256)": async () => {
      const { keys } = (await (await call("GET", `${url}/.well-known/jwks.json`, undefined)).json()) as { keys: JWK[] };
      return signed(claims, Buffer.from(keys[0]?.x ?? "", "base64url"), "HS256", keys[0]?.kid);
    },
    "changed after it was signed": () => {
      const [head = "", , tail = ""] = accessToken.split(".");
      const changed = Buffer.from(JSON.stringify({ ...claims, sub: "admin@example.org" })).toString("base64url");
      return `${head}.${changed}.${tail}`;
    },
    "of another issuer": () => signedByTheOrchestrator({ iss: "somebody-else" }),
    "without an end": () => signedByTheOrchestrator({ exp: undefined }),
    "a refresh token": () => refreshToken,
    "no token": () => "not.a.token",
    "the admin key": () => adminKey,
  };

  for (const [what, forge] of Object.entries(forgeries)) {
    test(`${what} is refused at every door`, async () => {
      const token = await forge();
      for (const ask of Object.values(doors)) {
        const { status } = await rejectsWith(ask(token), "token_invalid");
        assert.equal(status, 401);
      }
    });
  }

  test("one that has expired says so, and 30 seconds of skew are tolerated", async () => {
    const expired = await signedByTheOrchestrator({ iat: nowSeconds - 700, exp: nowSeconds - 60 });
    for (const ask of Object.values(doors)) await rejectsWith(ask(expired), "token_expired");
    const skewed = await signedByTheOrchestrator({ iat: nowSeconds - 700, exp: nowSeconds - 5 });
    assert.deepEqual(sumsOf((await doors["an agent"](skewed)).rows), KNOWN_SUMS.VU);
  });

  test("one for other parties does not count at an agent, whoever signed it", async () => {
    await rejectsWith(client.askAgent(atRug, SUM_QUESTION, { token: accessToken }), "token_invalid");
    const forOthers = await signedByTheOrchestrator({ aud: ["UVA", "SURF"] });
    await rejectsWith(doors["an agent"](forOthers), "token_invalid");
  });

  test("a good one for a job that never was is told so", async () => {
    const token = await signedByTheOrchestrator({ job: "analyst-00000000" });
    for (const ask of Object.values(doors)) await rejectsWith(ask(token), "job_unknown");
    const ofAnother = await signedByTheOrchestrator({ sub: "other@example.org" });
    await rejectsWith(doors["an agent"](ofAnother), "job_unknown");
  });

  test("a body that names another job or user than the token is refused, and neither is none at all", async () => {
    for (const ask of Object.values(doors)) {
      const otherJob = { ...SUM_QUESTION, requestMetadata: { jobId: "analyst-00000000" } };
      await rejectsWith(ask(accessToken, otherJob), "token_invalid");
      const otherUser = { ...SUM_QUESTION, user: { ...ANALYST, userName: "other@example.org" } };
      await rejectsWith(ask(accessToken, otherUser), "token_invalid");
    }
    const unauthenticated = await call("POST", atVu, SUM_QUESTION);
    assert.equal(unauthenticated.status, 401);
    assert.equal(((await unauthenticated.json()) as { code: string }).code, "unauthenticated");
  });
});

describe("a token that is right", () => {
  test("is refreshed at the front door; the new one counts, at agents too", async () => {
    const response = await call("POST", `${url}/api/v1/token`, { refreshToken });
    assert.equal(response.status, 200);
    const fresh = (await response.json()) as { accessToken: string; refreshToken: string; jobId: string };
    assert.equal(fresh.jobId, approval.jobId);
    assert.notEqual(decodeJwt(fresh.accessToken).jti, claims.jti);
    assert.deepEqual(sumsOf((await doors["an agent"](fresh.accessToken)).rows), KNOWN_SUMS.VU);
    assert.equal(
      decodeJwt(fresh.refreshToken).exp,
      decodeJwt(refreshToken).exp,
      "refreshing does not extend the right to refresh",
    );
    const withAccessToken = await call("POST", `${url}/api/v1/token`, { refreshToken: accessToken });
    assert.equal(withAccessToken.status, 401);
  });

  test("is checked with the published keys, of which only the public half is published", async () => {
    const { keys } = (await (await call("GET", `${url}/.well-known/jwks.json`, undefined)).json()) as { keys: JWK[] };
    assert.equal(keys.length, 1);
    assert.deepEqual(Object.keys(keys[0] ?? {}).sort(), ["alg", "crv", "kid", "kty", "use", "x"]);
    const { publicKey } = await generateKeyPair("EdDSA", { extractable: true });
    assert.equal((await exportJWK(publicKey)).kty, keys[0]?.kty);
  });
});

describe("the config API's writes", () => {
  const another = numbersAgreement("OTHER");

  test("need the admin key: not none, not a wrong one, not an analyst's token", async () => {
    for (const [options, status, code] of [
      [{}, 401, "unauthenticated"],
      [{ token: "wrong" }, 403, "forbidden"],
      [{ token: accessToken }, 403, "forbidden"],
      [{ headers: { "x-admin-key": "" } }, 403, "forbidden"],
    ] as const) {
      for (const [method, path] of [
        ["PUT", "policyEnforcer"],
        ["DELETE", "policyEnforcer/VU"],
        ["PUT", "archetypes"],
        ["DELETE", "datasets/numbers"],
      ] as const) {
        const response = await call(method, `${url}/api/v1/${path}`, method === "PUT" ? another : undefined, options);
        assert.equal(response.status, status, `${method} ${path} with ${JSON.stringify(options)}`);
        assert.equal(((await response.json()) as { code: string }).code, code);
      }
    }
    await rejectsWith(client.get("policyEnforcer/OTHER", { token: adminKey }), "not_found");
  });
});

describe("a token whose agreement has gone", () => {
  test("is refused at every door with the reason", async () => {
    const approved = await client.requestApproval({ ...NUMBERS_APPROVAL, dataProviders: ["VU"] });
    const token = approved.auth.accessToken;
    const deleted = await call("DELETE", `${url}/api/v1/policyEnforcer/VU`, undefined, { token: adminKey });
    assert.equal(deleted.status, 204);
    for (const ask of Object.values(doors)) await rejectsWith(ask(token), "agreement_gone");
    const refreshed = await call("POST", `${url}/api/v1/token`, { refreshToken: approved.auth.refreshToken });
    assert.equal(((await refreshed.json()) as { code: string }).code, "agreement_gone");
  });
});
