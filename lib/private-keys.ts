/** Private keys in PEM files, as people and Helm's `genPrivateKey` make them, as JSON Web Keys (RFC 7517). */
import { createPrivateKey, type KeyObject } from "node:crypto";
import { calculateJwkThumbprint, type JWK } from "jose";
import { AppError } from "./errors.ts";

/** Kinds of key that sign, and the algorithm of each (RFC 7518, RFC 8037). */
export type SignatureAlgorithm = "EdDSA" | "ES256" | "ES384" | "ES512" | "RS256";

/** Shorter RSA keys are no longer thought safe (RFC 7518, section 3.3). */
const MIN_RSA_BITS = 2048;

const CURVES: Readonly<Record<string, SignatureAlgorithm>> = {
  prime256v1: "ES256",
  secp384r1: "ES384",
  secp521r1: "ES512",
};

/**
 * The key of a PEM text: PKCS #8 (RFC 5958), SEC 1 (RFC 5915) or PKCS #1 (RFC 8017), without a passphrase. Its id is its
 * thumbprint (RFC 7638), so that whoever has the key knows it by the same id.
 *
 * @param path for messages.
 * @param allowed algorithms that will do; `configuration_invalid` for any other key, and for what is none.
 */
export async function privateJwk(
  pem: string,
  path: string,
  allowed: readonly SignatureAlgorithm[] = ["EdDSA", "ES256", "ES384", "ES512", "RS256"],
): Promise<JWK> {
  const key = parse(pem, path);
  const alg = algorithmOf(key);
  if (alg === undefined || !allowed.includes(alg)) {
    throw new AppError(
      "configuration_invalid",
      `The key in ${path} is of a kind that cannot be used here (${kindOf(key)}): make one for ${allowed.join(", ")}, ` +
        `for example with "openssl genpkey -algorithm ed25519".`,
      { place: { file: path } },
    );
  }
  const jwk = key.export({ format: "jwk" }) as JWK;
  return { ...jwk, alg, use: "sig", kid: await calculateJwkThumbprint(jwk) };
}

function parse(pem: string, path: string): KeyObject {
  try {
    return createPrivateKey(pem);
  } catch (cause) {
    throw new AppError(
      "configuration_invalid",
      `The file ${path} holds no private key in PEM that can be read without a passphrase.`,
      { cause, place: { file: path } },
    );
  }
}

function algorithmOf({ asymmetricKeyType, asymmetricKeyDetails = {} }: KeyObject): SignatureAlgorithm | undefined {
  const { namedCurve = "", modulusLength = 0 } = asymmetricKeyDetails;
  if (asymmetricKeyType === "ed25519") return "EdDSA";
  if (asymmetricKeyType === "ec") return CURVES[namedCurve];
  return asymmetricKeyType === "rsa" && modulusLength >= MIN_RSA_BITS ? "RS256" : undefined;
}

function kindOf({ asymmetricKeyType, asymmetricKeyDetails = {} }: KeyObject): string {
  const { namedCurve, modulusLength } = asymmetricKeyDetails;
  const detail = namedCurve ?? (modulusLength === undefined ? undefined : `${String(modulusLength)} bits`);
  return [asymmetricKeyType, detail].filter((part) => part !== undefined).join(", ");
}
