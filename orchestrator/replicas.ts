/**
 * The instances of the orchestrator. Each stands in the knowledge store while it lives (`lib/registration.ts`). What one of
 * them began and did not end (a composition, an approval, an answer that is kept) names it, and others take it over when its
 * record is gone: the store's leases decide that, so that the replicas' clocks need not agree.
 */
import { orchestratorOnlineKeys } from "../lib/knowledge/keys.ts";
import { versioned } from "../lib/knowledge/knowledge-base.ts";
import type { KnowledgeStore } from "../lib/knowledge/knowledge-store.ts";
import { OrchestratorOnlineRecord } from "../lib/messages.ts";

/** See the file comment. */
export class Replicas {
  /** This instance; unique per process start. */
  readonly instance: string;
  readonly #store: KnowledgeStore;

  constructor(store: KnowledgeStore, instance: string) {
    this.#store = store;
    this.instance = instance;
  }

  /** The record of an instance that lives, or undefined. */
  async find(instance: string): Promise<OrchestratorOnlineRecord | undefined> {
    const stored = await this.#store.get(orchestratorOnlineKeys.key({ instanceId: instance }));
    return stored === undefined ? undefined : versioned(OrchestratorOnlineRecord, stored).document;
  }

  /** Whether an instance lives; this one does, whatever the store knows of it. */
  async isAlive(instance: string): Promise<boolean> {
    return instance === this.instance || (await this.find(instance)) !== undefined;
  }
}
