/** Signed grants (decision 12): a JWS (RFC 7515) with Ed25519 (RFC 8037) over the grant's claims. */
import { Value } from "@sinclair/typebox/value";
import { CompactSign, compactVerify, type JWK } from "jose";
import { AppError } from "./errors.ts";
import { Grant } from "./model/grant.ts";

/**
 * Signs a grant.
 *
 * @param privateKey an Ed25519 JWK with `d`.
 */
export async function signGrant(grant: Grant, privateKey: JWK): Promise<string> {
  // The library keeps what it made of a key object, as long as that lives: so the JWK itself, and not one imported anew each time.
  return new CompactSign(new TextEncoder().encode(JSON.stringify(grant)))
    .setProtectedHeader({ alg: "EdDSA", typ: "dynamos-grant+jws", ...(privateKey.kid ? { kid: privateKey.kid } : {}) })
    .sign(privateKey);
}

/**
 * Checks signature and form of a grant.
 *
 * @param keys the public keys (JWK) that may have signed it.
 * @throws AppError `forbidden` where no key fits, `bad_request` where the claims are malformed.
 */
export async function verifyGrant(jws: string, keys: readonly JWK[]): Promise<Grant> {
  for (const jwk of keys) {
    const payload = await payloadIfSignedBy(jws, jwk);
    if (payload === undefined) continue;
    const grant: unknown = JSON.parse(new TextDecoder().decode(payload));
    if (!Value.Check(Grant, grant)) throw new AppError("bad_request", "The grant's claims are malformed.");
    return grant;
  }
  throw new AppError("forbidden", "The grant is not signed by a key of its steward.");
}

async function payloadIfSignedBy(jws: string, jwk: JWK): Promise<Uint8Array | undefined> {
  try {
    const { payload } = await compactVerify(jws, jwk, { algorithms: ["EdDSA"] });
    return payload;
  } catch (error) {
    // Another key may fit; that none does is the caller's error.
    if (error instanceof Error && "code" in error && String(error.code).startsWith("ERR_JW")) return undefined;
    throw error;
  }
}
