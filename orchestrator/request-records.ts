/**
 * Requests that may be repeated (decision 2), as the knowledge store has them: `/orchestrator/requests/<user>/<requestId>`. A
 * record ties the id to the question's fingerprint and to the job, so that a repeat, at whichever replica, goes to the same
 * agents under the same id. It lives as long as the job.
 */
import { Type, type Static } from "@sinclair/typebox";
import { AppError, toAppError } from "../lib/errors.ts";
import { versioned, type Versioned } from "../lib/knowledge/knowledge-base.ts";
import { orchestratorRequestKeys } from "../lib/knowledge/keys.ts";
import type { Plan } from "./plans.ts";
import type { OrchestratorContext } from "./context.ts";
import { seedJob, type JobSeed } from "./request-approval.ts";

/** See the file comment. */
const RequestRecord = Type.Object({ requestId: Type.String(), fingerprint: Type.String(), jobName: Type.String() });
type RequestRecord = Static<typeof RequestRecord>;

/** How a request is named. */
export interface RequestName {
  readonly userName: string;
  readonly requestId: string;
  readonly fingerprint: string;
}

/** A repeated approval waits this long for the first one to come to its end, looking so often. */
const APPROVAL_WAIT_MS = 20_000;
const LOOK_AGAIN_MS = 25;

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
  const giveUpAtMs = context.clock.now() + APPROVAL_WAIT_MS;
  for (;;) {
    const known = await findRecord(name, context);
    if (known === undefined) {
      const seed = await claim(name, context);
      if (seed !== undefined) return approveOrRelease(seed, approve);
    } else {
      const plan = await findPlan(known.document.jobName, context);
      if (plan !== undefined) return plan;
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

/** A job under whose lease the record now stands, or undefined when another caller was first. */
async function claim(name: RequestName, context: OrchestratorContext): Promise<JobSeed | undefined> {
  const seed = await seedJob(name.userName, context);
  try {
    await context.knowledge.store.put(keyOf(name), recordOf(name, seed.jobName), { ifRevision: 0, lease: seed.lease });
    return seed;
  } catch (thrown) {
    await seed.lease.release();
    if (toAppError(thrown).code === "precondition_failed") return undefined;
    throw thrown;
  }
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
