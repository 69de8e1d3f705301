/** What every deployable reads from a request's headers in the same way. */
import type { FastifyRequest } from "fastify";

/** In an answer of one service to another: nothing was done here, ask elsewhere. */
export const NOT_HERE_HEADER = "x-dynamos-not-here";

/** The token of an Authorization header (RFC 6750), or undefined. */
export function bearerToken({ headers }: Pick<FastifyRequest, "headers">): string | undefined {
  return /^Bearer +(\S+)$/i.exec(headers.authorization ?? "")?.[1];
}
