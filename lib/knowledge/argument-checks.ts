/** What every adapter of the knowledge store checks before it sends anything: keys, prefixes, values, times to live. */
import { AppError } from "../errors.ts";
import { MAX_KEY_BYTES, MAX_VALUE_BYTES, MIN_LEASE_TTL_MS } from "./knowledge-store.ts";

/** The key, if it is one; else fails with `invalid_argument`. */
export function checkedKey(key: string): string {
  const bytes = Buffer.byteLength(key);
  const fault = !isWellFormed(key)
    ? "is not well-formed Unicode"
    : bytes === 0 || bytes > MAX_KEY_BYTES
      ? `has ${bytes} bytes`
      : key.startsWith("/")
        ? undefined
        : "begins otherwise";
  if (fault === undefined) return key;
  const message = `A key must be well-formed, of 1 to ${MAX_KEY_BYTES} bytes, and begin with a slash; this one ${fault}.`;
  throw new AppError("invalid_argument", message);
}

/** The beginning of keys, if it can be one: empty (all keys), or with a leading slash; else fails with `invalid_argument`. */
export function checkedPrefix(prefix: string): string {
  if (prefix === "" || (prefix.startsWith("/") && isWellFormed(prefix))) return prefix;
  throw new AppError("invalid_argument", "A prefix of keys must be empty, or well-formed and begin with a slash.");
}

/** The value as JSON. Fails with `invalid_argument` when it is not JSON, with `message_too_large` beyond the limit. */
export function toJson(value: unknown): string {
  let json: string | undefined;
  try {
    json = JSON.stringify(value);
  } catch (error) {
    throw new AppError("invalid_argument", "The value cannot be written as JSON.", { cause: error });
  }
  if (json === undefined) throw new AppError("invalid_argument", `A ${typeof value} cannot be written as JSON.`);
  const bytes = Buffer.byteLength(json);
  if (bytes <= MAX_VALUE_BYTES) return json;
  const message = `The value has ${bytes} bytes of JSON; at most ${MAX_VALUE_BYTES} are allowed in the knowledge store.`;
  throw new AppError("message_too_large", message);
}

/** The time to live of a lease, if it is long enough; else fails with `invalid_argument`. */
export function checkedTtl(ttlMs: number): number {
  if (Number.isInteger(ttlMs) && ttlMs >= MIN_LEASE_TTL_MS) return ttlMs;
  const message = `A lease of ${ttlMs} ms cannot be granted: ttlMs must be a whole number of at least ${MIN_LEASE_TTL_MS}.`;
  throw new AppError("invalid_argument", message);
}

/** The failure of whoever uses a lease that has ended. */
export function leaseEnded(id: string): AppError {
  return new AppError("not_found", `The lease ${id} has ended; grant a new one and write its keys again.`);
}

/** The failure of a write whose document is not as demanded. Revision 0: there is none. */
export function notAsDemanded(demanded: number, found: number): AppError {
  const message = `The document is not as expected: ${name(demanded)} was demanded, ${name(found)} was found. Read it again.`;
  return new AppError("precondition_failed", message);
}

/** The failure of a write whose guard is not as demanded. */
export function guardChanged(key: string, demanded: number, found: number): AppError {
  const message = `The write was guarded by ${key}, which is not as expected: ${name(demanded)} was demanded, ${name(found)} was found.`;
  return new AppError("precondition_failed", message, { details: { guard: key } });
}

/** The failure of a watch that begins where changes are no longer kept. */
export function changesForgotten(fromRevision: number): AppError {
  const message = `Changes since revision ${fromRevision} are no longer kept: list again, and watch from there.`;
  return new AppError("unavailable", message);
}

function name(revision: number): string {
  return revision === 0 ? "no such document" : `revision ${revision}`;
}

function isWellFormed(text: string): boolean {
  // UTF-8 has no lone surrogates: all would become the same character.
  return !/\p{Surrogate}/u.test(text);
}
