/**
 * Plans of jobs, as the knowledge store has them (`/orchestrator/jobs/<jobName>`): any replica of the orchestrator works on
 * any of them, by compare-and-swap. A plan shares the lease of its job's records at the agents: use anywhere renews it, and
 * disuse ends all of it together.
 */
import { Type, type Static } from "@sinclair/typebox";
import { AppError, toAppError } from "../lib/errors.ts";
import { versioned, type Versioned } from "../lib/knowledge/knowledge-base.ts";
import { planKeys } from "../lib/knowledge/keys.ts";
import type { KnowledgeStore } from "../lib/knowledge/knowledge-store.ts";
import { RequestOptions } from "../lib/model/data-request.ts";
import { DocumentName, StewardName, User } from "../lib/model/names.ts";

/** A job's plan, and what it was made from. */
export const Plan = Type.Object({
  jobName: Type.String(),
  user: User,
  requestType: DocumentName,
  options: RequestOptions,
  /** Data sets that the approval is for. */
  dataSets: Type.Array(DocumentName),
  /** Data providers that the approval found authorized: whom a later plan may take. */
  approved: Type.Array(StewardName),
  /** Rises with every re-composition. */
  version: Type.Integer({ minimum: 1 }),
  /**
   * `composing`: parties are being told, by the replica that wrote this; `ready`: they have been; `stopped`: nothing allows
   * it at present.
   */
  state: Type.Union([Type.Literal("composing"), Type.Literal("ready"), Type.Literal("stopped")]),
  /** While composing: the instance of the orchestrator that is at it. */
  composer: Type.Optional(Type.String()),
  /** Why it is stopped. */
  stopped: Type.Optional(Type.Object({ code: Type.String(), detail: Type.String() })),
  archetype: DocumentName,
  /** Data providers, by name. */
  providers: Type.Array(StewardName),
  computeProvider: Type.Optional(StewardName),
  /** Third parties that all of the providers accepted, at the approval or at any decision since: tokens count at all of these. */
  acceptedComputeProviders: Type.Array(StewardName),
  /** Revision of each agreement, a third party's own too, that this plan was decided on; 0 where there was none. */
  agreements: Type.Record(StewardName, Type.Integer()),
  /** Revision of each archetype that this plan was chosen from. */
  archetypes: Type.Record(DocumentName, Type.Integer()),
  refused: Type.Array(Type.Object({ provider: StewardName, code: Type.String(), detail: Type.String() })),
  offline: Type.Array(StewardName),
  lease: Type.String(),
});
export type Plan = Static<typeof Plan>;

/** All parties of a plan, by name. */
export function partiesOf(plan: Pick<Plan, "providers" | "computeProvider">): string[] {
  return [...plan.providers, ...(plan.computeProvider === undefined ? [] : [plan.computeProvider])].sort();
}

/** Whom a data request of this plan goes to: the third party, or each data provider. */
export function answeringParties(plan: Pick<Plan, "providers" | "computeProvider">): readonly string[] {
  return plan.computeProvider === undefined ? plan.providers : [plan.computeProvider];
}

/** The plans of all living jobs. */
export class PlanStore {
  readonly #store: KnowledgeStore;

  constructor(store: KnowledgeStore) {
    this.#store = store;
  }

  /** The plan of a job, or `job_unknown` when its lease has ended or it never was. */
  async get(jobName: string): Promise<Versioned<Plan>> {
    const stored = await this.#store.get(planKeys.key({ jobName }));
    if (stored === undefined) throw jobUnknown(jobName);
    return versioned(Plan, stored);
  }

  /** All plans. */
  async list(): Promise<readonly Versioned<Plan>[]> {
    const { documents } = await this.#store.list(planKeys.prefix());
    return documents.map((stored) => versioned(Plan, stored));
  }

  /**
   * Stores a plan under its job's lease, if its revision is still `ifRevision` (0: there is none yet). Fails with
   * `precondition_failed` when another replica was first, with `job_unknown` when the lease has ended.
   */
  async put(plan: Plan, ifRevision: number): Promise<Versioned<Plan>> {
    const lease = await this.#lease(plan);
    const revision = await this.#store.put(planKeys.key({ jobName: plan.jobName }), plan, { ifRevision, lease });
    return { document: plan, revision };
  }

  /** Renews the job's lease, since it is used. Fails with `job_unknown` when it has ended. */
  async renew(plan: Plan): Promise<void> {
    try {
      await (await this.#lease(plan)).renew();
    } catch (thrown) {
      throw toAppError(thrown).code === "not_found" ? jobUnknown(plan.jobName, thrown) : thrown;
    }
  }

  async #lease(plan: Plan): ReturnType<KnowledgeStore["attachLease"]> {
    try {
      return await this.#store.attachLease(plan.lease);
    } catch (thrown) {
      throw toAppError(thrown).code === "not_found" ? jobUnknown(plan.jobName, thrown) : thrown;
    }
  }
}

function jobUnknown(jobName: string, cause?: unknown): AppError {
  return new AppError("job_unknown", `There is no job "${jobName}", or its lease has ended; ask for a new approval.`, {
    ...(cause === undefined ? {} : { cause }),
  });
}
