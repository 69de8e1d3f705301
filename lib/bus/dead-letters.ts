/** What the adapters' dead letters have in common. */

import { AppError } from "../errors.ts";
import type { Delivery, OutgoingMessage } from "./message-bus.ts";

/** How many dead letters a bus keeps; beyond it the oldest go. */
export const MAX_DEAD_LETTERS = 10_000;

/** How many bytes of dead letters a bus keeps: 64 MiB; beyond it the oldest go. */
export const MAX_DEAD_LETTER_BYTES = 64 * 1024 * 1024;

/** A dead letter's message as it is sent anew. What had expired would only expire again: it then has no end. */
export function replayed(message: Delivery, now: number): OutgoingMessage {
  const { redeliveryCount: _, expiresAtMs, ...sent } = message;
  return expiresAtMs === undefined || expiresAtMs <= now ? sent : { ...sent, expiresAtMs };
}

/** The `not_found` of a replay. */
export function noDeadLetter(id: string): AppError {
  return new AppError(
    "not_found",
    `There is no dead letter "${id}": it was replayed already, or newer ones took its place. List them anew.`,
  );
}
