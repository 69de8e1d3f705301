/**
 * Who the caller is: the one place that knows. Today an approval believes its body's `user`, all else goes by token, and
 * config writes by the admin key (decision 23). Logging users in changes this file alone.
 */
import { createHash, timingSafeEqual } from "node:crypto";
import type { FastifyRequest } from "fastify";
import type { Clock } from "../../lib/clock.ts";
import { AppError } from "../../lib/errors.ts";
import { bearerToken } from "../../lib/http/request-headers.ts";
import type { User } from "../../lib/model/names.ts";
import { verifyAccessToken, verifyRefreshToken, type KeyGetter, type VerifiedToken } from "../../lib/tokens.ts";

/** See the file comment. */
export class Callers {
  readonly #keys: KeyGetter;
  readonly #adminKey: string;
  readonly #clock: Clock;

  constructor(keys: KeyGetter, adminKey: string, clock: Clock) {
    this.#keys = keys;
    this.#adminKey = adminKey;
    this.#clock = clock;
  }

  /** Who asks for an approval. */
  ofApproval(_request: FastifyRequest, claimed: User): User {
    return claimed;
  }

  /** The bearer of an access token; `unauthenticated`, `token_expired` or `token_invalid` otherwise. */
  async ofToken(request: FastifyRequest): Promise<VerifiedToken> {
    return verifyAccessToken(bearerToken(request), this.#keys, { clock: this.#clock });
  }

  /** The bearer of a refresh token, given in the body or as the bearer token. */
  async ofRefreshToken(request: FastifyRequest, refreshToken: string | undefined): Promise<VerifiedToken> {
    return verifyRefreshToken(refreshToken ?? bearerToken(request), this.#keys, { clock: this.#clock });
  }

  /** Whether the request carries the admin key, as `X-Admin-Key` or as the bearer token. */
  isAdmin(request: FastifyRequest): boolean {
    const header = request.headers["x-admin-key"];
    const given = typeof header === "string" ? header : bearerToken(request);
    return given !== undefined && isSameSecret(given, this.#adminKey);
  }

  /** Refuses whoever is no admin: `unauthenticated` without a key, `forbidden` with a wrong one. */
  requireAdmin(request: FastifyRequest): void {
    if (this.isAdmin(request)) return;
    if (request.headers["x-admin-key"] === undefined && bearerToken(request) === undefined) {
      throw new AppError("unauthenticated", 'This needs the admin key: send "Authorization: Bearer <admin key>".');
    }
    throw new AppError("forbidden", "This needs the admin key; what was sent is not it.");
  }
}

/** In constant time: hashes have one length, whatever was sent. */
function isSameSecret(given: string, secret: string): boolean {
  const hash = (text: string): Buffer => createHash("sha256").update(text).digest();
  return timingSafeEqual(hash(given), hash(secret));
}
