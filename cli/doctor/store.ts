/** The doctor's look at the knowledge store. Facts in, findings out; pure. */
import type { DocumentKind } from "../../lib/knowledge/knowledge-base.ts";
import type { OnlineRecord, OrchestratorOnlineRecord } from "../../lib/messages.ts";
import type { Agreement } from "../../lib/model/agreement.ts";
import { fault, ok, skip, type Finding, type Outcome } from "./findings.ts";

/** What was found of the store. */
export interface StoreFacts {
  /** As it may be shown: without credentials. */
  readonly url: string;
  readonly isFile: boolean;
  /** The file of an embedded store, where it is not there. */
  readonly missingFile?: string;
  readonly reached: Outcome;
  /** A key was written, read, and deleted. */
  readonly written?: Outcome;
  /** A lease was granted, and took its key along when it ended. */
  readonly leased?: Outcome;
  /** Whether the documents can be read. */
  readonly documents?: Outcome;
  /** How many there are of each kind. */
  readonly counts?: Readonly<Record<DocumentKind, number>>;
  /** Whether the documents go together; absent: they could not be read. */
  readonly rules?: Outcome;
  /** A seeding has begun, and has not ended. */
  readonly isSeeding?: boolean;
  readonly agreements: readonly Agreement[];
  readonly agents: readonly OnlineRecord[];
  readonly orchestrators: readonly OrchestratorOnlineRecord[];
}

/** Codes of a server that is there, and does not let us in. */
const REFUSED: ReadonlySet<string> = new Set(["unauthenticated", "forbidden", "access_refused"]);
/** A store that takes longer than this for a few small calls is not well. */
const SLOW_MS = 2_000;

/** Judges the store. */
export function judgeStore(facts: StoreFacts): readonly Finding[] {
  const reached = judgeReached(facts);
  if (reached.level === "fail") return [reached, skip("store.writable", "The rest of the store was not looked at.")];
  return [
    reached,
    ...(facts.written === undefined ? [] : [judgeWritten(facts, facts.written)]),
    ...(facts.leased === undefined ? [] : [judgeLeased(facts, facts.leased)]),
    ...judgeDocuments(facts),
  ];
}

function judgeReached({ url, isFile, missingFile, reached }: StoreFacts): Finding {
  if (missingFile !== undefined) {
    return fault(
      "store.reachable",
      "fail",
      `There is no file ${missingFile}: no exchange has run here.`,
      "Start one (npm start), or say where its store is: --state FOLDER, or --store URL (DYNAMOS_STORE).",
    );
  }
  if (reached.ok) return ok("store.reachable", `The knowledge store ${url} answers (${String(reached.ms)} ms).`);
  if (REFUSED.has(reached.code)) {
    return fault(
      "store.reachable",
      "fail",
      `The knowledge store ${url} refuses the credentials: ${reached.message}`,
      "Give user and password that the store knows in the URL (DYNAMOS_STORE); the programs have the same setting.",
    );
  }
  const fix = isFile
    ? "If another program holds the file (a backup, an open sqlite3 shell), end it; see that its owner may write it."
    : "See that etcd runs and that its address in DYNAMOS_STORE can be reached from here: etcdctl endpoint status.";
  return fault("store.reachable", "fail", `The knowledge store ${url} does not answer: ${reached.message}`, fix);
}

function judgeWritten({ isFile }: StoreFacts, written: Outcome): Finding {
  if (written.ok && written.ms <= SLOW_MS) {
    return ok("store.writable", `A key was written, read and deleted (${String(written.ms)} ms).`);
  }
  if (written.ok) {
    return fault(
      "store.writable",
      "warn",
      `Writing, reading and deleting one key took ${String(written.ms)} ms.`,
      "See the store's disk and load; leases, and so who is online, depend on it.",
    );
  }
  const fix = isFile
    ? "See that the disk is not full, that the file's owner may write it, and that no other program has locked it."
    : "If etcd says NOSPACE, compact, defragment and disarm the alarm (docs/operations.md); else see the role's permissions.";
  return fault("store.writable", "fail", `The store takes no writes: ${written.message}`, fix);
}

function judgeLeased({ isFile }: StoreFacts, leased: Outcome): Finding {
  if (leased.ok) return ok("store.lease", "Leases are granted, and take their keys along when they end.");
  const fix = isFile
    ? "See that the disk is not full and that no other program has locked the file."
    : "See that etcd has a leader: etcdctl endpoint status --cluster.";
  return fault("store.lease", "fail", `Leases do not work: ${leased.message}`, fix);
}

function judgeDocuments({ documents, counts, rules, isSeeding }: StoreFacts): readonly Finding[] {
  if (documents === undefined) return [];
  if (!documents.ok) {
    const found = `The stored documents cannot be read: ${documents.message}`;
    const fix = "Put the document that is named anew by the config API (docs/configuration.md).";
    return [fault("store.documents", "fail", found, fix)];
  }
  const numbers = Object.entries(counts ?? {});
  const total = numbers.reduce((sum, [, count]) => sum + count, 0);
  if (total === 0) {
    return [
      fault(
        "store.documents",
        "fail",
        "The store has no documents: no archetypes, no agreements.",
        "Start an orchestrator with DYNAMOS_SEED_FOLDER, or put documents by the config API.",
      ),
    ];
  }
  if (isSeeding === true) {
    return [
      fault(
        "store.documents",
        "warn",
        `The store is being filled, or that was interrupted; it has ${String(total)} documents so far.`,
        "Start an orchestrator with the same DYNAMOS_SEED_FOLDER: it completes what is missing.",
      ),
    ];
  }
  const list = numbers.map(([kind, count]) => `${String(count)} ${kind}`).join(", ");
  return [ok("store.documents", `The store has ${list}.`), ...judgeRules(rules)];
}

function judgeRules(rules: Outcome | undefined): readonly Finding[] {
  if (rules === undefined) return [];
  if (rules.ok) return [ok("store.rules", "The documents go together.")];
  return [
    fault(
      "store.rules",
      "fail",
      `The documents do not go together: ${rules.message}`,
      "Put the document that is named anew by the config API, which refuses what does not fit: somebody wrote past it.",
    ),
  ];
}
