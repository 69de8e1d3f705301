/** Aggregations that SQLite does instead of sql-algorithm, as `pushdown.ts` says: its SQL, and what its values mean. */
import Database from "better-sqlite3";
import type { ValueColumn } from "../../lib/algorithms/grouping-plan.ts";
import type { CellValue, FieldSpec, FieldType } from "../../lib/data/field-types.ts";
import { quoteName } from "../../lib/data/sqlite-tables.ts";
import { AppError } from "../../lib/errors.ts";
import { asSubselect, type GuardedStatement } from "./guarded-statement.ts";
import {
  MOST_TEXT_BYTES,
  pushablePlan,
  PushedGroups,
  type Aggregated,
  type PushedQuestion,
  type PushedSource,
} from "./pushdown.ts";

/** What may say another thing in another pass. */
const CHANGING_FUNCTIONS =
  /^(random|randomblob|date|time|datetime|julianday|unixepoch|strftime|timediff|current_(date|time|timestamp))\(/i;

/** The states as documents for sql-algorithm; undefined where the rows are to be sent. */
export function pushedStatesOfSqlite(
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
    const groups = new PushedGroups(plan, new SqliteSource(guarded.sql, columns), mostRows);
    for (const [index, grouping] of plan.groupings.entries()) {
      const rows = database.prepare(groups.select(grouping)).safeIntegers(true).raw(true);
      for (const row of rows.iterate() as IterableIterator<SqlValue[]>) {
        if (!groups.take(index, row)) return undefined;
      }
    }
    return groups.end();
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

class SqliteSource implements PushedSource<SqlValue> {
  readonly from: string;
  readonly misfits: string;
  readonly #columns: ReadonlyMap<string, ColumnSql>;

  constructor(sql: string, columns: ReadonlyMap<string, ColumnSql>) {
    const fits = [...columns.values()].map(({ raw, fits: isFit }) => `(${raw} IS NULL OR coalesce(${isFit}, 0))`);
    this.from = `(${sql}\n)`;
    this.misfits = `sum(CASE WHEN ${fits.join(" AND ")} THEN 0 ELSE 1 END)`;
    this.#columns = columns;
  }

  key(name: string): string {
    return this.#column(name).cell;
  }

  groupBy(name: string): string {
    return this.#column(name).cell;
  }

  /** Count, sum in two halves (neither can overflow within 2³¹ rows), min and max. */
  aggregates({ name }: ValueColumn): readonly string[] {
    const { type, raw, cell } = this.#column(name);
    const isSummed = type.kind === "integer" || type.kind === "decimal" || type.kind === "date";
    const halves = isSummed ? [`sum(${cell} >> 32)`, `sum(${cell} & 4294967295)`] : ["0", "0"];
    const ends = type.kind === "float" ? ["NULL", "NULL"] : [`min(${cell})`, `max(${cell})`];
    return [`count(${raw})`, ...halves, ...ends];
  }

  cell(type: FieldType, value: SqlValue): CellValue {
    if (value === null) return null;
    if (type.kind === "date") return Number(value);
    return type.kind === "boolean" ? value === 1n : value;
  }

  aggregated(type: FieldType, [count, high, low, min, max]: readonly SqlValue[]): Aggregated {
    const sum = ((high ?? 0n) as bigint) * 2n ** 32n + ((low ?? 0n) as bigint);
    return { count: count as bigint, sum, min: this.cell(type, min ?? null), max: this.cell(type, max ?? null) };
  }

  #column(name: string): ColumnSql {
    const column = this.#columns.get(name);
    if (column === undefined) throw new AppError("internal", `A plan has a column ${name} that its fields lack.`);
    return column;
  }
}
