/** Which open buses died without closing. */

import { liveness, type Liveness, type ProcessIdentity } from "./embedded-process.ts";
import type { InstanceRow } from "./embedded-tables.ts";

/**
 * Sweeps (one a second) without a heartbeat after which an instance counts as dead. A process that is seen to live gets
 * long: it may be stopped or hard at work, and taking its deliveries would double them.
 */
const QUIET_SWEEPS: Record<Liveness, number> = { gone: 0, unknown: 9, alive: 30 };

/**
 * Watches the others' heartbeats. Silence is counted in this observer's own sweeps instead of read from timestamps: so
 * a suspended machine, a busy one, or a clock that is set kills nobody.
 */
export class DeadInstances {
  readonly #self: ProcessIdentity;
  #seen = new Map<number, { readonly beat: number; readonly quietSweeps: number }>();

  constructor(self: ProcessIdentity) {
    this.#self = self;
  }

  /** One sweep: the dead among `instances`, `ownId` excepted. */
  among(instances: readonly InstanceRow[], ownId: number | undefined): number[] {
    const before = this.#seen;
    this.#seen = new Map();
    return instances
      .filter((instance) => instance.id !== ownId)
      .filter((instance) => {
        const last = before.get(instance.id);
        const quietSweeps = last?.beat === instance.beat ? last.quietSweeps + 1 : 0;
        this.#seen.set(instance.id, { beat: instance.beat, quietSweeps });
        return quietSweeps >= QUIET_SWEEPS[liveness(instance, this.#self)];
      })
      .map((instance) => instance.id);
  }
}
