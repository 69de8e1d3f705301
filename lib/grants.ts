/** Signed grants (decision 12): a JWS (RFC 7515, compact) with Ed25519 (RFC 8037) over the grant's claims. */
import { createPrivateKey, createPublicKey, sign, verify, type JsonWebKey, type KeyObject } from "node:crypto";
import { Value } from "@sinclair/typebox/value";
import type { JWK } from "jose";
import { AppError } from "./errors.ts";
import { Grant } from "./model/grant.ts";

/** Signatures of Ed25519. */
const SIGNATURE_BYTES = 64;
const BASE64URL = /^[\w-]+$/;

/**
 * Signs a grant.
 *
 * @param privateKey an Ed25519 JWK with `d`.
 */
export async function signGrant(grant: Grant, privateKey: JWK): Promise<string> {
  const header = { alg: "EdDSA", typ: "dynamos-grant+jws", ...(privateKey.kid ? { kid: privateKey.kid } : {}) };
  const signed = `${encoded(header)}.${encoded(grant)}`;
  return `${signed}.${sign(null, Buffer.from(signed), privateKeyOf(privateKey)).toString("base64url")}`;
}

/**
 * Checks signature and form of a grant. By Node.js's own functions: every run's grant is checked by every microservice, and a
 * thread for each check costs more than the check.
 *
 * @param keys the public keys (JWK) that may have signed it.
 * @throws AppError `forbidden` where no key fits, `bad_request` where the claims are malformed.
 */
export async function verifyGrant(jws: string, keys: readonly JWK[]): Promise<Grant> {
  const [header = "", payload = "", signature = "", ...more] = jws.split(".");
  const isCompact = more.length === 0 && [header, payload, signature].every((part) => BASE64URL.test(part));
  if (!isCompact || !isSignedWithEd25519(header)) throw notSigned();
  const signed = Buffer.from(`${header}.${payload}`);
  const bytes = Buffer.from(signature, "base64url");
  if (bytes.byteLength !== SIGNATURE_BYTES || !keys.some((jwk) => isSignedBy(signed, bytes, jwk))) throw notSigned();
  const grant: unknown = JSON.parse(Buffer.from(payload, "base64url").toString());
  if (!Value.Check(Grant, grant)) throw new AppError("bad_request", "The grant's claims are malformed.");
  return grant;
}

function encoded(value: unknown): string {
  return Buffer.from(JSON.stringify(value)).toString("base64url");
}

/** What the header asks to be understood beyond that (RFC 7515, section 4.1.11) nobody here understands. */
function isSignedWithEd25519(header: string): boolean {
  try {
    const { alg, crit } = JSON.parse(Buffer.from(header, "base64url").toString()) as Record<string, unknown>;
    return alg === "EdDSA" && crit === undefined;
  } catch {
    return false;
  }
}

function isSignedBy(signed: Buffer, signature: Buffer, jwk: JWK): boolean {
  if (jwk.kty !== "OKP" || jwk.crv !== "Ed25519") return false;
  return verify(null, signed, publicKeyOf(jwk), signature);
}

/** What was made of keys, as long as these live: making it costs as much as a signature. */
const PUBLIC_KEYS = new WeakMap<JWK, KeyObject>();
const PRIVATE_KEYS = new WeakMap<JWK, KeyObject>();

function publicKeyOf(jwk: JWK): KeyObject {
  const { kty, crv, x } = jwk;
  return madeOnce(PUBLIC_KEYS, jwk, () => createPublicKey({ key: { kty, crv, x } as JsonWebKey, format: "jwk" }));
}

function privateKeyOf(jwk: JWK): KeyObject {
  return madeOnce(PRIVATE_KEYS, jwk, () => createPrivateKey({ key: jwk as JsonWebKey, format: "jwk" }));
}

function madeOnce(keys: WeakMap<JWK, KeyObject>, jwk: JWK, make: () => KeyObject): KeyObject {
  const known = keys.get(jwk) ?? make();
  keys.set(jwk, known);
  return known;
}

function notSigned(): AppError {
  return new AppError("forbidden", "The grant is not signed by a key of its steward.");
}
