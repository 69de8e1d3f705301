/** SQLite files as data pods: what is declared must be there. Values are checked when they are read. */
import Database from "better-sqlite3";
import { quoteName } from "../../lib/data/sqlite-tables.ts";
import { AppError } from "../../lib/errors.ts";
import type { DataSet } from "../../lib/model/dataset.ts";

/**
 * Checks that a SQLite file has the data set's tables with all declared columns; more may be there, and is never granted.
 *
 * @throws AppError `not_found`, or `data_invalid` that names file, table and columns.
 */
export function checkSqliteTables(path: string, dataSet: DataSet): void {
  const database = openReadOnly(path);
  try {
    for (const table of dataSet.tables) {
      const columns = columnsOf(database, table.name, path);
      const missing = table.columns.filter((column) => !columns.has(column.name.toLowerCase()));
      if (columns.size === 0) {
        throw new AppError(
          "data_invalid",
          `${path} has no table ${table.name}, which the data set ${dataSet.name} declares.`,
          { place: { file: path }, details: { table: table.name } },
        );
      }
      if (missing.length > 0) {
        const names = missing.map((column) => column.name).join(", ");
        throw new AppError("data_invalid", `The table ${table.name} of ${path} lacks declared columns: ${names}.`, {
          place: { file: path },
          details: { table: table.name },
        });
      }
    }
  } finally {
    database.close();
  }
}

function openReadOnly(path: string): Database.Database {
  try {
    return new Database(path, { readonly: true, fileMustExist: true });
  } catch (error) {
    throw new AppError("not_found", `The data file ${path} cannot be opened: ${(error as Error).message}.`, {
      place: { file: path },
      cause: error,
    });
  }
}

function columnsOf(database: Database.Database, table: string, path: string): ReadonlySet<string> {
  try {
    const rows = database.pragma(`table_info(${quoteName(table)})`) as { name: string }[];
    return new Set(rows.map((row) => row.name.toLowerCase()));
  } catch (error) {
    throw new AppError("data_invalid", `${path} is not a readable SQLite database: ${(error as Error).message}.`, {
      cause: error,
      place: { file: path },
    });
  }
}
