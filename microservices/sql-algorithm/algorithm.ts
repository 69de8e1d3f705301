/**
 * sql-algorithm: what the request asks for over the rows of one stream. lib/algorithms computes, `allowed.ts` says what the
 * agreement lets it.
 */
import type { RecordBatch, Schema } from "apache-arrow";
import { groupedToJson } from "../../lib/algorithms/grouped-json.ts";
import { finishGrouped } from "../../lib/algorithms/grouped-result.ts";
import { GroupedSummary, type GroupedSummaryOptions } from "../../lib/algorithms/grouped.ts";
import { planGroupings, type GroupingPlan } from "../../lib/algorithms/grouping-plan.ts";
import { fieldsOfStates, mergeStates } from "../../lib/algorithms/partial-states.ts";
import { fieldsOf } from "../../lib/data/field-types.ts";
import type { DataRequest } from "../../lib/model/data-request.ts";
import { checkOperations, checkRawRows, type AlgorithmRules } from "./allowed.ts";

/** The rows to compute over. */
export interface AlgorithmInput {
  readonly schema: Schema;
  readonly batches: AsyncIterable<RecordBatch>;
}

/** The question and what goes for it. */
export interface AlgorithmOptions extends GroupedSummaryOptions {
  readonly request: Pick<DataRequest, "algorithm" | "algorithmColumns" | "algorithmParameters">;
  readonly rules: AlgorithmRules;
  /** Attach the exact state, so that the front door can pool several stewards' answers (computeToData). */
  readonly withSummary: boolean;
  readonly signal: AbortSignal;
}

/** What comes out; the shapes are those of the SDK's `Output`. */
export type AlgorithmOutput =
  | { readonly schema: Schema }
  | { readonly batch: RecordBatch; readonly isUnchanged?: true }
  | { readonly attachment: { readonly name: string; readonly mediaType: string; readonly data: Uint8Array } }
  | { readonly notes: Readonly<Record<string, unknown>> };

/** Name and media type of the attachment with the state that pools: a `GroupedSummaryJson`. */
export const SUMMARY_ATTACHMENT = { name: "summary.json", mediaType: "application/vnd.dynamos.summary+json" } as const;

/**
 * Computes the algorithms of the request; without one the rows pass through, if the agreement allows that. Fails with
 * `operation_denied`, `algorithm_unknown`, `column_unknown`, `type_mismatch`, `invalid_argument` before any row is read, with
 * `result_too_large` for too many groups.
 */
export async function* runAlgorithm(input: AlgorithmInput, options: AlgorithmOptions): AsyncGenerator<AlgorithmOutput> {
  const { request, rules, signal } = options;
  if (request.algorithm === undefined || request.algorithm.trim() === "") {
    checkRawRows(rules);
    yield { schema: input.schema };
    for await (const batch of input.batches) {
      signal.throwIfAborted();
      yield { batch, isUnchanged: true };
    }
    return;
  }
  const plan = planGroupings(fieldsOfStates(input.schema) ?? fieldsOf(input.schema), {
    ...request,
    algorithm: request.algorithm,
  });
  checkOperations(
    plan.algorithms.map(({ name }) => name),
    rules,
  );
  yield* computed(input, plan, options);
}

async function* computed(
  { schema, batches }: AlgorithmInput,
  plan: GroupingPlan,
  options: AlgorithmOptions,
): AsyncGenerator<AlgorithmOutput> {
  const { rules, signal, withSummary } = options;
  const isOfStates = fieldsOfStates(schema) !== undefined;
  const summary = GroupedSummary.start(plan, options);
  try {
    for await (const batch of batches) {
      signal.throwIfAborted();
      if (isOfStates) mergeStates(summary, batch);
      else summary.addBatch(batch);
    }
    const result = finishGrouped(summary, rules.minimumGroupSize);
    yield { schema: result.schema };
    for (const batch of result.batches) yield { batch };
    if (withSummary) {
      const state = Buffer.from(JSON.stringify(groupedToJson(summary, rules.minimumGroupSize)));
      yield { attachment: { ...SUMMARY_ATTACHMENT, data: state } };
    }
    yield {
      notes: {
        algorithms: plan.algorithms.map(({ name }) => name),
        minimumGroupSize: rules.minimumGroupSize,
        withheldGroups: result.withheld.groups,
        ...(result.withheld.bins > 0 ? { withheldBins: result.withheld.bins } : {}),
        ...(result.withheld.values > 0 ? { withheldValues: result.withheld.values } : {}),
        ...(withSummary && !summary.mergeable ? { notPooled: summary.notMergeable } : {}),
      },
    };
  } finally {
    summary.close();
  }
}
