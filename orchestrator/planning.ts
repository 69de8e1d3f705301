/** Makes a plan: gathers what the pure choices need (agreements' answers, who is online, documents), and asks them. */
import { AppError } from "../lib/errors.ts";
import { agreementKeys } from "../lib/knowledge/keys.ts";
import type { StewardValidation } from "../lib/messages.ts";
import { checkOptions, type RequestOptions } from "../lib/model/data-request.ts";
import type { User } from "../lib/model/names.ts";
import { optionalServiceKeys, type RequestType } from "../lib/model/request-type.ts";
import type { TraceContext } from "../lib/telemetry/trace-context.ts";
import { agreementRevisions, revisionsByName } from "./agreement-revisions.ts";
import { selectPlan, type Selection } from "./archetype-selection.ts";
import { divideProviders, type ProviderOutcomes } from "./authorized-providers.ts";
import { acceptedComputeProviders, namedComputeProviders } from "./compute-provider-selection.ts";
import type { OrchestratorContext } from "./context.ts";
import { askPolicyEnforcer } from "./policy-client.ts";

/** What a plan is wanted for. */
export interface PlanQuestion {
  readonly requestType: string;
  readonly user: User;
  /** The stewards asked. */
  readonly candidates: readonly string[];
  /** Data sets that the request is about; absent: those that all of the stewards grant. */
  readonly dataSets?: readonly string[];
  readonly options: RequestOptions;
  /** Algorithms, where the request names them already. */
  readonly algorithms?: readonly string[];
  readonly trace?: TraceContext;
  readonly signal?: AbortSignal;
}

/** What came of it. */
export interface PlanDecision {
  readonly outcomes: ProviderOutcomes;
  readonly selection: Selection;
  readonly dataSets: readonly string[];
  /** Third parties that all authorized providers accept, whichever archetype was chosen. */
  readonly acceptedComputeProviders: readonly string[];
  /** Revision of each candidate's and each accepted third party's agreement before it was asked; 0 where there is none. */
  readonly agreements: Readonly<Record<string, number>>;
  /** Revision of each archetype that there was. */
  readonly archetypes: Readonly<Record<string, number>>;
}

/** Decides. Fails where it cannot be decided (`unavailable`, unknown request type); a refusal is a value. */
export async function decidePlan(question: PlanQuestion, context: OrchestratorContext): Promise<PlanDecision> {
  const requestType = await requireRequestType(question.requestType, context);
  // Read first: what changes while it is being asked shows as changed afterwards, never as known.
  const [{ agreements, expected }, { microservices, archetypes }] = await Promise.all([
    candidateAgreements(question, context),
    chainDocuments(context),
  ]);
  const [validations, expectedValidations, online] = await Promise.all([
    askAbout(question.candidates, question.dataSets, question, context),
    // Whether they matter is not known yet: where they cannot be asked about, they are again if they do.
    askAboutThirdParties(expected, question, context).catch(() => undefined),
    onlineNames(context),
  ]);
  const outcomes = divideProviders(validations, online);
  const { authorized } = outcomes;
  const dataSets = question.dataSets ?? commonDataSets(authorized);
  const accepted = acceptedComputeProviders(authorized);
  // What the policy enforcer found may be newer than what was expected of it.
  const others = accepted.filter((name) => expectedValidations === undefined || !expected.includes(name));
  const otherAgreements = await agreementRevisions(others, context);
  const otherValidations = await askAboutThirdParties(others, question, context);
  return {
    outcomes,
    dataSets,
    acceptedComputeProviders: accepted,
    agreements: pick({ ...agreements, ...otherAgreements }, [...question.candidates, ...accepted]),
    archetypes: revisionsByName(archetypes),
    selection:
      noProviders(outcomes) ??
      noDataSet(authorized, dataSets) ??
      selectPlan({
        requestType,
        microservices: microservices.map(({ document }) => document),
        archetypes: archetypes.map(({ document }) => document),
        options: question.options,
        providers: authorized,
        thirdParties: { online, validations: [...(expectedValidations ?? []), ...otherValidations] },
      }),
  };
}

/** Fails for a request type (`invalid_argument`) or an option (`bad_request`) that does not exist; both say which do. */
export async function checkQuestion(
  { requestType, options }: Pick<PlanQuestion, "requestType" | "options">,
  context: OrchestratorContext,
): Promise<void> {
  checkOptions(options, Object.values(optionalServiceKeys(await requireRequestType(requestType, context))));
}

async function requireRequestType(name: string, { knowledge }: OrchestratorContext): Promise<RequestType> {
  const { documents } = await knowledge.list("requestTypes");
  const found = documents.find(({ document }) => document.name === name);
  if (found !== undefined) return found.document;
  throw new AppError("invalid_argument", `There is no request type "${name}".`, {
    place: { pointer: "/type" },
    details: { known: documents.map(({ document }) => document.name) },
  });
}

/**
 * The revisions of the candidates' agreements and of the third parties' that these name for the user: they can be asked about beside the
 * candidates. What counts is what the policy enforcer says afterwards.
 */
async function candidateAgreements(
  { candidates, user }: PlanQuestion,
  context: OrchestratorContext,
): Promise<{ readonly agreements: Readonly<Record<string, number>>; readonly expected: readonly string[] }> {
  const stored = await Promise.all(
    candidates.map((steward) => context.knowledge.store.get(agreementKeys.key({ steward }))),
  );
  const expected = [...new Set(stored.flatMap((agreement) => namedComputeProviders(agreement?.value, user.userName)))]
    .filter((name) => !candidates.includes(name))
    .sort();
  const own = candidates.map((steward, index) => [steward, stored[index]?.revision ?? 0] as const);
  return { agreements: { ...Object.fromEntries(own), ...(await agreementRevisions(expected, context)) }, expected };
}

function pick(revisions: Readonly<Record<string, number>>, stewards: readonly string[]): Record<string, number> {
  return Object.fromEntries(stewards.map((steward) => [steward, revisions[steward] ?? 0]));
}

async function askAbout(
  parties: readonly string[],
  dataSets: readonly string[] | undefined,
  question: PlanQuestion,
  { rpc }: OrchestratorContext,
): Promise<readonly StewardValidation[]> {
  if (parties.length === 0) return [];
  return askPolicyEnforcer(
    rpc,
    {
      type: question.requestType,
      user: question.user,
      dataProviders: [...parties],
      options: question.options,
      ...(dataSets === undefined ? {} : { dataSets: [...dataSets] }),
      ...(question.algorithms === undefined ? {} : { algorithms: [...question.algorithms] }),
    },
    question.trace,
    question.signal,
  );
}

/** A third party's own agreement, if it has one, speaks of archetypes and users, not of data sets. */
function askAboutThirdParties(
  parties: readonly string[],
  question: PlanQuestion,
  context: OrchestratorContext,
): Promise<readonly StewardValidation[]> {
  return askAbout(parties, [], question, context);
}

async function onlineNames({ knowledge }: OrchestratorContext): Promise<ReadonlySet<string>> {
  const { documents } = await knowledge.online();
  return new Set(documents.map(({ document }) => document.name));
}

async function chainDocuments({ knowledge }: OrchestratorContext) {
  const [microservices, archetypes] = await Promise.all([
    knowledge.list("microservices"),
    knowledge.list("archetypes"),
  ]);
  return { microservices: microservices.documents, archetypes: archetypes.documents };
}

/** One query runs at all stewards, so a request that names no data set is about those that all of them grant. */
function commonDataSets([first, ...others]: readonly StewardValidation[]): readonly string[] {
  return [...(first?.dataSets ?? [])].filter((name) => others.every(({ dataSets }) => dataSets.includes(name))).sort();
}

function noProviders({ authorized, refused, offline }: ProviderOutcomes): Selection | undefined {
  if (authorized.length > 0) return undefined;
  const why = [
    ...refused.map(({ provider, code }) => `${provider} refuses (${code})`),
    ...offline.map((provider) => `${provider} is offline`),
  ];
  return {
    kind: "refused",
    error: new AppError("no_authorized_providers", `No data provider may answer: ${why.join(", ")}.`, {
      // Offline is the only obstacle that passes by itself.
      retryable: refused.length === 0,
      details: { refused, offline },
    }),
  };
}

function noDataSet(authorized: readonly StewardValidation[], dataSets: readonly string[]): Selection | undefined {
  if (dataSets.length > 0) return undefined;
  const granted = Object.fromEntries(authorized.map(({ steward, dataSets: names }) => [steward, names]));
  return {
    kind: "refused",
    error: new AppError(
      "no_authorized_providers",
      "The stewards grant no data set in common; ask those apart that share one.",
      {
        details: { dataSets: granted },
      },
    ),
  };
}
