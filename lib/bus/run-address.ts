/**
 * Where messages of one run go: a queue of its own, or one that several runs share. Its written form is the queue's name, for a
 * shared queue followed by `#` and the run's name (no queue has a `#` in its name). On a shared queue the run is the messages'
 * correlation id. A request id does not tell runs apart: clients choose it, and two jobs may have the same.
 */
import { chainNamePattern, isRunOf } from "../model/names.ts";
import type { MessageBus, OutgoingMessage } from "./message-bus.ts";

const SEPARATOR = "#";

/** A queue, and on a shared one the run. */
export interface RunAddress {
  readonly queue: string;
  readonly run?: string;
}

/** The written form of a run's place on a shared queue. */
export function sharedQueueAddress(queue: string, run: string): string {
  return `${queue}${SEPARATOR}${run}`;
}

/** Reads the written form. */
export function parseRunAddress(address: string): RunAddress {
  const at = address.indexOf(SEPARATOR);
  return at < 0 ? { queue: address } : { queue: address.slice(0, at), run: address.slice(at + SEPARATOR.length) };
}

/** Whether messages to an address reach a run of this party, and nothing else. */
export function isAddressOf(address: string, steward: string): boolean {
  const { queue, run } = parseRunAddress(address);
  if (run === undefined) return isRunOf(queue, steward);
  return isRunOf(run, steward) && new RegExp(`^${chainNamePattern([steward])}$`).test(queue);
}

/** Publishes to a run; as `MessageBus.publish`. */
export function publishToRun(
  bus: Pick<MessageBus, "publish">,
  address: string,
  message: OutgoingMessage,
): Promise<void> {
  const { queue, run } = parseRunAddress(address);
  return bus.publish(queue, run === undefined ? message : { ...message, correlationId: run });
}
