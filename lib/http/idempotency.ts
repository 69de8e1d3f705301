/** Ids of data requests (decision 1): the same key is the same id, at every deployable. What they ask is compared by its fingerprint (`lib/fingerprint.ts`). */
import { createHash, randomUUID } from "node:crypto";
import { AppError } from "../errors.ts";

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;

/** The id of a request, and whether its caller can ask again under it. */
export interface RequestId {
  readonly requestId: string;
  readonly isRepeatable: boolean;
}

/** The id of a request: of its `Idempotency-Key`, or a new one. A key has 1 to 128 visible ASCII characters, else `bad_request`. */
export function requestIdOf(idempotencyKey: string | readonly string[] | undefined): RequestId {
  if (idempotencyKey === undefined) return { requestId: randomUUID(), isRepeatable: false };
  if (typeof idempotencyKey !== "string" || !/^[\x21-\x7e]{1,128}$/.test(idempotencyKey)) {
    throw new AppError("bad_request", "Idempotency-Key has 1 to 128 visible ASCII characters without spaces.");
  }
  if (UUID.test(idempotencyKey)) return { requestId: idempotencyKey.toLowerCase(), isRepeatable: true };
  // Ids name queues and jobs, so any other key becomes a UUID by its hash.
  const hex = createHash("sha256").update(idempotencyKey).digest("hex");
  const groups = [
    hex.slice(0, 8),
    hex.slice(8, 12),
    `5${hex.slice(13, 16)}`,
    `8${hex.slice(17, 20)}`,
    hex.slice(20, 32),
  ];
  return { requestId: groups.join("-"), isRepeatable: true };
}
