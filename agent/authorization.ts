/**
 * May this caller have this, now? The token says who asks for which job; the job's record says what this party does in it; this
 * party's own agreement, as it is at this moment, says what may be used (decisions 12 and 18).
 */
import { AppError } from "../lib/errors.ts";
import { evaluateAgreement, findRelation, grantFor } from "../lib/policy/evaluate.ts";
import type { Grant } from "../lib/model/grant.ts";
import { verifyAccessToken, type VerifiedToken } from "../lib/tokens.ts";
import type { AgentContext } from "./context.ts";
import type { RegisteredJob } from "./jobs.ts";

/** A caller whose token counts here. */
export interface Caller {
  readonly claims: VerifiedToken;
  readonly accessToken: string;
}

/**
 * Checks a bearer token.
 *
 * @throws AppError `unauthenticated`, `token_expired` or `token_invalid`.
 */
export async function authenticate(context: AgentContext, accessToken: string | undefined): Promise<Caller> {
  const claims = await verifyAccessToken(accessToken, context.tokenKeys, {
    audience: context.steward,
    clock: context.clock,
  });
  return { claims, accessToken: accessToken ?? "" };
}

/**
 * The caller's job at this party, renewed by this use.
 *
 * @throws AppError `job_unknown` when its lease ended, `agreement_gone` when it was stopped, `job_moved` when others answer now,
 * `request_denied` when the job is for another request type.
 */
export async function findJob(context: AgentContext, { claims }: Caller, requestType: string): Promise<RegisteredJob> {
  const job = await context.jobs.find(claims.sub, claims.job);
  if (job === undefined) {
    throw new AppError("job_unknown", `${context.steward} has no such job: its approval ended. Ask for a new one.`);
  }
  if (job.superseded?.outcome === "stopped") throw new AppError("agreement_gone", job.superseded.detail);
  if (job.superseded !== undefined) {
    const { detail, archetype, authorizedProviders } = job.superseded;
    throw new AppError("job_moved", detail, { details: { archetype, authorizedProviders } });
  }
  if (job.composition.request_type !== requestType) {
    throw new AppError("request_denied", `The approval is for request type "${job.composition.request_type}".`);
  }
  await context.jobs.renew(job);
  return job;
}

/** What a grant is made for. */
export interface GrantPurpose {
  readonly requestId: string;
  readonly deadlineMs: number;
  /** Algorithms that the request names. */
  readonly algorithms: readonly string[];
}

/**
 * What this party's agreement allows the caller at this moment.
 *
 * @throws AppError `operation_denied` for an algorithm that is not listed, else `agreement_gone` with the refusal's code and detail.
 */
export async function evaluateGrant(
  context: AgentContext,
  caller: Caller,
  job: RegisteredJob,
  purpose: GrantPurpose,
): Promise<Grant> {
  const { composition } = job;
  const base = {
    steward: context.steward,
    requestId: purpose.requestId,
    jobName: composition.job_name,
    requestType: composition.request_type,
    deadlineMs: purpose.deadlineMs,
  };
  if (composition.role === "computeProvider") return { ...base, ...(await thirdPartyScope(context, job)) };
  const agreement = await context.knowledge.get("agreements", context.steward);
  const question = {
    userName: caller.claims.sub,
    type: composition.request_type,
    dataSets: caller.claims.dataSets,
    ...(purpose.algorithms.length === 0 ? {} : { algorithms: purpose.algorithms }),
  };
  const validation = evaluateAgreement(
    agreement?.document,
    agreement?.revision ?? 0,
    question,
    context.steward,
    context.clock.now(),
  );
  const { refusal } = validation;
  if (refusal?.code === "operation_not_allowed") {
    throw new AppError("operation_denied", refusal.detail, {
      party: context.steward,
      details: { refusal: refusal.code },
    });
  }
  if (refusal !== undefined) throw gone(context, refusal.detail, refusal.code);
  if (!validation.allowedArchetypes.includes(composition.archetype_id)) {
    throw gone(
      context,
      `${context.steward} no longer allows archetype ${composition.archetype_id}.`,
      "no_archetype_allowed",
    );
  }
  const third = composition.compute_provider;
  if (third !== undefined && !validation.allowedComputeProviders.includes(third)) {
    throw gone(context, `${context.steward} no longer lets ${third} compute.`, "compute_provider_not_allowed");
  }
  const relation = agreement === undefined ? undefined : findRelation(agreement.document, caller.claims.sub);
  if (agreement === undefined || relation === undefined) throw gone(context, "There is no agreement.", "no_relation");
  const dataSets = await context.knowledge.list("datasets");
  return {
    ...base,
    ...grantFor(
      relation,
      agreement.revision,
      validation.dataSets,
      dataSets.documents.map(({ document }) => document),
    ),
  };
}

/** A third party grants no data; the minimum group size and raw rows follow from the grants that the streams bring along. */
async function thirdPartyScope(
  context: AgentContext,
  job: RegisteredJob,
): Promise<Pick<Grant, "dataSets" | "minimumGroupSize" | "rawRows" | "agreementRevision" | "providers">> {
  const providers: Record<string, Record<string, unknown>[]> = {};
  for (const provider of job.composition.data_providers) {
    const online = await context.knowledge.onlineInstances(provider);
    providers[provider] = online.flatMap(({ grantKeys }) => grantKeys);
  }
  return { dataSets: [], minimumGroupSize: 1, rawRows: true, agreementRevision: 0, providers };
}

function gone(context: AgentContext, detail: string, refusal: string): AppError {
  return new AppError("agreement_gone", detail, { party: context.steward, details: { refusal } });
}
