/** What the doctor says: one finding per thing looked at. */

/** `fail`: something does not work; `warn`: it works, and will not for long or not for all; `skip`: could not be looked at. */
export type Level = "ok" | "warn" | "fail" | "skip";

/** One thing that was looked at. */
export interface Finding {
  /** Stable, for scripts and for `docs/operations.md`: `store.reachable`. */
  readonly id: (typeof FINDING_IDS)[number];
  readonly level: Level;
  /** What was found, as a sentence. Never a secret. */
  readonly found: string;
  /** What to do about it, where it is not ok. */
  readonly fix?: string;
}

/** All ids, in the order in which they are looked at. `docs/operations.md` lists them; a test compares. */
export const FINDING_IDS = [
  "node.version",
  "settings.valid",
  "configuration.valid",
  "state.disk",
  "state.admin-key",
  "store.reachable",
  "store.writable",
  "store.lease",
  "store.documents",
  "store.rules",
  "bus.reachable",
  "bus.works",
  "bus.queue",
  "bus.consumers",
  "bus.depth",
  "bus.dead-letters",
  "orchestrator.online",
  "orchestrator.keys",
  "agent.online",
  "agent.agreement",
  "service.reachable",
  "service.ready",
  "service.version",
  "service.clock",
  "tls.certificate",
  "cluster.reachable",
  "cluster.clock",
  "cluster.parts",
  "cluster.namespace",
  "cluster.rights",
  "cluster.secret",
  "cluster.image",
  "cluster.pod",
  "cluster.volume",
  "cluster.quota",
  "cluster.network",
  "cluster.enforcement",
] as const;

/** What came of a try. */
export type Outcome =
  { readonly ok: true; readonly ms: number } | { readonly ok: false; readonly code: string; readonly message: string };

/** A finding that all is well. */
export function ok(id: Finding["id"], found: string): Finding {
  return { id, level: "ok", found };
}

/** A finding that something is not. */
export function fault(id: Finding["id"], level: "warn" | "fail", found: string, fix: string): Finding {
  return { id, level, found, fix };
}

/** A finding that something could not be looked at, and why. */
export function skip(id: Finding["id"], found: string): Finding {
  return { id, level: "skip", found };
}
