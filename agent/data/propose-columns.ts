/**
 * Proposes a table's declaration from a delimited file: reads every row, and gives each column the narrowest type that all
 * its cells have. Where more than one reading fits, nothing is guessed silently: the proposal keeps the text, or a note says
 * what to look at.
 */
import { basename } from "node:path";
import { AppError } from "../../lib/errors.ts";
import type { Column, ColumnType, Table } from "../../lib/model/dataset.ts";
import { CellFault, cellParser, type CellParser } from "./cell-parser.ts";
import { dataFault, readCsvFile, type CsvRecord } from "./csv.ts";

/** What a proposal is made from. */
export interface ProposalOptions {
  /** Absent: the most frequent of `;`, `,`, tab and `|` in the header. */
  readonly delimiter?: string;
  readonly signal?: AbortSignal;
}

/** A proposed declaration. */
export interface Proposal {
  /** Named after the file. */
  readonly table: Table;
  readonly delimiter: string;
  readonly rows: number;
  /** What a person should look at, one sentence each. No cell values. */
  readonly notes: readonly string[];
}

/**
 * Reads a file and proposes its declaration.
 *
 * @throws AppError `data_invalid` with file, line and column, `not_found`.
 */
export async function proposeTable(path: string, options: ProposalOptions = {}): Promise<Proposal> {
  const delimiter = options.delimiter ?? (await findDelimiter(path));
  const signal = options.signal ? { signal: options.signal } : {};
  let columns: readonly ColumnEvidence[] | undefined;
  let rows = 0;
  await readCsvFile(path, { delimiter, ...signal }, (record) => {
    if (columns === undefined) columns = readHeader(record, path);
    else if (!record.blank || columns.length === 1) {
      takeRow(record, columns, path);
      rows++;
    }
  });
  if (columns === undefined) throw dataFault("The file is empty.", { file: path, line: 1, column: 1 });
  const proposed = columns.map((column) => column.propose());
  return {
    table: { name: tableName(path), columns: proposed.map(({ column }) => column) },
    delimiter,
    rows,
    notes: proposed.flatMap(({ notes }) => notes),
  };
}

const DELIMITERS = [";", ",", "\t", "|"] as const;

async function findDelimiter(path: string): Promise<string> {
  const counts = await Promise.all(DELIMITERS.map((delimiter) => headerFields(path, delimiter)));
  const most = Math.max(...counts);
  const found = DELIMITERS.filter((_, index) => counts[index] === most);
  if (most > 1 && found.length === 1 && found[0] !== undefined) return found[0];
  throw new AppError("data_invalid", "The header does not tell the delimiter: name it with --delimiter.", {
    place: { file: path, line: 1, column: 1 },
  });
}

/** Ends the reading of a file after its header. */
class HeaderRead extends Error {}

async function headerFields(path: string, delimiter: string): Promise<number> {
  let fields = 0;
  try {
    await readCsvFile(path, { delimiter }, (record) => {
      fields = record.fieldCount;
      throw new HeaderRead();
    });
  } catch (error) {
    // With the wrong delimiter, a header with quotes is no record.
    if (!(error instanceof HeaderRead) && !(error instanceof AppError && error.code === "data_invalid")) throw error;
  }
  return fields;
}

const NAME = /^[A-Za-z_][A-Za-z0-9_]*$/;

function readHeader(record: CsvRecord, file: string): readonly ColumnEvidence[] {
  const seen = new Set<string>();
  return record.texts.slice(0, record.fieldCount).map((name, field) => {
    const place = { file, line: record.lines[field] ?? 0, column: record.columns[field] ?? 0 };
    if (!NAME.test(name) || name.length > 128) {
      throw dataFault(
        `The column ${JSON.stringify(name)} cannot be declared: a name has letters, digits and _, and begins with no digit. Rename it in the file's header.`,
        place,
      );
    }
    if (seen.has(name.toLowerCase())) throw dataFault(`The header has the column ${name} twice.`, place);
    seen.add(name.toLowerCase());
    return new ColumnEvidence(name);
  });
}

function takeRow(record: CsvRecord, columns: readonly ColumnEvidence[], file: string): void {
  if (record.fieldCount !== columns.length) {
    const at = Math.min(record.fieldCount, columns.length + 1) - 1;
    throw dataFault(`The record has ${String(record.fieldCount)} fields, and the header ${String(columns.length)}.`, {
      file,
      line: record.lines[at] ?? 0,
      column: record.columns[at] ?? 0,
    });
  }
  for (const [field, column] of columns.entries()) {
    column.take(record.texts[field] ?? "", record.quoted[field] ?? false);
  }
}

function tableName(path: string): string {
  const name = basename(path)
    .replace(/\.[^.]*$/, "")
    .replace(/[^A-Za-z0-9_]/g, "_");
  return NAME.test(name) ? name : `T_${name}`;
}

/** Types with a fixed reading, the preferred first. */
const CANDIDATES: readonly ColumnType[] = [
  ...(["yyyymmdd", "yyyy-mm-dd", "dd-mm-yyyy", "dd/mm/yyyy", "mm/dd/yyyy"] as const).map((format) => ({
    type: "date" as const,
    format,
  })),
  { type: "timestamp" },
  { type: "integer" },
  { type: "float", decimalSeparator: "." },
  { type: "float", decimalSeparator: "," },
];
const BOOLEAN_WORDS = [
  ["true", "false"],
  ["True", "False"],
  ["TRUE", "FALSE"],
  ["yes", "no"],
  ["Yes", "No"],
  ["Y", "N"],
  ["ja", "nee"],
  ["Ja", "Nee"],
  ["J", "N"],
  ["wel", "geen"],
] as const;
const MAX_DECIMAL_DIGITS = 15;
/** Such zeros mean something: a number would lose them. */
const LEADING_ZEROS = /^[+-]?0\d/;
/** Eight digits count as a day only within these years. */
const FIRST_YEAR = "1800";
const LAST_YEAR = "2199";

/** What the cells of one column have shown so far. */
class ColumnEvidence {
  readonly #name: string;
  #alive: readonly { readonly type: ColumnType; readonly parse: CellParser }[];
  /** Up to three distinct texts: enough to tell a boolean. */
  readonly #distinct = new Set<string>();
  #values = 0;
  #empty = 0;
  #mostWhole = 0;
  #mostDecimals = 0;
  #decimalsAlwaysThree = true;
  #decimalsPlain = true;

  constructor(name: string) {
    this.#name = name;
    this.#alive = CANDIDATES.map((type) => ({ type, parse: cellParser({ name, type }) }));
  }

  /** Takes the column's next cell. */
  take(text: string, quoted: boolean): void {
    if (text === "") {
      if (!quoted) this.#empty++;
      return;
    }
    this.#values++;
    if (this.#distinct.size < 3) this.#distinct.add(text);
    if (this.#alive.length === 0) return;
    if (!this.#alive.every(({ type, parse }) => reads(type, parse, text))) {
      this.#alive = this.#alive.filter(({ type, parse }) => reads(type, parse, text));
    }
    this.#takeDigits(text);
  }

  #takeDigits(text: string): void {
    const match = /^[+-]?(\d+)(?:[.,](\d+))?$/.exec(text);
    if (match === null) {
      this.#decimalsPlain = false;
      return;
    }
    const [, whole = "", decimals = ""] = match;
    this.#mostWhole = Math.max(this.#mostWhole, whole === "0" ? 0 : whole.length);
    this.#mostDecimals = Math.max(this.#mostDecimals, decimals.length);
    if (decimals.length !== 0 && decimals.length !== 3) this.#decimalsAlwaysThree = false;
  }

  /** The declaration that fits all cells. */
  propose(): { readonly column: Column; readonly notes: readonly string[] } {
    const { type, note } = this.#type();
    return {
      column: { name: this.#name, type, ...(this.#values > 0 && this.#empty === 0 ? { nullable: false } : {}) },
      notes: note === undefined ? [] : [`${this.#name}: ${note}`],
    };
  }

  #type(): { readonly type: ColumnType; readonly note?: string } {
    if (this.#values === 0) return { type: { type: "text" }, note: "no cell has a value; declare what will come." };
    const words = this.#booleanWords();
    if (words !== undefined) return { type: { type: "boolean", trueValue: words[0], falseValue: words[1] } };
    const types = this.#alive.map(({ type }) => type);
    const dates = types.filter((type) => type.type === "date");
    if (dates.length > 1) {
      const formats = dates.map(({ format }) => format).join(" and ");
      return { type: { type: "text" }, note: `${formats} both fit every cell; declare the date format that is meant.` };
    }
    const first = types[0];
    if (first?.type === "date" && first.format === "yyyymmdd") {
      return {
        type: first,
        note: "every cell is eight digits that make a day; declare an integer if they are numbers.",
      };
    }
    if (first?.type === "float") return this.#fraction(first);
    return { type: first ?? { type: "text" } };
  }

  #booleanWords(): readonly [string, string] | undefined {
    if (this.#distinct.size !== 2) return undefined;
    return BOOLEAN_WORDS.find((words) => words.every((word) => this.#distinct.has(word)));
  }

  #fraction(float: Extract<ColumnType, { type: "float" }>): { readonly type: ColumnType; readonly note?: string } {
    const { decimalSeparator = "." } = float;
    const isExact = this.#decimalsPlain && this.#mostWhole + this.#mostDecimals <= MAX_DECIMAL_DIGITS;
    if (!isExact || this.#mostDecimals === 0) return { type: float };
    const type = {
      type: "decimal" as const,
      precision: MAX_DECIMAL_DIGITS,
      scale: this.#mostDecimals,
      decimalSeparator,
    };
    if (!this.#decimalsAlwaysThree) return { type };
    const note = `every "${decimalSeparator}" has three digits behind it; if it separates thousands, take it out of the file.`;
    return { type, note };
  }
}

function reads(type: ColumnType, parse: CellParser, text: string): boolean {
  try {
    parse(text, false);
  } catch (error) {
    if (error instanceof CellFault) return false;
    throw error;
  }
  if (type.type === "float") return !LEADING_ZEROS.test(text);
  return type.type !== "date" || type.format !== "yyyymmdd" || (text >= FIRST_YEAR && text.slice(0, 4) <= LAST_YEAR);
}
