/**
 * This party's registered jobs (approvals), in the knowledge store: any replica of the agent serves any of them. A job's
 * records share one lease, which use renews; when nobody uses it for its length, the job is gone.
 */
import { Type, type Static } from "@sinclair/typebox";
import { Value } from "@sinclair/typebox/value";
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

  constructor(store: KnowledgeStore, party: string, leaseMs: number) {
    this.#store = store;
    this.#party = party;
    this.#leaseMs = leaseMs;
  }

  /**
   * Registers a composition, or replaces the one of an older plan.
   *
   * @returns the job as it was before, if it was there.
   * @throws AppError `conflict` when a newer plan is registered already.
   */
  async register(composition: CompositionRequest): Promise<RegisteredJob | undefined> {
    const key = this.#key(composition.user.userName, composition.job_name);
    const before = await this.#store.get(key);
    const previous = before === undefined ? undefined : toJob(before);
    if (previous !== undefined && previous.composition.plan_version > composition.plan_version) {
      throw new AppError(
        "conflict",
        `Plan ${String(previous.composition.plan_version)} is registered already; this is plan ${String(composition.plan_version)}.`,
      );
    }
    const lease = await this.#leaseFor(composition.lease_id ?? previous?.lease);
    await this.#store.put(key, { ...composition, lease: lease.id } satisfies JobRecord, {
      lease,
      ifRevision: before?.revision ?? 0,
    });
    await this.#store.put(
      queueInfoKeys.key({ party: this.#party, localJobName: composition.local_job_name }),
      { job_name: composition.job_name, lease: lease.id },
      { lease },
    );
    return previous;
  }

  /** Marks a job as no longer answered here; callers are then told who answers. Harmless where there is no such job. */
  async supersede(update: PolicyUpdate): Promise<RegisteredJob | undefined> {
    const key = this.#key(update.user.userName, update.jobName);
    const before = await this.#store.get(key);
    if (before === undefined) return undefined;
    const job = toJob(before);
    if (job.composition.plan_version > update.planVersion) return undefined;
    const { outcome, detail, archetype, authorizedProviders } = update;
    const superseded = { outcome, detail, authorizedProviders, ...(archetype === undefined ? {} : { archetype }) };
    const lease = await this.#leaseFor(job.lease);
    await this.#store.put(
      key,
      { ...job.composition, plan_version: update.planVersion, superseded, lease: lease.id } satisfies JobRecord,
      { lease, ifRevision: before.revision },
    );
    return job;
  }

  /** The job, or undefined when it never was or its lease has ended. */
  async find(userName: string, jobName: string): Promise<RegisteredJob | undefined> {
    const document = await this.#store.get(this.#key(userName, jobName));
    return document === undefined ? undefined : toJob(document);
  }

  /**
   * Renews the job's lease, since it is used.
   *
   * @throws AppError `job_unknown` when it ended meanwhile.
   */
  async renew(job: RegisteredJob): Promise<void> {
    try {
      const lease = await this.#store.attachLease(job.lease);
      await lease.renew();
    } catch (error) {
      const known = toAppError(error);
      if (known.code !== "not_found") throw known;
      throw new AppError("job_unknown", "The job's lease has ended; ask for a new approval.", { cause: error });
    }
  }

  async #leaseFor(id: string | undefined): Promise<Lease> {
    if (id !== undefined) {
      try {
        const lease = await this.#store.attachLease(id);
        await lease.renew();
        return lease;
      } catch (error) {
        if (toAppError(error).code !== "not_found") throw error;
      }
    }
    return this.#store.grantLease({ ttlMs: this.#leaseMs, renewal: "manual" });
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
