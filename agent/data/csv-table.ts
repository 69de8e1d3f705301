/** The rows of a delimited file as a declared table has them: columns in the declared order, values as SQLite stores them. */
import { type Table } from "../../lib/model/dataset.ts";
import { type AppError } from "../../lib/errors.ts";
import { CellFault, cellParser, type CellParser, type StoredValue } from "./cell-parser.ts";
import { dataFault, readCsvFile, type CsvOptions, type CsvRecord } from "./csv.ts";

/** What to do with rows and faults. */
export interface CsvTableHandler {
  /** The values in the order of the table's columns. The array is used again for the next row. */
  readonly onRow: (values: readonly StoredValue[]) => void;
  /** A fault in one cell, after which reading goes on. Absent: the first one is thrown. */
  readonly onFault?: (fault: AppError) => void;
}

/**
 * Reads a file against its declared table. The header must name the declared columns, all and each once, in any order.
 * Throws `data_invalid` with the place for the header, for a record with another number of fields, and for a cell that
 * does not fit its column (unless `onFault` takes it).
 */
export async function readCsvTable(
  path: string,
  table: Table,
  options: CsvOptions,
  handler: CsvTableHandler,
): Promise<void> {
  const file = options.fileName ?? path;
  let cells: readonly Cell[] | undefined;
  let blankLine: number | undefined;
  const values: StoredValue[] = table.columns.map(() => null);
  await readCsvFile(path, options, (record) => {
    if (cells === undefined) {
      cells = readHeader(record, table, file);
      return;
    }
    if (record.blank && cells.length > 1) {
      blankLine ??= record.lines[0] ?? 0;
      return;
    }
    if (blankLine !== undefined) {
      throw dataFault("There is an empty line before the end of the data.", { file, line: blankLine, column: 1 });
    }
    checkFieldCount(record, cells.length, file);
    if (readCells(record, cells, values, file, handler)) handler.onRow(values);
  });
  if (cells === undefined) {
    throw dataFault("The file is empty: a header line with the columns' names is expected.", {
      file,
      line: 1,
      column: 1,
    });
  }
}

/** How the field at one place of a record is read, and where its value goes. */
interface Cell {
  readonly name: string;
  readonly declared: string;
  readonly index: number;
  readonly parse: CellParser;
}

function readHeader(record: CsvRecord, table: Table, file: string): readonly Cell[] {
  const declared = table.columns.map((column) => column.name).join(", ");
  const cells: Cell[] = [];
  for (let field = 0; field < record.fieldCount; field++) {
    const place = { file, line: record.lines[field] ?? 0, column: record.columns[field] ?? 0 };
    const name = record.texts[field] ?? "";
    const index = table.columns.findIndex((column) => column.name === name);
    const column = table.columns[index];
    if (column === undefined) {
      throw dataFault(
        // Not its name: where the header is missing, that is a value of the first row.
        `The header has a column that is not declared. Declared of ${table.name}: ${declared}. Is the delimiter right, and is there a header?`,
        place,
      );
    }
    if (cells.some((cell) => cell.name === name)) throw dataFault(`The header has the column ${name} twice.`, place);
    cells.push({ name, declared: column.type.type, index, parse: cellParser(column) });
  }
  const missing = table.columns.filter((column) => !cells.some((cell) => cell.name === column.name));
  if (missing.length > 0) {
    const names = missing.map((column) => column.name).join(", ");
    throw dataFault(`The header lacks declared columns of ${table.name}: ${names}.`, { file, line: 1, column: 1 });
  }
  return cells;
}

function checkFieldCount(record: CsvRecord, expected: number, file: string): void {
  if (record.fieldCount === expected) return;
  const at = Math.min(record.fieldCount, expected + 1) - 1;
  throw dataFault(`The record has ${String(record.fieldCount)} fields, and the header ${String(expected)}.`, {
    file,
    line: record.lines[at] ?? 0,
    column: record.columns[at] ?? 0,
  });
}

/** Fills `values`; false when a cell had a fault that the handler took. */
function readCells(
  record: CsvRecord,
  cells: readonly Cell[],
  values: StoredValue[],
  file: string,
  handler: CsvTableHandler,
): boolean {
  let sound = true;
  for (let field = 0; field < cells.length; field++) {
    const cell = cells[field] as Cell;
    try {
      values[cell.index] = cell.parse(record.texts[field] ?? "", record.quoted[field] ?? false);
    } catch (error) {
      if (!(error instanceof CellFault)) throw error;
      const place = { file, line: record.lines[field] ?? 0, column: record.columns[field] ?? 0 };
      const fault = dataFault(`In the column ${cell.name} (${cell.declared}), ${error.message}.`, place);
      if (handler.onFault === undefined) throw fault;
      handler.onFault(fault);
      sound = false;
    }
  }
  return sound;
}
