/**
 * The other instances of this party's agent: who lives, and what happens when one does not any more. Watched in the knowledge
 * store, where each instance has a record under its lease.
 */
import { Value } from "@sinclair/typebox/value";
import type { Clock } from "../../lib/clock.ts";
import { AppError, toAppError } from "../../lib/errors.ts";
import { agentInstanceKeys } from "../../lib/knowledge/keys.ts";
import type { KnowledgeStore, Listing } from "../../lib/knowledge/knowledge-store.ts";
import { AgentInstanceRecord } from "../../lib/messages.ts";
import type { Logger } from "../../lib/telemetry/logger.ts";
import { followPrefix, type StoreFollower } from "../store-watch.ts";

/** How siblings are watched. */
export interface SiblingsOptions {
  readonly store: KnowledgeStore;
  readonly party: string;
  /** This instance, which is no sibling of its own. */
  readonly instance: string;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Called for each sibling that was there and is gone: dead, stopped, or cut off from the store. */
  readonly onGone: (instance: string, closing: AbortSignal) => Promise<void>;
}

/** See the file comment. */
export class Siblings {
  readonly #options: SiblingsOptions;
  readonly #closing = new AbortController();
  /** As the watch has it; by instance. */
  readonly #living = new Map<string, AbortController>();
  #watching: Promise<void> = Promise.resolve();

  private constructor(options: SiblingsOptions) {
    this.#options = options;
  }

  /**
   * Begins to watch.
   *
   * @throws AppError `unavailable` when the store does not answer.
   */
  static async open(options: SiblingsOptions): Promise<Siblings> {
    const siblings = new Siblings(options);
    const { store, party, clock, logger } = options;
    const prefix = agentInstanceKeys.prefix({ party });
    const listing = await store.list(prefix);
    siblings.#takeOver(listing);
    const { signal } = siblings.#closing;
    siblings.#watching = followPrefix(store, prefix, siblings.#follower(), { clock, logger, signal }, listing);
    return siblings;
  }

  /** The siblings that live at this moment, as the store has it; also those that are stopping. */
  async living(): Promise<readonly AgentInstanceRecord[]> {
    const { store, party, instance: self } = this.#options;
    const listing = await store.list(agentInstanceKeys.prefix({ party }));
    return recordsOf(listing).filter(({ instance }) => instance !== self);
  }

  /** Whether an instance lives at this moment, as the store has it; this one does. */
  async isLiving(instance: string): Promise<boolean> {
    const { store, party, instance: self } = this.#options;
    return instance === self || (await store.get(agentInstanceKeys.key({ party, instanceId: instance }))) !== undefined;
  }

  /** Aborted when this sibling is gone; at once when it is not known. Trails the store by the watch's delay. */
  goneSignal(instance: string): AbortSignal {
    return this.#living.get(instance)?.signal ?? AbortSignal.abort();
  }

  /** Ends the watch. */
  async close(): Promise<void> {
    this.#closing.abort();
    await this.#watching;
  }

  #follower(): StoreFollower {
    return {
      onList: async (listing) => this.#takeOver(listing),
      onChange: async (change) => {
        const instance = agentInstanceKeys.parse(change.type === "put" ? change.document.key : change.key)?.instanceId;
        if (instance === undefined) return;
        if (change.type === "put") this.#appeared(instance);
        else this.#vanished(instance);
      },
    };
  }

  /** What is missing in a list is gone. */
  #takeOver(listing: Listing): void {
    const listed = new Set(recordsOf(listing).map(({ instance }) => instance));
    for (const instance of listed) this.#appeared(instance);
    for (const instance of [...this.#living.keys()]) if (!listed.has(instance)) this.#vanished(instance);
  }

  #appeared(instance: string): void {
    if (instance === this.#options.instance || this.#living.has(instance)) return;
    this.#living.set(instance, new AbortController());
  }

  #vanished(instance: string): void {
    const gone = this.#living.get(instance);
    if (gone === undefined) return;
    this.#living.delete(instance);
    gone.abort(new AppError("unavailable", `Instance ${instance} of the agent is gone.`));
    const { logger, onGone } = this.#options;
    const { signal } = this.#closing;
    logger.info({ sibling: instance }, "another instance of this party's agent is gone");
    onGone(instance, signal).catch((error: unknown) => {
      if (signal.aborted) return;
      logger.error({ error: toAppError(error), sibling: instance }, "what a dead instance left could not be removed");
    });
  }
}

function recordsOf({ documents }: Listing): AgentInstanceRecord[] {
  return documents.map(({ key, value }) => {
    if (Value.Check(AgentInstanceRecord, value)) return value;
    throw new AppError("configuration_invalid", `The record ${key} in the knowledge store is malformed.`);
  });
}
