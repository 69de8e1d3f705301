/**
 * Which plan: archetype, data providers, third party (thesis, section 4.3; `docs/decisions/0008-archetype-selection.md`).
 * Options first, then what all parties of the plan allow, then weight, then name. Pure: the same input in any order gives
 * the same plan.
 */
import { AppError } from "../lib/errors.ts";
import type { StewardValidation } from "../lib/messages.ts";
import type { Archetype } from "../lib/model/archetype.ts";
import { isOptionOn, type RequestOptions } from "../lib/model/data-request.ts";
import type { Microservice } from "../lib/model/microservice.ts";
import { optionalServiceKeys, type RequestType } from "../lib/model/request-type.ts";
import { selectComputeProvider, type ThirdParties } from "./compute-provider-selection.ts";

/** What a choice is made from. */
export interface SelectionInput {
  readonly requestType: RequestType;
  readonly microservices: readonly Microservice[];
  readonly archetypes: readonly Archetype[];
  readonly options: RequestOptions | undefined;
  /** The answers of the stewards that allow the request and are online; at least one. */
  readonly providers: readonly StewardValidation[];
  readonly thirdParties: ThirdParties;
}

/** Who does what. */
export interface SelectedPlan {
  readonly archetype: string;
  /** Data providers, by name. */
  readonly providers: readonly string[];
  /** The third party, where the archetype has one. */
  readonly computeProvider?: string;
}

/** A plan, or the typed refusal: `archetype_conflict` or `compute_provider_unavailable`, which names who allows what. */
export type Selection =
  { readonly kind: "plan"; readonly plan: SelectedPlan } | { readonly kind: "refused"; readonly error: AppError };

/** Chooses; see the file comment. */
export function selectPlan(input: SelectionInput): Selection {
  const providers = input.providers.map(({ steward }) => steward).sort();
  const reasons: string[] = [];
  let unavailable: AppError | undefined;
  for (const archetype of preferred(input.archetypes)) {
    const obstacle = optionObstacle(archetype, input) ?? agreementObstacle(archetype, input.providers);
    if (obstacle !== undefined) {
      reasons.push(`${archetype.name}: ${obstacle}`);
      continue;
    }
    if (archetype.computeProvider === "dataProvider") {
      return { kind: "plan", plan: { archetype: archetype.name, providers } };
    }
    const choice = selectComputeProvider(archetype.name, input.providers, input.thirdParties);
    if (choice.kind === "chosen") {
      return { kind: "plan", plan: { archetype: archetype.name, providers, computeProvider: choice.name } };
    }
    reasons.push(`${archetype.name}: ${choice.reason}`);
    if (choice.kind === "offline") unavailable ??= computeProviderUnavailable(archetype.name, choice);
  }
  return { kind: "refused", error: unavailable ?? archetypeConflict(input, reasons) };
}

/** Lower weight first, then by name. */
function preferred(archetypes: readonly Archetype[]): Archetype[] {
  return [...archetypes].sort((left, right) => left.weight - right.weight || (left.name < right.name ? -1 : 1));
}

/** An option asks for a service; where that service cannot run, the archetype cannot give what was asked. */
function optionObstacle(archetype: Archetype, input: SelectionInput): string | undefined {
  const asked = Object.entries(optionalServiceKeys(input.requestType))
    .filter(([, key]) => isOptionOn(input.options, key))
    .sort(([left], [right]) => (left < right ? -1 : 1));
  for (const [service, key] of asked) {
    const document = input.microservices.find(({ name }) => name === service);
    if (document?.invalidArchetypes.includes(archetype.name)) {
      return `the option "${key}" needs ${service}, which does not run in it`;
    }
  }
  return undefined;
}

function agreementObstacle(archetype: Archetype, providers: readonly StewardValidation[]): string | undefined {
  const against = providers
    .filter(({ allowedArchetypes }) => !allowedArchetypes.includes(archetype.name))
    .map(({ steward }) => steward)
    .sort();
  return against.length === 0 ? undefined : `not allowed by ${against.join(", ")}`;
}

function archetypeConflict(input: SelectionInput, reasons: readonly string[]): AppError {
  const allowed = byStewardName(input.providers, ({ allowedArchetypes }) => allowedArchetypes);
  return new AppError(
    "archetype_conflict",
    `No archetype is possible for ${Object.keys(allowed).join(", ")} together. ${reasons.join("; ") || "There are no archetypes"}.`,
    {
      details: {
        allowedArchetypes: allowed,
        allowedComputeProviders: byStewardName(
          input.providers,
          ({ allowedComputeProviders }) => allowedComputeProviders,
        ),
        reasons,
      },
    },
  );
}

function computeProviderUnavailable(
  archetype: string,
  choice: { reason: string; accepted: readonly string[] },
): AppError {
  return new AppError("compute_provider_unavailable", `${archetype} needs a third party: ${choice.reason}.`, {
    details: { archetype, accepted: choice.accepted },
  });
}

function byStewardName<Value>(
  providers: readonly StewardValidation[],
  value: (provider: StewardValidation) => readonly Value[],
): Record<string, readonly Value[]> {
  return Object.fromEntries(
    [...providers]
      .sort((left, right) => (left.steward < right.steward ? -1 : 1))
      .map((provider) => [provider.steward, [...value(provider)].sort()]),
  );
}
