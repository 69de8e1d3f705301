/** Streams that carry states of groups instead of rows: made by sql-query where its engine aggregates, merged by sql-algorithm. */
import type { RecordBatch, Schema } from "apache-arrow";
import { columnReaders } from "../data/column-reader.ts";
import { PARTIAL_STATES } from "../data/field-metadata.ts";
import type { FieldSpec } from "../data/field-types.ts";
import { checkGroupedJson, groupsOfJson, planOfJson } from "./grouped-json.ts";
import type { GroupedSummary } from "./grouped.ts";

/** The one column of such a stream: in each row a `GroupedSummaryJson`. */
export const STATE_FIELD: FieldSpec = { name: "state", type: { kind: "text" }, nullable: false };

/** The fields of the rows that the states are of; undefined where the stream has the rows themselves. */
export function fieldsOfStates(schema: Schema): readonly FieldSpec[] | undefined {
  const json = schema.metadata.get(PARTIAL_STATES);
  return json === undefined ? undefined : (JSON.parse(json) as readonly FieldSpec[]);
}

/** Merges a batch of states. Fails with `data_invalid` where one is malformed. */
export function mergeStates(summary: GroupedSummary, batch: RecordBatch): void {
  const [state] = columnReaders(batch);
  for (let row = 0; row < batch.numRows; row++) {
    const json = checkGroupedJson(JSON.parse(String(state?.get(row))));
    const plan = planOfJson(json);
    for (const { index, group } of groupsOfJson(json, plan)) summary.mergeGroup(index, group, plan);
  }
}
