/**
 * Requests that may be repeated (decision 2), as the knowledge store has them: `/orchestrator/requests/<user>/<requestId>`. A
 * record ties the id to the question's fingerprint and to the job, so that a repeat, at whichever replica, goes to the same
 * agents under the same id. It lives as long as the job. While the job is being approved it is a claim: should the replica that
 * approves it die, another takes it over when its time has passed.
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
  /** The job's lease, and when its approval has surely ended one way or the other (ms since the epoch). */
  claim: Type.Optional(Type.Object({ lease: Type.String(), untilMs: Type.Integer() })),
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
/** Beyond the time-outs of an approval's own steps: what its writes, and a clock that differs, may take. */
const APPROVAL_MARGIN_MS = 5_000;

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
  // Long enough to see a claim's end that was made just before.
  const giveUpAtMs = context.clock.now() + approvalMs(context) + APPROVAL_MARGIN_MS;
  for (;;) {
    const known = await findRecord(name, context);
    const plan = known === undefined ? undefined : await findPlan(known.document.jobName, context);
    if (plan !== undefined) return plan;
    if (known === undefined || (known.document.claim?.untilMs ?? Infinity) <= context.clock.now()) {
      const seed = await claim(name, known, context);
      if (seed !== undefined) return approveOrRelease(seed, approve);
    }
    if (context.clock.now() >= giveUpAtMs) {
      throw new AppError(
        "unavailable",
        "The first request of this Idempotency-Key is still being approved. Try again.",
        {
          details: { retryAfterSeconds: 5 },
        },
      );
    }
    await context.clock.sleep(LOOK_AGAIN_MS, signal);
  }
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

/**
 * A job under whose lease the record now stands, or undefined when another caller was first.
 *
 * @param dead the claim of a replica that died, which is taken over: what agents hold for its job ends with its lease.
 */
async function claim(
  name: RequestName,
  dead: Versioned<RequestRecord> | undefined,
  context: OrchestratorContext,
): Promise<JobSeed | undefined> {
  const { store } = context.knowledge;
  const seed = await seedJob(name.userName, context);
  const own = { lease: seed.lease.id, untilMs: context.clock.now() + approvalMs(context) };
  const record: RequestRecord = { ...recordOf(name, seed.jobName), claim: own };
  try {
    await store.put(keyOf(name), record, { ifRevision: dead?.revision ?? 0, lease: seed.lease });
  } catch (thrown) {
    await seed.lease.release();
    if (toAppError(thrown).code === "precondition_failed") return undefined;
    throw thrown;
  }
  await releaseLease(dead?.document.claim?.lease, context);
  return seed;
}

async function releaseLease(id: string | undefined, { knowledge }: OrchestratorContext): Promise<void> {
  if (id === undefined) return;
  try {
    await (await knowledge.store.attachLease(id)).release();
  } catch (thrown) {
    if (toAppError(thrown).code !== "not_found") throw thrown;
  }
}

/** The longest that an approval takes: two questions to the policy enforcer, and a composition. */
function approvalMs({ limits }: OrchestratorContext): number {
  return 2 * POLICY_TIMEOUT_MS + limits.compositionTimeoutMs + APPROVAL_MARGIN_MS;
}

async function approveOrRelease(seed: JobSeed, approve: (seed: JobSeed) => Promise<Plan>): Promise<Plan> {
  try {
    return await approve(seed);
  } catch (thrown) {
    await seed.lease.release();
    throw thrown;
  }
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
