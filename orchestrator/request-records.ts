/**
 * Requests that may be repeated (decision 2), as the knowledge store has them: `/orchestrator/requests/<user>/<requestId>`. A
 * record ties the id to the question's fingerprint and to the job, so that a repeat, at whichever replica, goes to the same
 * agents under the same id. It lives as long as the job.
 *
 * While the job is being approved the record is a claim, which the approving replica writes anew again and again. Another takes
 * it over when that replica is gone, or when the claim has stood unchanged for longer than an approval's steps take, by the
 * clock of whoever looks. The first one, should it only have been slow, finds its job's lease ended, and follows the other.
 */
import { Type, type Static } from "@sinclair/typebox";
import { AppError, toAppError } from "../lib/errors.ts";
import { versioned, type Versioned } from "../lib/knowledge/knowledge-base.ts";
import { orchestratorRequestKeys } from "../lib/knowledge/keys.ts";
import type { Plan } from "./plans.ts";
import { POLICY_TIMEOUT_MS } from "./policy-client.ts";
import type { OrchestratorContext } from "./context.ts";
import { seedJob, type JobSeed } from "./request-approval.ts";

/** See the file comment. */
const RequestRecord = Type.Object({
  requestId: Type.String(),
  fingerprint: Type.String(),
  jobName: Type.String(),
  /** Until the job is approved: its lease, and the replica that is at it. */
  claim: Type.Optional(Type.Object({ lease: Type.String(), approver: Type.String() })),
});
type RequestRecord = Static<typeof RequestRecord>;

/** How a request is named. */
export interface RequestName {
  readonly userName: string;
  readonly requestId: string;
  readonly fingerprint: string;
}

/** A repeated approval looks so often whether the first one has come to its end. */
const LOOK_AGAIN_MS = 25;
/** Beyond the time-outs of an approval's own steps: what its writes may take. */
const APPROVAL_MARGIN_MS = 5_000;
/** A claim is written anew so often in the time after which it could be taken over. */
const RENEWALS = 4;

/**
 * The job of a repeatable approval: approved now by the first caller of this name, found by all others. A refused approval
 * leaves no record. Fails with `idempotency_key_reused` when the name stands for another question.
 */
export async function approveOnce(
  name: RequestName,
  approve: (seed: JobSeed) => Promise<Plan>,
  context: OrchestratorContext,
  signal: AbortSignal,
): Promise<Plan> {
  const { clock } = context;
  // Long enough to see a claim's end that was made just before.
  const giveUpAtMs = clock.now() + approvalMs(context) + APPROVAL_MARGIN_MS;
  let seen = { revision: 0, sinceMs: 0 };
  for (;;) {
    const known = await findRecord(name, context);
    const plan = known === undefined ? undefined : await findPlan(known.document.jobName, context);
    if (plan !== undefined) return plan;
    if (known !== undefined && known.revision !== seen.revision) {
      seen = { revision: known.revision, sinceMs: clock.now() };
    }
    if (known === undefined || (await isLeftBehind(known.document, seen.sinceMs, context))) {
      const claimed = await claim(name, known, context);
      const own = claimed === undefined ? undefined : await approveOwn(name, claimed, approve, context);
      if (own !== undefined) return own;
    }
    if (clock.now() >= giveUpAtMs) {
      throw new AppError(
        "unavailable",
        "The first request of this Idempotency-Key is still being approved. Try again.",
        {
          details: { retryAfterSeconds: 5 },
        },
      );
    }
    await clock.sleep(LOOK_AGAIN_MS, signal);
  }
}

/** Whether nobody is at a claim any more. A record without a claim is of a job that has ended, and ends with it. */
async function isLeftBehind(
  { claim: held }: RequestRecord,
  unchangedSinceMs: number,
  context: OrchestratorContext,
): Promise<boolean> {
  if (held === undefined) return false;
  if (context.clock.now() - unchangedSinceMs > approvalMs(context)) return true;
  return !(await context.replicas.isAlive(held.approver));
}

/**
 * Notes a repeatable request of an approved job. Fails with `idempotency_key_reused` when the name stands for another
 * question; noting it again changes nothing.
 */
export async function noteRequest(name: RequestName, plan: Plan, context: OrchestratorContext): Promise<void> {
  if ((await findRecord(name, context)) !== undefined) return;
  try {
    const lease = await context.knowledge.store.attachLease(plan.lease);
    await context.knowledge.store.put(keyOf(name), recordOf(name, plan.jobName), { ifRevision: 0, lease });
  } catch (thrown) {
    if (toAppError(thrown).code !== "precondition_failed") throw thrown;
    // Somebody was faster; whether with the same question is checked by reading.
    await findRecord(name, context);
  }
}

async function findRecord(
  name: RequestName,
  { knowledge }: OrchestratorContext,
): Promise<Versioned<RequestRecord> | undefined> {
  const stored = await knowledge.store.get(keyOf(name));
  if (stored === undefined) return undefined;
  const record = versioned(RequestRecord, stored);
  if (record.document.fingerprint === name.fingerprint) return record;
  throw keyReused();
}

/** The refusal of a name that stands for another question. */
export function keyReused(): AppError {
  return new AppError(
    "idempotency_key_reused",
    "This Idempotency-Key was used for another question. Use a new one for each question.",
  );
}

/** A claim of this replica. */
interface Claimed {
  readonly seed: JobSeed;
  readonly record: Versioned<RequestRecord>;
}

/**
 * A job under whose lease the record now stands, or undefined when another caller was first.
 *
 * @param dead the claim of a replica that died, which is taken over: what agents hold for its job ends with its lease.
 */
async function claim(
  name: RequestName,
  dead: Versioned<RequestRecord> | undefined,
  context: OrchestratorContext,
): Promise<Claimed | undefined> {
  const { store } = context.knowledge;
  const seed = await seedJob(name.userName, context);
  const own = { lease: seed.lease.id, approver: context.replicas.instance };
  const document: RequestRecord = { ...recordOf(name, seed.jobName), claim: own };
  try {
    const revision = await store.put(keyOf(name), document, { ifRevision: dead?.revision ?? 0, lease: seed.lease });
    await releaseLease(dead?.document.claim?.lease, context);
    return { seed, record: { document, revision } };
  } catch (thrown) {
    await seed.lease.release();
    if (toAppError(thrown).code === "precondition_failed") return undefined;
    throw thrown;
  }
}

/** Ends a lease, and what stands under it; of one that has ended nothing is left to do. */
export async function releaseLease(id: string | undefined, { knowledge }: OrchestratorContext): Promise<void> {
  if (id === undefined) return;
  try {
    await (await knowledge.store.attachLease(id)).release();
  } catch (thrown) {
    if (toAppError(thrown).code !== "not_found") throw thrown;
  }
}

/** The approved plan; undefined when another took the claim over meanwhile, whose outcome counts. */
async function approveOwn(
  name: RequestName,
  claimed: Claimed,
  approve: (seed: JobSeed) => Promise<Plan>,
  context: OrchestratorContext,
): Promise<Plan | undefined> {
  const { seed, record } = claimed;
  const done = new AbortController();
  const renewing = renewClaim(name, claimed, context, done.signal);
  try {
    return await approve(seed);
  } catch (thrown) {
    // Whoever takes a claim over ends its job's lease.
    if (toAppError(thrown).code === "job_unknown") {
      const now = await findRecord(name, context);
      if (now !== undefined && now.document.jobName !== record.document.jobName) return undefined;
    }
    await seed.lease.release();
    throw thrown;
  } finally {
    done.abort();
    await renewing;
  }
}

/** Writes the claim anew until it is no longer needed, or lost. */
async function renewClaim(
  name: RequestName,
  { seed, record }: Claimed,
  context: OrchestratorContext,
  done: AbortSignal,
): Promise<void> {
  const { clock, knowledge, limits, logger } = context;
  const everyMs = Math.min(approvalMs(context), limits.jobLeaseMs) / RENEWALS;
  let { revision } = record;
  while (!done.aborted) {
    try {
      await clock.sleep(everyMs, done);
      await seed.lease.renew();
      revision = await knowledge.store.put(keyOf(name), record.document, { ifRevision: revision, lease: seed.lease });
    } catch (thrown) {
      const { code } = toAppError(thrown);
      // Taken over, or the approval has failed: it learns that by itself.
      if (done.aborted || code === "precondition_failed" || code === "not_found") return;
      logger.warn({ error: toAppError(thrown) }, "the claim of an approval could not be renewed");
    }
  }
}

/** The longest that an approval takes: two questions to the policy enforcer, and a composition. */
function approvalMs({ limits }: OrchestratorContext): number {
  return 2 * POLICY_TIMEOUT_MS + limits.compositionTimeoutMs + APPROVAL_MARGIN_MS;
}

async function findPlan(jobName: string, { plans }: OrchestratorContext): Promise<Plan | undefined> {
  try {
    return (await plans.get(jobName)).document;
  } catch (thrown) {
    if (toAppError(thrown).code === "job_unknown") return undefined;
    throw thrown;
  }
}

function keyOf({ userName, requestId }: RequestName): string {
  return orchestratorRequestKeys.key({ userName, requestId });
}

function recordOf({ requestId, fingerprint }: RequestName, jobName: string): RequestRecord {
  return { requestId, fingerprint, jobName };
}
