/**
 * Which replica of the orchestrator runs, or keeps, the answer of an asynchronous request: `/orchestrator/answers/<user>/<id>`.
 * Every replica finds it there, and passes on to it whoever asks. The record outlives its owner, so that an answer that was
 * lost with a replica can be told from one that never was; it ends when the answer would be kept no longer.
 */
import { Type, type Static } from "@sinclair/typebox";
import { AppError, toAppError } from "../lib/errors.ts";
import { versioned, type Versioned } from "../lib/knowledge/knowledge-base.ts";
import { answerOwnerKeys } from "../lib/knowledge/keys.ts";
import type { OrchestratorOnlineRecord } from "../lib/messages.ts";
import type { OrchestratorContext } from "./context.ts";
import { keyReused, releaseLease, type RequestName } from "./request-records.ts";

const AnswerOwner = Type.Object({
  fingerprint: Type.String(),
  jobName: Type.String(),
  /** The instance that runs the request, or ran it. */
  owner: Type.String(),
  lease: Type.String(),
});
type AnswerOwner = Static<typeof AnswerOwner>;

/** Where a request's answer is. */
export type AnswerPlace =
  | { readonly kind: "here" }
  | { readonly kind: "elsewhere"; readonly replica: OrchestratorOnlineRecord; readonly jobName: string }
  /** Its replica died, and the answer with it. */
  | { readonly kind: "lost"; readonly jobName: string }
  | { readonly kind: "unknown" };

/** Other replicas' claims met in a row before giving up. */
const MAX_ROUNDS = 10;

/** Where the answer of this user's request is. */
export async function findAnswer(
  userName: string,
  requestId: string,
  context: OrchestratorContext,
): Promise<AnswerPlace> {
  const known = await find({ userName, requestId }, context);
  return known === undefined ? { kind: "unknown" } : placeOf(known.document, context);
}

/**
 * Makes this replica the owner of a request's answer, unless another one that lives is: then that one's place. Fails with
 * `idempotency_key_reused` when the name stands for another question.
 *
 * @param unreachable an instance that stands in the store but does not answer: it counts as dead.
 */
export async function takeAnswer(
  name: RequestName,
  jobName: string,
  context: OrchestratorContext,
  unreachable?: string,
): Promise<Extract<AnswerPlace, { kind: "here" | "elsewhere" }>> {
  for (let round = 0; round < MAX_ROUNDS; round++) {
    const known = await find(name, context);
    if (known !== undefined) {
      if (known.document.fingerprint !== name.fingerprint) throw keyReused();
      const place = await placeOf(known.document, context);
      if (place.kind === "here") return place;
      if (place.kind === "elsewhere" && place.replica.instance !== unreachable) return place;
    }
    if (await put(name, jobName, known, context)) return { kind: "here" };
  }
  throw new AppError("unavailable", "Several replicas are at this request. Try again.", {
    details: { retryAfterSeconds: 1 },
  });
}

/** Forgets whose the answer is, with the answer itself. */
export async function forgetAnswer(userName: string, requestId: string, context: OrchestratorContext): Promise<void> {
  const known = await find({ userName, requestId }, context);
  await releaseLease(known?.document.lease, context);
}

async function placeOf(
  { owner, jobName }: AnswerOwner,
  { replicas }: OrchestratorContext,
): Promise<Exclude<AnswerPlace, { kind: "unknown" }>> {
  if (owner === replicas.instance) return { kind: "here" };
  const replica = await replicas.find(owner);
  return replica === undefined ? { kind: "lost", jobName } : { kind: "elsewhere", replica, jobName };
}

async function find(
  { userName, requestId }: Pick<RequestName, "userName" | "requestId">,
  { knowledge }: OrchestratorContext,
): Promise<Versioned<AnswerOwner> | undefined> {
  const stored = await knowledge.store.get(answerOwnerKeys.key({ userName, requestId }));
  return stored === undefined ? undefined : versioned(AnswerOwner, stored);
}

/** Whether the record could be written; not so when another replica was first. */
async function put(
  { userName, requestId, fingerprint }: RequestName,
  jobName: string,
  dead: Versioned<AnswerOwner> | undefined,
  context: OrchestratorContext,
): Promise<boolean> {
  const { knowledge, replicas, limits } = context;
  const ttlMs = limits.requestDeadlineMs + limits.deadlineGraceMs + limits.keptAnswerMs;
  const lease = await knowledge.store.grantLease({ ttlMs, renewal: "manual" });
  const record: AnswerOwner = { fingerprint, jobName, owner: replicas.instance, lease: lease.id };
  try {
    const ifRevision = dead?.revision ?? 0;
    await knowledge.store.put(answerOwnerKeys.key({ userName, requestId }), record, { ifRevision, lease });
    await releaseLease(dead?.document.lease, context);
    return true;
  } catch (thrown) {
    await lease.release();
    if (toAppError(thrown).code === "precondition_failed") return false;
    throw thrown;
  }
}
