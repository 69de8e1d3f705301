/** How many persistent chains of one shape to start, and in which slots. Pure. */
import { readChainName } from "../../lib/model/names.ts";
import type { JobPhase } from "../../lib/jobs/job-runner.ts";

/** What is known of a shape's chains. */
export interface ChainLoad {
  /** Requests in the work queue that no chain has taken. */
  readonly ready: number;
  /** Chains that are being started: each will take {@link concurrency} requests. */
  readonly starting: number;
  /** Chains that take requests. */
  readonly running: number;
  /** Runs that one chain serves at once. */
  readonly concurrency: number;
  /** Most chains. */
  readonly max: number;
}

/**
 * Chains to start now: as many as the requests that wait would fill, beyond those on their way. Chains that run have had their
 * chance at what waits; they end by themselves when they have nothing to do.
 */
export function chainsToStart({ ready, starting, running, concurrency, max }: ChainLoad): number {
  const unserved = ready - starting * concurrency;
  if (unserved <= 0) return 0;
  return Math.max(0, Math.min(Math.ceil(unserved / concurrency), max - starting - running));
}

/** A job that is or was a chain of the shape. */
export interface KnownChain {
  readonly name: string;
  readonly phase: JobPhase;
}

/** Where a chain can be started: a slot without a living one, and the generation that comes next in it. */
export interface FreeSlot {
  readonly slot: number;
  readonly generation: number;
}

/** The free slots, lowest first. Replicas that know the same jobs come to the same slots and generations. */
export function freeSlots(chains: readonly KnownChain[], max: number): readonly FreeSlot[] {
  const slots: FreeSlot[] = [];
  for (let slot = 0; slot < max; slot++) {
    const here = chains.filter(({ name }) => readChainName(name)?.slot === slot);
    if (here.some(({ phase }) => isLiving(phase))) continue;
    const generations = here.map(({ name }) => readChainName(name)?.generation ?? 0);
    slots.push({ slot, generation: Math.max(-1, ...generations) + 1 });
  }
  return slots;
}

/** Whether it runs, or will. */
export function isLiving(phase: JobPhase): boolean {
  return phase === "starting" || phase === "running";
}
