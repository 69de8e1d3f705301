/**
 * Which columns of the world a statement reads, taken from its compiled program (docs/decisions/0007): exact where a
 * search of the text could only guess (`*`, NATURAL JOIN, views, names in quotes).
 *
 * Worlds hold plain tables: no index, no primary key, no generated column (`world.ts` sees to it). So a row's values can
 * be read in one way only: `Column` from a cursor that `OpenRead` has opened on the table's root page.
 */
import type Database from "better-sqlite3";
import { quoteName } from "../../lib/data/sqlite-tables.ts";
import { columnRule } from "../../lib/model/anonymization.ts";
import type { DataSet } from "../../lib/model/dataset.ts";
import type { Instruction } from "./guarded-statement.ts";

/** A column of the world. */
export interface WorldColumn {
  readonly table: string;
  readonly column: string;
}

/** Whether a statement certainly reads no column that one of the data sets calls sensitive, be it only to choose rows. */
export function readsNoSensitiveColumn(
  database: Database.Database,
  program: readonly Instruction[],
  dataSets: readonly DataSet[],
): boolean {
  const columns = columnsRead(database, program);
  if (columns === undefined) return false;
  return columns.every(({ table, column }) => {
    const rules = dataSets.map((dataSet) => columnRule(dataSet, table, column).kind);
    return rules.includes("open") && !rules.includes("sensitive");
  });
}

/** The columns that a program reads; undefined where the program reads tables in a way that is not known here. */
export function columnsRead(
  database: Database.Database,
  program: readonly Instruction[],
): readonly WorldColumn[] | undefined {
  const tables = tablesByRootPage(database);
  const cursors = new Map<number, Set<number>>();
  for (const { opcode, p1, p2, p3, p5 } of program) {
    if (UNKNOWN_READERS.test(opcode)) return undefined;
    if (opcode !== "OpenRead") continue;
    if (p3 !== MAIN_DATABASE || (p5 & ROOT_PAGE_IN_REGISTER) !== 0 || !tables.has(p2)) return undefined;
    cursors.set(p1, (cursors.get(p1) ?? new Set()).add(p2));
  }
  const read = new Map<string, WorldColumn>();
  // Of those only whose columns are read.
  const columnsByTable = new Map<string, readonly string[]>();
  for (const { opcode, p1, p2 } of program) {
    if (opcode !== "Column") continue;
    for (const rootPage of cursors.get(p1) ?? []) {
      const name = tables.get(rootPage) ?? "";
      const columns = columnsByTable.get(name) ?? columnsOf(database, name);
      columnsByTable.set(name, columns);
      const column = columns[p2];
      if (column === undefined) return undefined;
      read.set(`${name}.${column}`, { table: name, column });
    }
  }
  return [...read.values()];
}

const MAIN_DATABASE = 0;
/** OPFLAG_P2ISREG of sqliteInt.h. */
const ROOT_PAGE_IN_REGISTER = 0x10;
/** Virtual tables; whole rows at once; and what opens a table for more than reading. */
const UNKNOWN_READERS = /^(V[A-Z]|RowData$|RowCell$|OpenWrite$|Offset$|Program$)/;

function tablesByRootPage(database: Database.Database): ReadonlyMap<number, string> {
  const tables = database
    .prepare<[], { name: string; rootpage: number }>("SELECT name, rootpage FROM sqlite_schema WHERE type = 'table'")
    .all();
  return new Map(tables.map(({ name, rootpage }) => [rootpage, name]));
}

function columnsOf(database: Database.Database, table: string): readonly string[] {
  const columns = database.pragma(`table_info(${quoteName(table)})`) as { name: string }[];
  return columns.map(({ name }) => name);
}
