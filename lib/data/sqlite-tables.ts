/**
 * Declared tables in SQLite (decision 14). The declared type's first word decides how SQLite stores and compares (its
 * column affinity); the second tells people what it means. `docs/decisions/0007-the-querys-world.md` says why.
 */
import type { ColumnType, Table } from "../model/dataset.ts";

/** The SQL type of a declared column in the files that we make. */
export function sqliteType(type: ColumnType): string {
  switch (type.type) {
    case "integer":
      return "INTEGER";
    case "decimal":
      return `REAL DECIMAL(${String(type.precision)},${String(type.scale)})`;
    case "float":
      return "REAL";
    case "boolean":
      return "INTEGER BOOLEAN";
    case "text":
      return "TEXT";
    case "date":
      return "TEXT DATE";
    case "timestamp":
      return "TEXT TIMESTAMP";
  }
}

/** The statement that creates a declared table. */
export function createTableSql(table: Table): string {
  const columns = table.columns.map((column) => `${quoteName(column.name)} ${sqliteType(column.type)}`);
  return `CREATE TABLE ${quoteName(table.name)} (${columns.join(", ")})`;
}

/** A name as SQL text, whatever is in it. */
export function quoteName(name: string): string {
  return `"${name.replaceAll('"', '""')}"`;
}
