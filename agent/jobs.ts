/**
 * This party's registered jobs (approvals), in the knowledge store: any replica of the agent serves any of them. A job's
 * records share one lease, which use renews; when nobody uses it for its length, the job is gone.
 */
import { Type, type Static } from "@sinclair/typebox";
import { Value } from "@sinclair/typebox/value";
import type { Clock } from "../lib/clock.ts";
import { AppError, toAppError } from "../lib/errors.ts";
import { jobKeys, queueInfoKeys } from "../lib/knowledge/keys.ts";
import type { KnowledgeStore, Lease, StoredDocument } from "../lib/knowledge/knowledge-store.ts";
import type { PolicyUpdate } from "../lib/messages.ts";
import { CompositionRequest } from "../lib/model/composition.ts";
import { DocumentName, StewardName } from "../lib/model/names.ts";

/** A job that this party no longer answers: stopped, or answered by others now. */
const Superseded = Type.Object({
  outcome: Type.Union([Type.Literal("stopped"), Type.Literal("moved")]),
  detail: Type.String(),
  archetype: Type.Optional(DocumentName),
  authorizedProviders: Type.Record(StewardName, Type.String()),
});

/** Two may fail before a lease is in danger. */
const RENEWALS_PER_LEASE = 3;
/** Uses within so small a part of a lease renew it once. */
const RENEWALS_NOT_MORE = 50;
/** Messages about one job that are handled at once are few. */
const MAX_ROUNDS = 10;

/** What is stored under a job's key. */
const JobRecord = Type.Intersect([
  CompositionRequest,
  Type.Object({ superseded: Type.Optional(Superseded), lease: Type.String() }),
]);
type JobRecord = Static<typeof JobRecord>;

/** A job of this party. */
export interface RegisteredJob {
  readonly composition: CompositionRequest;
  readonly superseded: Static<typeof Superseded> | undefined;
  /** Lease id. */
  readonly lease: string;
}

/** Reads and writes this party's jobs. */
export class JobRegistry {
  readonly #store: KnowledgeStore;
  readonly #party: string;
  readonly #leaseMs: number;
  readonly #clock: Clock;
  /** When each lease was renewed here last; in that order. */
  readonly #renewedMs = new Map<string, number>();

  constructor(store: KnowledgeStore, party: string, leaseMs: number, clock: Clock) {
    this.#store = store;
    this.#clock = clock;
    this.#party = party;
    this.#leaseMs = leaseMs;
  }

  /**
   * Registers a composition, or replaces the one of an older plan.
   *
   * @returns the job as it was before, if it was there.
   * @throws AppError `conflict` when a newer plan is registered already, `job_unknown` when the approval has ended: a message
   * that was delivered late registers nothing that nobody knows of.
   */
  async register(composition: CompositionRequest): Promise<RegisteredJob | undefined> {
    const { lease_id: leaseId, plan_version: version } = composition;
    let lease: Lease | undefined;
    const previous = await this.#change(composition.user.userName, composition.job_name, async (before) => {
      if (before !== undefined && before.composition.plan_version > version) {
        throw new AppError(
          "conflict",
          `Plan ${String(before.composition.plan_version)} is registered already; this is plan ${String(version)}.`,
        );
      }
      lease = await this.#leaseFor(leaseId ?? before?.lease);
      return { record: composition, lease };
    });
    lease ??= await this.#leaseFor(leaseId ?? previous?.lease);
    await this.#store.put(
      queueInfoKeys.key({ party: this.#party, localJobName: composition.local_job_name }),
      { job_name: composition.job_name, lease: lease.id },
      { lease },
    );
    return previous;
  }

  /**
   * Marks a job as no longer answered here; callers are then told who answers. Harmless where there is no such job.
   *
   * @returns false when a newer plan than the update's is registered: the update has nothing to say any more.
   */
  async supersede(update: PolicyUpdate): Promise<boolean> {
    const { outcome, detail, archetype, authorizedProviders, planVersion } = update;
    const superseded = { outcome, detail, authorizedProviders, ...(archetype === undefined ? {} : { archetype }) };
    let isStale = false;
    await this.#change(update.user.userName, update.jobName, async (before) => {
      isStale = before !== undefined && before.composition.plan_version > planVersion;
      if (before === undefined || isStale) return undefined;
      return {
        record: { ...before.composition, plan_version: planVersion, superseded },
        lease: await this.#leaseFor(before.lease),
      };
    });
    return !isStale;
  }

  /** The job, or undefined when it never was or its lease has ended. */
  async find(userName: string, jobName: string): Promise<RegisteredJob | undefined> {
    const document = await this.#store.get(this.#key(userName, jobName));
    return document === undefined ? undefined : toJob(document);
  }

  /**
   * Renews the job's lease, since it is used. Of many uses in a short time (a fraction of the lease) one counts.
   *
   * @throws AppError `job_unknown` when it ended meanwhile.
   */
  async renew(job: RegisteredJob): Promise<void> {
    if (this.#isFresh(job.lease)) return;
    try {
      const lease = await this.#store.attachLease(job.lease);
      await lease.renew();
      this.#renewedMs.delete(job.lease);
      this.#renewedMs.set(job.lease, this.#clock.now());
    } catch (error) {
      this.#renewedMs.delete(job.lease);
      const known = toAppError(error);
      if (known.code !== "not_found") throw known;
      throw new AppError("job_unknown", "The job's lease has ended; ask for a new approval.", { cause: error });
    }
  }

  /**
   * Renews the job's lease as long as a run uses it: until the signal, or until somebody ended it, which is not for the run to
   * undo. A store that is away is asked again.
   */
  async keep(job: RegisteredJob, clock: Clock, signal: AbortSignal): Promise<void> {
    const waited = (): Promise<boolean> =>
      clock.sleep(this.#leaseMs / RENEWALS_PER_LEASE, signal).then(
        () => true,
        () => false,
      );
    while (await waited()) {
      try {
        await this.renew(job);
      } catch (error) {
        if (toAppError(error).code === "job_unknown") return;
        if (!toAppError(error).retryable) throw error;
      }
    }
  }

  /** Whether it was renewed a moment ago. Leases that were not are forgotten. */
  #isFresh(lease: string): boolean {
    const freshMs = this.#clock.now() - this.#leaseMs / RENEWALS_NOT_MORE;
    for (const [other, renewedMs] of this.#renewedMs) {
      if (renewedMs >= freshMs) break;
      this.#renewedMs.delete(other);
    }
    return this.#renewedMs.has(lease);
  }

  /** Changes a job's record by compare-and-swap, decided anew where another message was faster; the job as it was before. */
  async #change(
    userName: string,
    jobName: string,
    decide: (
      before: RegisteredJob | undefined,
    ) => Promise<{ readonly record: Omit<JobRecord, "lease">; readonly lease: Lease } | undefined>,
  ): Promise<RegisteredJob | undefined> {
    const key = this.#key(userName, jobName);
    for (let round = 1; ; round++) {
      const stored = await this.#store.get(key);
      const before = stored === undefined ? undefined : toJob(stored);
      const next = await decide(before);
      if (next === undefined) return before;
      const { record, lease } = next;
      try {
        const ifRevision = stored?.revision ?? 0;
        await this.#store.put(key, { ...record, lease: lease.id }, { lease, ifRevision });
        return before;
      } catch (error) {
        if (round >= MAX_ROUNDS || toAppError(error).code !== "precondition_failed") throw error;
      }
    }
  }

  /** The approval's lease, renewed; a new one only where the composition names none. */
  async #leaseFor(id: string | undefined): Promise<Lease> {
    if (id === undefined) return this.#store.grantLease({ ttlMs: this.#leaseMs, renewal: "manual" });
    try {
      const lease = await this.#store.attachLease(id);
      await lease.renew();
      return lease;
    } catch (error) {
      if (toAppError(error).code !== "not_found") throw error;
      throw new AppError("job_unknown", "The job's approval has ended.", { cause: error });
    }
  }

  #key(userName: string, jobName: string): string {
    return jobKeys.key({ party: this.#party, userName, jobName });
  }
}

function toJob(document: StoredDocument): RegisteredJob {
  const record: unknown = document.value;
  if (!Value.Check(JobRecord, record)) {
    throw new AppError("configuration_invalid", "A job's record in the knowledge store is malformed.", {
      details: { pointer: Value.Errors(JobRecord, record).First()?.path ?? "" },
    });
  }
  const { superseded, lease, ...composition } = record;
  return { composition, superseded, lease };
}
