/** Declared tables in DuckDB, whose types hold the declared ones exactly (decision 14). */
import type { ColumnType, Table } from "../model/dataset.ts";
import { quoteName } from "./sqlite-tables.ts";

/** The SQL type of a declared column. */
export function duckdbType(type: ColumnType): string {
  switch (type.type) {
    case "integer":
      return "BIGINT";
    case "decimal":
      return `DECIMAL(${String(type.precision)},${String(type.scale)})`;
    case "float":
      return "DOUBLE";
    case "boolean":
      return "BOOLEAN";
    case "text":
      return "VARCHAR";
    case "date":
      return "DATE";
    case "timestamp":
      return "TIMESTAMP";
  }
}

/** The statement that creates a declared table. */
export function createDuckdbTableSql(table: Table): string {
  const columns = table.columns.map((column) => `${quoteName(column.name)} ${duckdbType(column.type)}`);
  return `CREATE TABLE ${quoteName(table.name)} (${columns.join(", ")})`;
}

/** Which tables and columns a file has that was made for a data set; beside the file, so that nobody need open it to know. */
export function contentsFileOf(path: string): string {
  return `${path}.tables`;
}
