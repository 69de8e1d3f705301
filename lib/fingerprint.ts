/** Telling JSON values apart. Pure. */
import { createHash } from "node:crypto";

/** What JSON values are told apart by: equal ones have the same fingerprint, whatever the order of their members. */
export function fingerprintOf(...parts: readonly unknown[]): string {
  return createHash("sha256").update(JSON.stringify(parts, withSortedMembers)).digest("hex");
}

function withSortedMembers(_name: string, value: unknown): unknown {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return value;
  return Object.fromEntries(Object.entries(value).sort(([left], [right]) => (left < right ? -1 : 1)));
}
