/**
 * What dead instances of this party's agent left behind: their jobs, the queues of their runs, and their own queues. Jobs carry
 * their instance as a label; those of a living instance are never touched. Several instances may do this at once.
 */
import {
  instanceControlQueue,
  instanceReplyQueue,
  instanceRunsQueue,
  runQueue,
  runReplyQueue,
} from "../../lib/bus/queues.ts";
import type { MessageBus } from "../../lib/bus/message-bus.ts";
import type { JobRunner } from "../../lib/jobs/job-runner.ts";
import { INSTANCE_LABEL, LIFETIME_LABEL } from "../chains/chain-shape.ts";
import { PERSISTENT } from "../chains/persistent-pool.ts";
import { isLiving } from "../chains/persistent-scaling.ts";
import type { Siblings } from "./siblings.ts";

/** Where to look. */
export interface LeftOversOptions {
  readonly runner: JobRunner;
  readonly bus: MessageBus;
}

/** Ends the jobs of instances that do not live, and deletes the queues of their runs. */
export async function removeLeftOvers({ runner, bus }: LeftOversOptions, siblings: Siblings): Promise<void> {
  for (const { name, labels, phase } of await runner.list()) {
    const isPersistent = labels[LIFETIME_LABEL] === PERSISTENT;
    // It serves whoever is there, and ends by itself.
    if (isPersistent && isLiving(phase)) continue;
    const instance = labels[INSTANCE_LABEL];
    if (instance !== undefined && (await siblings.isLiving(instance))) continue;
    // One that served others, too, keeps its state and log for as long as any that ended.
    if (!isPersistent) await runner.end(name);
    await bus.deleteQueue(runQueue(name));
    await bus.deleteQueue(runReplyQueue(name));
  }
}

/** Deletes the queues that only this dead instance read. */
export async function removeInstanceQueues(bus: MessageBus, party: string, instance: string): Promise<void> {
  await bus.deleteQueue(instanceReplyQueue(party, instance));
  await bus.deleteQueue(instanceControlQueue(party, instance));
  await bus.deleteQueue(instanceRunsQueue(party, instance));
}
