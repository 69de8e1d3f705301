/** The columns of a result: their names, declared types, and where their values come from. */
import { fieldTypeOfColumn, type FieldType } from "../../lib/data/field-types.ts";
import { SOURCE_COLUMN, SOURCE_TABLE } from "../../lib/data/field-metadata.ts";
import { AppError } from "../../lib/errors.ts";
import { findTable, type Column, type DataSet } from "../../lib/model/dataset.ts";
import type { GuardedStatement } from "./guarded-statement.ts";

/** A result column. */
export interface OutputColumn {
  readonly name: string;
  /** If its values are those of one granted column, unchanged. */
  readonly declaredType: FieldType | undefined;
  /** Arrow metadata of its field. */
  readonly metadata: Readonly<Record<string, string>>;
}

/**
 * The result columns of a statement. Names that come twice get `:1`, `:2` and so on, as SQLite itself names them in a
 * subselect. The origin is what SQLite says, but nothing for a compound: there SQLite names one of several.
 */
export function outputColumns(
  { statement, isCompound }: GuardedStatement,
  dataSets: readonly DataSet[],
): OutputColumn[] {
  const names = new Set<string>();
  return statement.columns().map((column, index) => {
    if (column.name === "") {
      throw new AppError(
        "query_invalid",
        `Column ${String(index + 1)} of the result has no name. Give it one with AS.`,
      );
    }
    const name = uniqueName(column.name, names);
    const origin = isCompound ? undefined : findOrigin(column, dataSets);
    if (origin === undefined) return { name, declaredType: undefined, metadata: {} };
    return {
      name,
      declaredType: fieldTypeOfColumn(origin.column.type),
      metadata: { [SOURCE_TABLE]: origin.table, [SOURCE_COLUMN]: origin.column.name },
    };
  });
}

function uniqueName(name: string, taken: Set<string>): string {
  let unique = name;
  for (let count = 1; taken.has(unique); count++) unique = `${name}:${String(count)}`;
  taken.add(unique);
  return unique;
}

function findOrigin(
  { database, table, column }: { database: string | null; table: string | null; column: string | null },
  dataSets: readonly DataSet[],
): { readonly table: string; readonly column: Column } | undefined {
  if (database !== "main" || table === null || column === null) return undefined;
  const declared = dataSets.map((dataSet) => findTable(dataSet, table)).find((found) => found !== undefined);
  const found = declared?.columns.find(({ name }) => name.toLowerCase() === column.toLowerCase());
  return declared && found ? { table: declared.name, column: found } : undefined;
}
