/**
 * Access tokens (decision 18): JSON Web Tokens (RFC 7519) signed with Ed25519 (RFC 8037) or a key of the operator's. The orchestrator issues them
 * with a key that its replicas share, and publishes the public half as a JWK set (RFC 7517) at `/.well-known/jwks.json`;
 * agents verify with that.
 */
import { randomUUID } from "node:crypto";
import {
  calculateJwkThumbprint,
  createLocalJWKSet,
  errors,
  exportJWK,
  generateKeyPair,
  importJWK,
  jwtVerify,
  SignJWT,
  type JSONWebKeySet,
  type JWK,
  type JWTPayload,
  type JWTVerifyGetKey,
} from "jose";
import { Type, type Static } from "@sinclair/typebox";
import { Value } from "@sinclair/typebox/value";
import type { Clock } from "./clock.ts";
import { AppError, toAppError } from "./errors.ts";
import { fetchTrusted } from "./http/fetch.ts";
import { loadOrCreateSecretFile } from "./secret-files.ts";
import { NODE_TRUST, type Trust } from "./tls/trust.ts";

/** `iss` of every token. */
export const TOKEN_ISSUER = "dynamos-orchestrator";
/** An access token's life in seconds. */
export const ACCESS_TOKEN_SECONDS = 600;
/** A refresh token's life in seconds; it also ends with its job. */
export const REFRESH_TOKEN_SECONDS = 24 * 3600;
/** Clock skew tolerated between parties, in seconds (decision 22). */
export const CLOCK_TOLERANCE_SECONDS = 30;

/** Of keys that are made here. */
const ALGORITHM = "EdDSA";
/** Of keys that operators bring along, as well (`private-keys.ts`). A key fits one of them alone. */
const ALGORITHMS = [ALGORITHM, "ES256", "ES384", "ES512", "RS256"];

/** What a token says of its bearer; see decision 18. */
export const TokenClaims = Type.Object({
  /** `user.userName`. Personal data. */
  sub: Type.String({ minLength: 1 }),
  /** `user.id`. */
  uid: Type.String(),
  /** The approval: its job name. */
  job: Type.String({ minLength: 1 }),
  requestType: Type.String({ minLength: 1 }),
  dataSets: Type.Array(Type.String()),
  /** Parties where it counts: the plan's data providers, and every third party that all of them accept. */
  aud: Type.Array(Type.String()),
  /** Revision of each data provider's agreement when the token was issued. */
  agreements: Type.Record(Type.String(), Type.Integer()),
});
export type TokenClaims = Static<typeof TokenClaims>;

/** A verified token: its claims, its own id, and when it ends (seconds since the epoch). */
export interface VerifiedToken extends TokenClaims {
  readonly jti: string;
  readonly exp: number;
}

/** A pair as the approval's `auth` carries it. */
export interface IssuedTokens {
  readonly accessToken: string;
  readonly refreshToken: string;
}

/** What a verifier demands. */
export interface VerifyOptions {
  /** The party that verifies; it must be in the audience. Absent (at the issuer itself): not checked. */
  readonly audience?: string;
  readonly clock: Clock;
}

/** Gives the public key that a token's header names: `remoteJwks` or {@link localJwks}. */
export type KeyGetter = JWTVerifyGetKey;

/**
 * Issues an access token and a refresh token over the same claims, signed with a private JWK. Tokens made by refreshing end
 * with the refresh token that they were made from (`refreshUntil`, seconds since the epoch): refreshing extends no approval.
 */
export async function issueTokens(
  claims: TokenClaims,
  signingKey: JWK,
  clock: Clock,
  refreshUntil = Number.POSITIVE_INFINITY,
): Promise<IssuedTokens> {
  const issuedAt = Math.floor(clock.now() / 1000);
  const sign = async (typ: "access" | "refresh", seconds: number): Promise<string> =>
    new SignJWT({ ...claims, typ } satisfies JWTPayload)
      .setProtectedHeader({
        alg: algorithmOf(signingKey),
        typ: "JWT",
        ...(signingKey.kid ? { kid: signingKey.kid } : {}),
      })
      .setIssuer(TOKEN_ISSUER)
      .setIssuedAt(issuedAt)
      .setExpirationTime(Math.min(issuedAt + seconds, refreshUntil))
      .setJti(randomUUID())
      .sign(await importJWK(signingKey, algorithmOf(signingKey)));
  return {
    accessToken: await sign("access", ACCESS_TOKEN_SECONDS),
    refreshToken: await sign("refresh", REFRESH_TOKEN_SECONDS),
  };
}

/**
 * The claims of an access token. Fails with `unauthenticated` (no token), `token_expired`, `token_invalid` (forged,
 * malformed, not an access token, or for another party), or `unavailable` (no keys to check with).
 */
export async function verifyAccessToken(
  token: string | undefined,
  getKey: KeyGetter,
  options: VerifyOptions,
): Promise<VerifiedToken> {
  return verifyToken(token, "access", getKey, options);
}

/** How long a token that was found good counts as checked (decision 0020), and how many such are remembered. */
const CHECKED_MS = 30_000;
const MAX_CHECKED = 1_000;

/**
 * Verifies the access tokens of one audience. A caller of many requests sends the same one with each: one that was found good a
 * moment ago is not checked again but for its end. It is forgotten as the next one comes after its time.
 */
export class AccessTokenVerifier {
  readonly #getKey: KeyGetter;
  readonly #options: VerifyOptions;
  readonly #checked = new Map<string, { readonly claims: VerifiedToken; readonly untilMs: number }>();

  constructor(getKey: KeyGetter, options: VerifyOptions) {
    this.#getKey = getKey;
    this.#options = options;
  }

  /** As {@link verifyAccessToken}. */
  async verify(token: string | undefined): Promise<VerifiedToken> {
    const { clock } = this.#options;
    const known = token === undefined ? undefined : this.#checked.get(token);
    if (known !== undefined && clock.now() < known.untilMs) return known.claims;
    const claims = await verifyAccessToken(token, this.#getKey, this.#options);
    if (token === undefined) return claims;
    this.#remember(token, claims);
    return claims;
  }

  /** How many tokens are remembered. */
  get size(): number {
    return this.#checked.size;
  }

  #remember(token: string, claims: VerifiedToken): void {
    const nowMs = this.#options.clock.now();
    for (const [other, { untilMs }] of this.#checked) if (untilMs <= nowMs) this.#checked.delete(other);
    if (this.#checked.size >= MAX_CHECKED) this.#checked.clear();
    this.#checked.set(token, { claims, untilMs: Math.min(nowMs + CHECKED_MS, claims.exp * 1000) });
  }
}

/** As {@link verifyAccessToken}, for the refresh token. */
export async function verifyRefreshToken(
  token: string | undefined,
  getKey: KeyGetter,
  options: VerifyOptions,
): Promise<VerifiedToken> {
  return verifyToken(token, "refresh", getKey, options);
}

/** The public halves of private keys, as a JWK set to publish. */
export function publicJwks(keys: readonly JWK[]): JSONWebKeySet {
  return {
    keys: keys.map((key) => ({ ...publicMembers(key), alg: algorithmOf(key), use: "sig" })),
  };
}

/** What a public key consists of (RFC 7518, section 6; RFC 8037): named one by one, so that nothing private goes along. */
function publicMembers({ kty, crv, x, y, n, e, kid }: JWK): JWK {
  const members = { kty, crv, x, y, n, e, kid };
  return Object.fromEntries(Object.entries(members).filter(([, value]) => value !== undefined));
}

function algorithmOf({ alg }: JWK): string {
  return alg ?? ALGORITHM;
}

/** A key getter over keys at hand, for whoever signs itself. */
export function localJwks(keys: readonly JWK[]): KeyGetter {
  return createLocalJWKSet(publicJwks(keys));
}

/**
 * The private key in the file, made at first use: an Ed25519 JWK with its thumbprint (RFC 7638) as `kid`, mode 0600. The
 * file appears whole or not at all, and processes that start at once end with the same key.
 */
export async function loadOrCreateSigningKey(path: string): Promise<JWK> {
  const text = await loadOrCreateSecretFile(path, makeSigningKey).catch((cause: unknown) => {
    throw new AppError("configuration_invalid", `The key file ${path} cannot be read or made.`, {
      cause,
      place: { file: path },
    });
  });
  try {
    const key = JSON.parse(text) as JWK;
    await importJWK(key, ALGORITHM);
    if (key.crv !== "Ed25519" || key.d === undefined || key.kid === undefined) {
      throw new Error("not a private Ed25519 JWK with a kid");
    }
    return key;
  } catch (cause) {
    throw new AppError("configuration_invalid", `The key file ${path} holds no private Ed25519 key as a JWK.`, {
      cause,
      place: { file: path },
    });
  }
}

async function makeSigningKey(): Promise<string> {
  const { privateKey } = await generateKeyPair(ALGORITHM, { crv: "Ed25519", extractable: true });
  const jwk = await exportJWK(privateKey);
  return `${JSON.stringify({ ...jwk, alg: ALGORITHM, use: "sig", kid: await calculateJwkThumbprint(jwk) })}\n`;
}

/** How {@link remoteJwks} fetches. */
export interface RemoteJwksOptions {
  readonly clock: Clock;
  /** Whose certificates count, of `https` URLs; default: what Node trusts. */
  readonly trust?: Trust;
  /** Deadline of one fetch; default 5,000. */
  readonly timeoutMs?: number;
  /** A set older than this is fetched again before use, and used on if that fails; default 300,000. */
  readonly maxAgeMs?: number;
  /** At least this long between two fetches for a key that the set lacks; default 5,000. */
  readonly cooldownMs?: number;
}

/**
 * A key getter over the published set, which is the same at each of these URLs (of an orchestrator's replicas) and is taken from
 * the first that answers: cached, fetched once for all who wait, again when a token names a key that it lacks. `unavailable` only
 * when no orchestrator can be reached and nothing is cached.
 */
export function remoteJwks(urls: readonly string[], options: RemoteJwksOptions): KeyGetter {
  const { clock, trust = NODE_TRUST, timeoutMs = 5_000, maxAgeMs = 300_000, cooldownMs = 5_000 } = options;
  let cached: { readonly find: ReturnType<typeof createLocalJWKSet>; readonly fetchedAtMs: number } | undefined;
  let fetching: Promise<void> | undefined;
  let triedAtMs = Number.NEGATIVE_INFINITY;
  const refresh = async (): Promise<void> => {
    triedAtMs = clock.now();
    const keySet = await fetchKeySet(urls, timeoutMs, trust);
    cached = { find: createLocalJWKSet(keySet), fetchedAtMs: clock.now() };
  };
  const refreshOnce = (): Promise<void> => (fetching ??= refresh().finally(() => (fetching = undefined)));
  return async (header, token) => {
    const mayTry = (): boolean => clock.now() - triedAtMs >= cooldownMs;
    if (cached === undefined) await refreshOnce();
    else if (clock.now() - cached.fetchedAtMs > maxAgeMs && mayTry()) await refreshOnce().catch(keepCached);
    try {
      return await cached!.find(header, token);
    } catch (thrown) {
      if (!(thrown instanceof errors.JWKSNoMatchingKey) || !mayTry()) throw thrown;
    }
    await refreshOnce().catch(keepCached);
    return cached!.find(header, token);
  };
}

/** The cached set still verifies; a set that cannot be fetched now is tried again after the cooldown. */
function keepCached(thrown: unknown): void {
  if (toAppError(thrown).code !== "unavailable") throw thrown;
}

async function fetchKeySet(urls: readonly string[], timeoutMs: number, trust: Trust): Promise<JSONWebKeySet> {
  const faults: unknown[] = [];
  for (const url of urls) {
    try {
      return await fetchKeySetAt(url, timeoutMs, trust);
    } catch (thrown) {
      faults.push(thrown);
    }
  }
  const known = faults.find((fault) => fault instanceof AppError);
  throw new AppError(
    "unavailable",
    `The orchestrator's public keys at ${urls.join(" or ")} cannot be read within ${String(timeoutMs)} ms.` +
      (known === undefined ? "" : ` ${known.message}`),
    { party: "orchestrator", cause: faults.length === 1 ? faults[0] : new AggregateError(faults) },
  );
}

async function fetchKeySetAt(url: string, timeoutMs: number, trust: Trust): Promise<JSONWebKeySet> {
  const response = await fetchTrusted(url, {
    signal: AbortSignal.timeout(timeoutMs),
    headers: { accept: "application/json" },
    trust,
  });
  if (!response.ok) throw new Error(`status ${String(response.status)}`);
  const body = (await response.json()) as JSONWebKeySet;
  createLocalJWKSet(body);
  return body;
}

async function verifyToken(
  token: string | undefined,
  typ: "access" | "refresh",
  getKey: KeyGetter,
  { audience, clock }: VerifyOptions,
): Promise<VerifiedToken> {
  if (token === undefined || token === "") {
    throw new AppError("unauthenticated", 'A token is needed: send "Authorization: Bearer <token>".');
  }
  const payload = await verifyJwt(token, getKey, audience, clock);
  if (payload["typ"] !== typ) throw new AppError("token_invalid", `This is not an ${typ} token.`);
  const { jti, exp } = payload;
  if (jti === undefined || exp === undefined || !Value.Check(TokenClaims, payload)) {
    throw new AppError("token_invalid", "The token lacks claims that this system's tokens have.");
  }
  const { sub, uid, job, requestType, dataSets, aud, agreements } = payload;
  return { sub, uid, job, requestType, dataSets, aud, agreements, jti, exp };
}

async function verifyJwt(
  token: string,
  getKey: KeyGetter,
  audience: string | undefined,
  clock: Clock,
): Promise<JWTPayload> {
  try {
    const { payload } = await jwtVerify(token, getKey, {
      issuer: TOKEN_ISSUER,
      algorithms: ALGORITHMS,
      clockTolerance: CLOCK_TOLERANCE_SECONDS,
      currentDate: new Date(clock.now()),
      requiredClaims: ["exp", "iat", "jti"],
      ...(audience === undefined ? {} : { audience }),
    });
    return payload;
  } catch (thrown) {
    if (thrown instanceof AppError) throw thrown;
    if (thrown instanceof errors.JWTExpired) {
      throw new AppError("token_expired", "The token has expired; get a new one at POST /api/v1/token.", {
        cause: thrown,
      });
    }
    if (thrown instanceof errors.JWTClaimValidationFailed && thrown.claim === "aud") {
      throw new AppError("token_invalid", `The token is not for ${audience ?? "this party"}.`, { cause: thrown });
    }
    if (thrown instanceof errors.JOSEError) {
      throw new AppError("token_invalid", "The token is not one that the orchestrator signed.", { cause: thrown });
    }
    throw thrown;
  }
}
