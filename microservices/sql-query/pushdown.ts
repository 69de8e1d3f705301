/**
 * Aggregations that SQLite does instead of sql-algorithm (docs/decisions/0024): the states of count, sum, average, min and max per
 * group, in the form in which stewards' answers are pooled, so that the answer is the same, bit for bit.
 *
 * Only where nothing could tell the difference: every column of the result is a granted column of a type that is exact in SQL, each
 * of its values is what is declared, and the statement reads nothing sensitive, so that rows would reach sql-algorithm unchanged.
 * In any other case, and whatever goes wrong, the rows themselves are sent.
 */
import Database from "better-sqlite3";
import type { GroupedSummaryJson } from "../../lib/algorithms/grouped-json.ts";
import { cellAsJson } from "../../lib/algorithms/cell-json.ts";
import { planGroupings, ROWS, type Grouping, type GroupingPlan } from "../../lib/algorithms/grouping-plan.ts";
import type { CellValue, FieldSpec, FieldType } from "../../lib/data/field-types.ts";
import { quoteName } from "../../lib/data/sqlite-tables.ts";
import { AppError } from "../../lib/errors.ts";
import type { DataRequest } from "../../lib/model/data-request.ts";
import { asSubselect, type GuardedStatement } from "./guarded-statement.ts";

/** What of a question is about algorithms. */
export interface PushedQuestion {
  readonly algorithm: string;
  readonly algorithmColumns?: DataRequest["algorithmColumns"] | undefined;
  readonly algorithmParameters?: DataRequest["algorithmParameters"] | undefined;
}

/** Algorithms whose states come out of SQL exactly. */
const PUSHED = new Set(["count", "sum", "average", "min", "max"]);
/** Each is a pass over the data. */
const MOST_GROUPINGS = 3;
/** They are held until all values are known to be what is declared. */
const MOST_GROUPS = 20_000;
/** Of all states, which are held at the same time, and of the texts in one document. In characters. */
const MOST_STATE_CHARACTERS = 8_000_000;
const DOCUMENT_CHARACTERS = 100_000;
/** What may say another thing in another pass. */
const CHANGING_FUNCTIONS =
  /^(random|randomblob|date|time|datetime|julianday|unixepoch|strftime|timediff|current_(date|time|timestamp))\(/i;
/** So that no row could be over its own limit. */
const MOST_TEXT_BYTES = 16 * 1024;

/** The states as documents for sql-algorithm; undefined where the rows are to be sent. */
export function pushedStates(
  database: Database.Database,
  guarded: GuardedStatement,
  fields: readonly FieldSpec[],
  question: PushedQuestion,
  mostRows: number,
): readonly string[] | undefined {
  try {
    const plan = pushablePlan(fields, question);
    if (plan === undefined || (plan.groupings.length > 1 && mayChange(guarded))) return undefined;
    const names = database.prepare(asSubselect(guarded.sql)).columns();
    const columns = new Map(
      fields.map((field, index) => [field.name, columnSql(quoteName(names[index]?.name ?? ""), field.type)]),
    );
    return new StateReader(database, guarded.sql, plan, columns).read(mostRows);
  } catch (error) {
    // Whatever is wrong with question, statement or values, the way of the rows says it as it always does.
    if (error instanceof AppError || error instanceof Database.SqliteError) return undefined;
    throw error;
  }
}

/** Whether a second pass may see other rows than the first. */
function mayChange({ program }: GuardedStatement): boolean {
  return program.some(({ opcode, p4 }) => opcode.includes("Func") && CHANGING_FUNCTIONS.test(p4 ?? ""));
}

function pushablePlan(fields: readonly FieldSpec[], question: PushedQuestion): GroupingPlan | undefined {
  if (fields.some(({ type }) => type.kind === "timestamp")) return undefined;
  const plan = planGroupings(fields, question);
  if (plan.algorithms.some(({ name }) => !PUSHED.has(name)) || plan.groupings.length > MOST_GROUPINGS) return undefined;
  const isExact = plan.groupings.every(
    ({ groupColumns, valueColumns }) =>
      groupColumns.every(({ type }) => type.kind !== "float") &&
      valueColumns.every(
        ({ type, algorithms }) => type.kind !== "float" || algorithms.every(({ name }) => name === "count"),
      ),
  );
  return isExact ? plan : undefined;
}

/** A column in SQL. */
interface ColumnSql {
  readonly type: FieldType;
  /** Whether it is null. */
  readonly raw: string;
  /** Its value as a cell has it: unscaled, in days. */
  readonly cell: string;
  /** Whether the way of the rows would take it. */
  readonly fits: string;
}

function columnSql(raw: string, type: FieldType): ColumnSql {
  switch (type.kind) {
    case "integer":
      return { type, raw, cell: raw, fits: `typeof(${raw}) = 'integer'` };
    case "boolean":
      return { type, raw, cell: raw, fits: `typeof(${raw}) = 'integer' AND ${raw} IN (0, 1)` };
    case "float":
      return { type, raw, cell: raw, fits: `typeof(${raw}) = 'real'` };
    case "text":
      return {
        type,
        raw,
        cell: `${raw} COLLATE BINARY`,
        fits: `typeof(${raw}) = 'text' AND octet_length(${raw}) <= ${String(MOST_TEXT_BYTES)}`,
      };
    case "date":
      return {
        type,
        raw,
        cell: `CAST(julianday(${raw}) - 2440587.5 AS INTEGER)`,
        fits: `typeof(${raw}) = 'text' AND length(${raw}) = 10 AND date(${raw}) = ${raw}`,
      };
    case "decimal": {
      // As `output-types.ts` reads it, by the same floating-point operations.
      const factor = `${String(10 ** type.scale)}.0`;
      const cell = `CAST(round(${raw} * ${factor}) AS INTEGER)`;
      const isNumber = `typeof(${raw}) IN ('integer', 'real')`;
      const isExact = `abs(${cell}) < ${String(10 ** type.precision)} AND ${cell} / ${factor} = ${raw}`;
      return { type, raw, cell, fits: `${isNumber} AND ${isExact}` };
    }
    case "timestamp":
      throw new AppError("internal", "Timestamps are not pushed.");
  }
}

type SqlValue = bigint | number | string | null;
type GroupJson = GroupedSummaryJson["groups"][number];

class StateReader {
  readonly #database: Database.Database;
  readonly #sql: string;
  readonly #plan: GroupingPlan;
  readonly #columns: ReadonlyMap<string, ColumnSql>;

  constructor(database: Database.Database, sql: string, plan: GroupingPlan, columns: ReadonlyMap<string, ColumnSql>) {
    this.#database = database;
    this.#sql = sql;
    this.#plan = plan;
    this.#columns = columns;
  }

  /** Undefined for what the way of the rows must answer: misfits, too many rows, more groups than are held. */
  read(mostRows: number): readonly string[] | undefined {
    const groups = new Documents((part) => this.#document(part));
    for (const [index, grouping] of this.#plan.groupings.entries()) {
      let rowCount = 0;
      const rows = this.#database.prepare(this.#select(grouping)).safeIntegers(true).raw(true);
      for (const row of rows.iterate() as IterableIterator<SqlValue[]>) {
        const [misfits, count, ...values] = row;
        // Of no rows at all there is no sum.
        rowCount += Number(count);
        if ((misfits ?? 0n) !== 0n || rowCount > mostRows) return undefined;
        if (!groups.add(this.#group(index, grouping, count as bigint, values))) return undefined;
      }
    }
    return groups.end();
  }

  #select({ groupColumns, valueColumns }: Grouping): string {
    const fits = [...this.#columns.values()].map(({ raw, fits: isFit }) => `(${raw} IS NULL OR coalesce(${isFit}, 0))`);
    const keys = groupColumns.map(({ name }) => this.#column(name).cell);
    const values = valueColumns.flatMap(({ name }) => (name === ROWS ? [] : aggregates(this.#column(name))));
    const misfits = `sum(CASE WHEN ${fits.join(" AND ")} THEN 0 ELSE 1 END)`;
    const groupBy = keys.length === 0 ? "" : `GROUP BY ${keys.join(", ")}`;
    return `SELECT ${[misfits, "count(*)", ...keys, ...values].join(", ")} FROM (${this.#sql}\n) ${groupBy}`;
  }

  #group(index: number, grouping: Grouping, rows: bigint, values: readonly SqlValue[]): GroupJson {
    const cells = grouping.groupColumns.map(({ type }, place) => cellAsJson(cellOf(type, values[place] ?? null)));
    let at = cells.length;
    const states = grouping.valueColumns.map(({ name, type, algorithms }) => {
      if (name === ROWS) return { count: Number(rows), states: [rows.toString()] };
      const [count, high, low, min, max] = values.slice(at, at + AGGREGATES);
      at += AGGREGATES;
      const sum = ((high ?? 0n) as bigint) * 2n ** 32n + ((low ?? 0n) as bigint);
      const state = { count: count as bigint, sum, min: cellOf(type, min ?? null), max: cellOf(type, max ?? null) };
      return { count: Number(count), states: algorithms.map((algorithm) => stateOf(algorithm.name, state)) };
    });
    return [index, rows.toString(), cells, states];
  }

  #document(groups: GroupJson[]): GroupedSummaryJson {
    const { algorithms, groupings } = this.#plan;
    return {
      version: 1,
      algorithms: algorithms.map(({ name }) => name),
      notMergeable: [],
      parameters: {},
      groupings: groupings.map(({ groupColumns, valueColumns }) => ({
        groupColumns: groupColumns.map(({ name, type }) => ({ name, type })),
        valueColumns: valueColumns.map(({ name, type }) => ({ name, type })),
      })),
      minimumGroupSize: 1,
      withheldGroups: 0,
      withheldBins: 0,
      withheldValues: 0,
      groups,
    };
  }

  #column(name: string): ColumnSql {
    const column = this.#columns.get(name);
    if (column === undefined) throw new AppError("internal", `A plan has a column ${name} that its fields lack.`);
    return column;
  }
}

/** Groups, packed into documents as they come. */
class Documents {
  readonly #documentOf: (groups: GroupJson[]) => GroupedSummaryJson;
  readonly #documents: string[] = [];
  #groups: GroupJson[] = [];
  #groupCount = 0;
  #openCharacters = 0;
  #characters = 0;

  constructor(documentOf: (groups: GroupJson[]) => GroupedSummaryJson) {
    this.#documentOf = documentOf;
  }

  /** False where there are more than may be held. */
  add(group: GroupJson): boolean {
    const characters = JSON.stringify(group).length;
    this.#characters += characters;
    if (++this.#groupCount > MOST_GROUPS || this.#characters > MOST_STATE_CHARACTERS) return false;
    if (this.#openCharacters > 0 && this.#openCharacters + characters > DOCUMENT_CHARACTERS) this.#close();
    this.#groups.push(group);
    this.#openCharacters += characters;
    return true;
  }

  end(): readonly string[] {
    if (this.#groups.length > 0) this.#close();
    return this.#documents;
  }

  #close(): void {
    this.#documents.push(JSON.stringify(this.#documentOf(this.#groups)));
    [this.#groups, this.#openCharacters] = [[], 0];
  }
}

/** Values that {@link aggregates} selects. */
const AGGREGATES = 5;

/** Count, sum in two halves (neither can overflow within 2³¹ rows), min and max of a column. */
function aggregates({ type, raw, cell }: ColumnSql): readonly string[] {
  const isSummed = type.kind === "integer" || type.kind === "decimal" || type.kind === "date";
  const halves = isSummed ? [`sum(${cell} >> 32)`, `sum(${cell} & 4294967295)`] : ["0", "0"];
  const ends = type.kind === "float" ? ["NULL", "NULL"] : [`min(${cell})`, `max(${cell})`];
  return [`count(${raw})`, ...halves, ...ends];
}

function cellOf(type: FieldType, value: SqlValue): CellValue {
  if (value === null) return null;
  if (type.kind === "date") return Number(value);
  return type.kind === "boolean" ? value === 1n : value;
}

interface Aggregated {
  readonly count: bigint;
  readonly sum: bigint;
  readonly min: CellValue;
  readonly max: CellValue;
}

function stateOf(algorithm: string, { count, sum, min, max }: Aggregated): unknown {
  if (algorithm === "count") return count.toString();
  if (algorithm === "min") return cellAsJson(min);
  if (algorithm === "max") return cellAsJson(max);
  return { n: count.toString(), sum: sum.toString() };
}
