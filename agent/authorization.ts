/**
 * May this caller have this, now? The token says who asks for which job; the job's record says what this party does in it; this
 * party's own agreement, as it is at this moment, says what may be used (decisions 12 and 18).
 */
import { AppError } from "../lib/errors.ts";
import { fingerprintOf } from "../lib/fingerprint.ts";
import type { StewardValidation } from "../lib/messages.ts";
import type { Relation } from "../lib/model/agreement.ts";
import type { CompositionRequest } from "../lib/model/composition.ts";
import { evaluateAgreement, findRelation, grantFor } from "../lib/policy/evaluate.ts";
import type { Grant } from "../lib/model/grant.ts";
import type { VerifiedToken } from "../lib/tokens.ts";
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
  const claims = await context.tokens.verify(accessToken);
  return { claims, accessToken: accessToken ?? "" };
}

/**
 * The caller's job at this party. Its use is to renew it (`JobRegistry.renew`), beside what else is to be looked at.
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
  return job;
}

/** What an agreement allows at a moment. */
export interface Evaluation {
  readonly grant: Grant;
  /** Until when, in milliseconds since the epoch; absent: the agreement sets no end. */
  readonly validUntilMs?: number;
}

/** What a grant is made for. */
export interface GrantPurpose {
  readonly requestId: string;
  readonly deadlineMs: number;
  /** Algorithms that the request names. */
  readonly algorithms: readonly string[];
}

/**
 * What this party's agreement allows the caller at this moment. A third party grants no data: its own agreement, where it has
 * one, only says whether it computes for this user, and minimum group size, raw rows and operations follow from the data
 * providers' grants, which their streams bring along.
 *
 * @throws AppError `operation_denied` for an algorithm that is not listed, and for none where rows may not leave; else
 * `agreement_gone` with the refusal's code and detail.
 */
export async function evaluateGrant(
  context: AgentContext,
  caller: Caller,
  job: RegisteredJob,
  purpose: GrantPurpose,
): Promise<Evaluation> {
  const { composition } = job;
  const base = {
    steward: context.steward,
    requestId: purpose.requestId,
    jobName: composition.job_name,
    requestType: composition.request_type,
    deadlineMs: purpose.deadlineMs,
  };
  const isThirdParty = composition.role === "computeProvider";
  const [agreement, dataSets] = await Promise.all([
    context.knowledge.get("agreements", context.steward),
    isThirdParty ? undefined : context.knowledge.list("datasets"),
  ]);
  // As the planning has it: a third party without an agreement of its own objects to nothing.
  if (isThirdParty && agreement === undefined) {
    return { grant: { ...base, ...thirdPartyScope(undefined, 0) } };
  }
  const validation = evaluateAgreement(
    agreement?.document,
    agreement?.revision ?? 0,
    {
      userName: caller.claims.sub,
      type: composition.request_type,
      dataSets: isThirdParty ? [] : caller.claims.dataSets,
      ...(purpose.algorithms.length === 0 ? {} : { algorithms: purpose.algorithms }),
    },
    context.steward,
    context.clock.now(),
  );
  requireAllowed(context, validation, composition);
  const relation = agreement === undefined ? undefined : findRelation(agreement.document, caller.claims.sub);
  if (agreement === undefined || relation === undefined) throw gone(context, "There is no agreement.", "no_relation");
  const validity = relation.validUntil === undefined ? {} : { validUntilMs: Date.parse(relation.validUntil) };
  if (isThirdParty) return { grant: { ...base, ...thirdPartyScope(relation, agreement.revision) }, ...validity };
  const documents = (dataSets?.documents ?? []).map(({ document }) => document);
  const scope = grantFor(relation, agreement.revision, validation.dataSets, documents);
  if (purpose.algorithms.length === 0 && !scope.rawRows) throw noRawRows(context, 'name one in "algorithm"');
  return { grant: { ...base, ...scope }, ...validity };
}

/** Fails unless the agreement allows what the job's plan has this party do. */
function requireAllowed(context: AgentContext, validation: StewardValidation, plan: CompositionRequest): void {
  const { refusal } = validation;
  if (refusal?.code === "operation_not_allowed") {
    throw new AppError("operation_denied", refusal.detail, {
      party: context.steward,
      details: { refusal: refusal.code },
    });
  }
  if (refusal !== undefined) throw gone(context, refusal.detail, refusal.code);
  if (!validation.allowedArchetypes.includes(plan.archetype_id)) {
    throw gone(context, `${context.steward} no longer allows archetype ${plan.archetype_id}.`, "no_archetype_allowed");
  }
  const third = plan.compute_provider;
  if (plan.role === "computeProvider" || third === undefined) return;
  if (!validation.allowedComputeProviders.includes(third)) {
    throw gone(context, `${context.steward} no longer lets ${third} compute.`, "compute_provider_not_allowed");
  }
}

/** The refusal of rows as they are; `remedy` is what the caller can change. */
export function noRawRows(context: AgentContext, remedy: string): AppError {
  const detail = `${context.steward}'s agreement lets no rows out without an algorithm: ${remedy}.`;
  return new AppError("operation_denied", detail, { party: context.steward });
}

function thirdPartyScope(
  relation: Relation | undefined,
  agreementRevision: number,
): Pick<Grant, "dataSets" | "minimumGroupSize" | "rawRows" | "agreementRevision"> {
  return { dataSets: [], minimumGroupSize: relation?.minimumGroupSize ?? 1, rawRows: true, agreementRevision };
}

/** The public keys that the data providers sign their grants with, by provider; one without a living agent is left out. */
export async function providerKeys(
  context: AgentContext,
  providers: readonly string[],
): Promise<Record<string, Record<string, unknown>[]>> {
  const known = await Promise.all(
    providers.map(async (provider) => {
      const online = await context.knowledge.onlineInstances(provider);
      return [provider, online.flatMap(({ grantKeys }) => grantKeys)] as const;
    }),
  );
  return Object.fromEntries(known.filter(([, keys]) => keys.length > 0));
}

/** What others' documents say for an answer of this job, beside the grant: read while the grant is made. */
export interface DocumentsBehind {
  readonly agreements: readonly unknown[];
  readonly dataSets: readonly unknown[];
}

/** At a third party the data providers' agreements count as they are now; each of them evaluates its own when it is asked. */
export async function documentsBehind(context: AgentContext, { composition }: RegisteredJob): Promise<DocumentsBehind> {
  const providers = composition.role === "computeProvider" ? composition.data_providers : [];
  const theirs = providers.map(async (provider) => {
    const agreement = (await context.knowledge.get("agreements", provider))?.document;
    if (agreement === undefined) return { provider };
    const { archetypes, computeProviders } = agreement;
    const relation = findRelation(agreement, composition.user.userName);
    return { provider, archetypes, computeProviders, relation };
  });
  const asked = providers.length === 0 ? [] : composition.data_sets;
  const documents = asked.map(async (name) => (await context.knowledge.get("datasets", name))?.document);
  const [agreements, dataSets] = await Promise.all([Promise.all(theirs), Promise.all(documents)]);
  return { agreements, dataSets };
}

/** What an answer under this grant follows from: two answers with the same decision may stand for one another. */
export function decisionBehind({ composition }: RegisteredJob, grant: Grant, behind: DocumentsBehind): string {
  const { dataSets, minimumGroupSize, rawRows, operations } = grant;
  return fingerprintOf(
    [composition.archetype_id, composition.role, composition.compute_provider, composition.data_providers],
    { dataSets, minimumGroupSize, rawRows, operations },
    behind.agreements,
    behind.dataSets,
  );
}

function gone(context: AgentContext, detail: string, refusal: string): AppError {
  return new AppError("agreement_gone", detail, { party: context.steward, details: { refusal } });
}
