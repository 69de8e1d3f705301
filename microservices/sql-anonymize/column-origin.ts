/** Where the columns of a result come from, and what follows for each (docs/decisions/0006). */
import type { Field, Schema } from "apache-arrow";
import { SENSITIVE_COLUMNS_READ, SOURCE_COLUMN, SOURCE_TABLE } from "../../lib/data/field-metadata.ts";
import { columnRule, type ColumnRule } from "../../lib/model/anonymization.ts";
import type { DataSet } from "../../lib/model/dataset.ts";

/** What a rule depends on. */
export interface OriginContext {
  readonly dataSets: readonly DataSet[];
  readonly query: string;
  readonly schema: Schema;
}

/** The rule for a result column. Sensitive in one of the data sets that have such a table is sensitive. */
export function ruleOfField(field: Field, { dataSets, query, schema }: OriginContext): ColumnRule {
  if (schema.metadata.get(SENSITIVE_COLUMNS_READ) === "none") return { kind: "open" };
  const table = field.metadata.get(SOURCE_TABLE);
  const column = field.metadata.get(SOURCE_COLUMN);
  if (table === undefined || column === undefined || !areOriginsCertain(query)) return { kind: "unknown" };
  const rules = dataSets.map((dataSet) => columnRule(dataSet, table, column));
  return (
    rules.find(({ kind }) => kind === "sensitive") ?? rules.find(({ kind }) => kind === "open") ?? { kind: "unknown" }
  );
}

/**
 * SQLite names the origin of one arm of a compound SELECT only, so `SELECT Sex … UNION ALL SELECT Birthday …` would pass
 * for Sex. A keyword cannot be written in another way, so a text without these words has no compound SELECT; that the
 * words may also stand in a string or a name only makes the answer more careful.
 */
function areOriginsCertain(query: string): boolean {
  return !/union|intersect|except/i.test(query);
}
