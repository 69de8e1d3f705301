/** Aggregations that DuckDB does instead of sql-algorithm, as `pushdown.ts` says: its SQL, and what its values mean. */
import type { DuckDBConnection, DuckDBDateValue, DuckDBDecimalValue, DuckDBBlobValue } from "@duckdb/node-api";
import type { Grouping, ValueColumn } from "../../lib/algorithms/grouping-plan.ts";
import type { CellValue, FieldSpec, FieldType } from "../../lib/data/field-types.ts";
import { AppError } from "../../lib/errors.ts";
import type { GuardedSelect } from "./duckdb-guard.ts";
import { choosesByConditions, mayChange } from "./duckdb-passes.ts";
import { MOST_GROUPS, MOST_STATE_CHARACTERS } from "./pushdown-documents.ts";
import {
  MOST_TEXT_BYTES,
  pushablePlan,
  PushedGroups,
  type Aggregated,
  type PushedQuestion,
  type PushedSource,
} from "./pushdown.ts";
import type { QueryLimits } from "./query-protocol.ts";

/** A statement whose rows are columns of granted tables, as they are. */
export interface PlainSelect {
  readonly sql: string;
  readonly guarded: GuardedSelect;
  /** Of its result, in order. */
  readonly fields: readonly FieldSpec[];
}

/** The states as documents for sql-algorithm; undefined where the rows are to be sent. */
export async function pushedStatesOfDuckdb(
  connection: DuckDBConnection,
  { sql, guarded, fields }: PlainSelect,
  question: PushedQuestion,
  limits: QueryLimits,
): Promise<readonly string[] | undefined> {
  try {
    const plan = pushablePlan(fields, question);
    if (plan === undefined || !choosesByConditions(guarded)) return undefined;
    if (plan.groupings.length > 1 && mayChange(guarded)) return undefined;
    const source = new DuckdbSource(sql, fields, limits);
    if (!(await canBeHeld(connection, source, plan.groupings))) return undefined;
    const groups = new PushedGroups(plan, source, limits.rows);
    for (const [index, grouping] of plan.groupings.entries()) {
      const result = await connection.stream(groups.select(grouping));
      for (let chunk = await result.fetchChunk(); chunk && chunk.rowCount > 0; chunk = await result.fetchChunk()) {
        if (!chunk.getRows().every((row) => groups.take(index, row))) return undefined;
      }
    }
    return groups.end();
  } catch (error) {
    // Whatever is wrong with question, statement or values, the way of the rows says it as it always does.
    if (error instanceof AppError || isOfDuckdb(error)) return undefined;
    throw error;
  }
}

/**
 * Whether there are about as many groups as may be sent, or fewer: DuckDB holds all of them before it gives the first, and where they are
 * far more, the process could be killed over what its rows answer. Counting them roughly takes no memory, and little time.
 */
async function canBeHeld(
  connection: DuckDBConnection,
  source: DuckdbSource,
  groupings: readonly Grouping[],
): Promise<boolean> {
  const grouped = groupings.filter(({ groupColumns }) => groupColumns.length > 0);
  if (grouped.length === 0) return true;
  const reader = await connection.runAndReadAll(source.sizes(grouped));
  const sizes = (reader.getRows()[0] ?? []) as readonly (bigint | null)[];
  return grouped.every((_, index) => {
    const [groups, longest, all] = sizes.slice(SIZES * index, SIZES * (index + 1)).map((size) => Number(size ?? 0n));
    const textBytes = Math.min((groups ?? 0) * (longest ?? 0), all ?? 0);
    return (groups ?? 0) <= 2 * MOST_GROUPS && textBytes <= BYTES_OF_CHARACTER * MOST_STATE_CHARACTERS;
  });
}

/** Of one of JavaScript's characters, at most, in UTF-8. */
const BYTES_OF_CHARACTER = 3;
/** Values that {@link DuckdbSource.sizes} selects for each grouping. */
const SIZES = 3;

/** The binding throws plain errors; those of a class are mistakes of ours. */
function isOfDuckdb(error: unknown): boolean {
  return error instanceof Error && Object.getPrototypeOf(error) === Error.prototype;
}

type DuckdbValue = bigint | boolean | DuckDBBlobValue | DuckDBDateValue | DuckDBDecimalValue | null;

/** Most bytes of a value in a row, but for the text itself (`duckdb-columns.ts`). */
const VALUE_BYTES = 16;

/** The columns are called by their places: names may come twice. */
class DuckdbSource implements PushedSource<DuckdbValue> {
  readonly from: string;
  readonly misfits: string;
  readonly #columns: ReadonlyMap<string, { readonly raw: string; readonly type: FieldType }>;

  constructor(sql: string, fields: readonly FieldSpec[], { rowBytes }: QueryLimits) {
    const columns = fields.map(({ name, type }, index) => ({ name, raw: `c${String(index)}`, type }));
    this.from = `(${withoutEnd(sql)}\n) AS q(${columns.map(({ raw }) => raw).join(", ")})`;
    const ofKind = (kind: FieldType["kind"]): readonly string[] =>
      columns.filter(({ type }) => type.kind === kind).map(({ raw }) => raw);
    // Types are DuckDB's own: of what is declared, only the infinities of dates cannot be sent, and what is too large.
    const textBytes = Math.min(MOST_TEXT_BYTES, rowBytes - VALUE_BYTES * columns.length);
    const wrong = [
      `${textBytesOf(ofKind("text"))} > ${String(textBytes)}`,
      ...ofKind("date").map((raw) => `NOT isfinite(${raw})`),
    ];
    this.misfits = `count(*) FILTER (WHERE ${wrong.join(" OR ")})`;
    this.#columns = new Map(columns.map((column) => [column.name, column]));
  }

  /** Selects for each grouping about how many groups it has, and of the texts that they hold the most bytes in a row, and in all. */
  sizes(groupings: readonly Grouping[]): string {
    const sizes = groupings.map(({ groupColumns, valueColumns }) => {
      const keys = groupColumns.map(({ name }) => this.#column(name).raw);
      const isEnd = ({ algorithms }: ValueColumn): boolean => algorithms.some(({ name }) => /^(min|max)$/.test(name));
      const held = [...groupColumns, ...valueColumns.filter(isEnd)].map(({ name }) => this.#column(name));
      const bytes = textBytesOf(held.filter(({ type }) => type.kind === "text").map(({ raw }) => raw));
      return `approx_count_distinct(hash(${keys.join(", ")})), max(${bytes}), sum(${bytes})`;
    });
    return `SELECT ${sizes.join(", ")} FROM ${this.from}`;
  }

  key(name: string): string {
    const { raw, type } = this.#column(name);
    return asValue(type, raw);
  }

  groupBy(name: string): string {
    return this.#column(name).raw;
  }

  /** Count, sum (of 128 bits), min and max; those that nobody asks for are null. */
  aggregates({ name, algorithms }: ValueColumn): readonly string[] {
    const { type, raw } = this.#column(name);
    const asked = (names: readonly string[], sql: string): string =>
      algorithms.some((algorithm) => names.includes(algorithm.name)) ? sql : "NULL";
    const summed = type.kind === "date" ? `date_diff('day', DATE '1970-01-01', ${raw})` : raw;
    return [
      `count(${raw})`,
      asked(["sum", "average"], `sum(${summed})`),
      asked(["min"], asValue(type, `min(${raw})`)),
      asked(["max"], asValue(type, `max(${raw})`)),
    ];
  }

  cell(type: FieldType, value: DuckdbValue): CellValue {
    if (value === null) return null;
    if (type.kind === "decimal") return (value as DuckDBDecimalValue).value;
    if (type.kind === "text") return Buffer.from((value as DuckDBBlobValue).bytes).toString("utf8");
    return type.kind === "date" ? (value as DuckDBDateValue).days : (value as bigint | boolean);
  }

  aggregated(type: FieldType, [count, sum, min, max]: readonly DuckdbValue[]): Aggregated {
    const total = type.kind === "decimal" ? this.cell(type, sum ?? null) : sum;
    return {
      count: count as bigint,
      sum: (total ?? 0n) as bigint,
      min: this.cell(type, min ?? null),
      max: this.cell(type, max ?? null),
    };
  }

  #column(name: string): { readonly raw: string; readonly type: FieldType } {
    const column = this.#columns.get(name);
    if (column === undefined) throw new AppError("internal", `A plan has a column ${name} that its fields lack.`);
    return column;
  }
}

/** The bytes of these texts in a row. */
function textBytesOf(columns: readonly string[]): string {
  return ["0", ...columns.map((raw) => `coalesce(strlen(${raw}), 0)`)].join(" + ");
}

/** Texts as their bytes: the binding takes a byte order mark away. */
function asValue(type: FieldType, sql: string): string {
  return type.kind === "text" ? `encode(${sql})` : sql;
}

/**
 * A statement as it can stand in parentheses. DuckDB took it as one select, so that a semicolon at its end ends it, or stands in a comment;
 * what is left is a select still, however its text goes on.
 */
function withoutEnd(sql: string): string {
  let text = sql.trimEnd();
  while (text.endsWith(";")) text = text.slice(0, -1).trimEnd();
  return text;
}
