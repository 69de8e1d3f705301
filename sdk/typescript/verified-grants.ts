/** Grants that come with a stream, checked: signature, steward, request, time. */
import { decodeJwt, type JWK } from "jose";
import type { Clock } from "../../lib/clock.ts";
import { AppError } from "../../lib/errors.ts";
import { verifyGrant } from "../../lib/grants.ts";
import type { Grant } from "../../lib/model/grant.ts";

/** What the grants of a stream must fit. */
export interface GrantExpectation {
  /** This party, and its public keys. */
  readonly steward: string;
  readonly keys: readonly JWK[];
  readonly requestId: string;
  readonly clock: Clock;
}

/**
 * Checks grants.
 *
 * @param tokens signed grants: one's own first, then, at a third party, those of data providers.
 * @returns them in the same order.
 * @throws AppError `forbidden` for a missing, forged or foreign grant, or one of another request; `deadline_exceeded` for one
 * whose time is over.
 */
export async function verifyGrants(tokens: readonly string[], expected: GrantExpectation): Promise<readonly Grant[]> {
  const [ownToken, ...providerTokens] = tokens;
  if (ownToken === undefined) throw new AppError("forbidden", "The stream carries no grant.");
  const own = await verifyGrant(ownToken, expected.keys);
  checkClaims(own, expected.steward, expected);
  const others = await Promise.all(providerTokens.map((token) => verifyProviderGrant(token, own, expected)));
  return [own, ...others];
}

async function verifyProviderGrant(token: string, own: Grant, expected: GrantExpectation): Promise<Grant> {
  const steward = claimedSteward(token);
  const keys = own.providers?.[steward];
  if (keys === undefined) throw new AppError("forbidden", `${steward} is no data provider of this request.`);
  const grant = await verifyGrant(token, keys);
  checkClaims(grant, steward, expected);
  return grant;
}

function checkClaims(grant: Grant, steward: string, { requestId, clock }: GrantExpectation): void {
  if (grant.steward !== steward)
    throw new AppError("forbidden", `The grant is of ${grant.steward}, not of ${steward}.`);
  if (grant.requestId !== requestId) throw new AppError("forbidden", `The grant of ${steward} is for another request.`);
  if (grant.deadlineMs <= clock.now()) throw new AppError("deadline_exceeded", `The grant of ${steward} has expired.`);
}

/** Whose grant it says it is, before that is checked: it only chooses the keys to check with. */
function claimedSteward(token: string): string {
  let claims: { readonly steward?: unknown };
  try {
    claims = decodeJwt(token);
  } catch (cause) {
    throw new AppError("forbidden", "A grant is not a signed document.", { cause });
  }
  if (typeof claims.steward === "string") return claims.steward;
  throw new AppError("forbidden", "A grant does not name its steward.");
}
