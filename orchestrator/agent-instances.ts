/**
 * Which instance of a party's agent is asked. Rendezvous hashing (Thaler and Ravishankar, "Using name-based mappings to
 * increase hit rates", 1998): each instance draws a number for the request, the highest wins. So every replica of the
 * orchestrator, and every repeat, asks the instance where the run is; load spreads; and an instance that goes moves only its
 * own requests. Pure.
 */
import { createHash } from "node:crypto";

/** The instances in the order in which this request asks them; the later ones are for when the earlier cannot be reached. */
export function inOrderOfChoice<Instance extends { readonly instance: string }>(
  requestId: string,
  instances: readonly Instance[],
): Instance[] {
  return instances
    .map((one) => ({ one, drawn: draw(requestId, one.instance) }))
    .sort((left, right) => right.drawn.compare(left.drawn) || (left.one.instance < right.one.instance ? -1 : 1))
    .map(({ one }) => one);
}

function draw(requestId: string, instance: string): Buffer {
  return createHash("sha256")
    .update(JSON.stringify([requestId, instance]))
    .digest();
}
