/** Ends an HTTP server: answers under way may end by themselves for a while, and are broken off then. */
import type { FastifyInstance } from "fastify";

/** A release of it may take so much longer than the answers that it waits for. */
export const CLOSING_REST_MS = 2_000;

/**
 * Closes the server. New requests are refused at once; a connection whose answer is not over after `drainMs`, for example because
 * nobody reads it, is closed. Resolves when no connection is left.
 */
export async function closeServer(server: FastifyInstance, drainMs: number): Promise<void> {
  const giveUp = setTimeout(() => server.server.closeAllConnections(), drainMs);
  try {
    await server.close();
  } finally {
    clearTimeout(giveUp);
  }
}
