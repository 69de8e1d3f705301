/** Random data sets and questions for the property test of pooled answers, and what is the right answer over all rows. */
import type { AnswerRow } from "../../cli/client.ts";
import { type HistogramQuestion, binOf } from "./histogram-oracle.ts";
import { differenceFrom, expectedValue, readCell, type Expected, type OracleType, type OracleValue } from "./oracle.ts";
import type { SeededRandom } from "./random.ts";

/** One row: column to value. */
export type OracleRow = Readonly<Record<string, OracleValue>>;

/** The columns of every table, and of the query: those behind the empty line are computed by it. */
export const COLUMNS: Readonly<Record<string, OracleType>> = {
  place: { type: "text" },
  level: { type: "integer" },
  day: { type: "date" },
  moment: { type: "timestamp" },
  agreed: { type: "boolean" },
  number: { type: "integer" },
  pay: { type: "decimal", scale: 3 },
  measure: { type: "float" },
  name: { type: "text" },

  half: { type: "float" },
  length: { type: "integer" },
};
/** What the data set declares; the others are expressions. */
export const DECLARED = Object.keys(COLUMNS).slice(0, -2);
const SELECT = `SELECT ${DECLARED.join(", ")}, measure * 0.5 AS half, length(name) AS length FROM`;

const VALUE_ALGORITHMS = ["count", "sum", "average", "min", "max", "variance", "standardDeviation"] as const;
const NUMBERS = ["number", "level", "pay", "measure", "half", "length"];
const TIMES = ["day", "moment"];
const GROUPS = ["", "*", "place", "level", "day", "agreed", "place, agreed", "level, place"];
const PLACES = ["", "Ede", "Zürich", "東京", "a,b", 'q"q', "line\nbreak", "\u{1F600}x", "\uFFFDx"];
/** Sums of these cancel, or leave the range of doubles on the way. */
const HARD_FLOATS = [1e16, 1, -1e16, 1e-300, 5e-324, 1e308, -1e308, 0.1, -0.3, 123456.789, 1e-9, 9.9e-10, 0];

/** A random row of a table; every column may be null. */
export function randomRow(random: SeededRandom): OracleRow {
  const orNull = (value: () => OracleValue): OracleValue => (random.chance(0.15) ? null : value());
  const measure = orNull(() =>
    random.chance(0.6) ? random.pick(HARD_FLOATS) : random.next() * 10 ** random.int(-5, 9),
  );
  const name = orNull(() => random.pick(PLACES) + "é\u{1F9EA}z".slice(0, random.pick([0, 1, 3, 4])));
  return {
    place: orNull(() => random.pick(PLACES)),
    level: orNull(() => BigInt(random.int(-2, 2))),
    day: orNull(() =>
      new Date(Date.UTC(random.int(1890, 2040), random.int(0, 11), random.int(1, 28))).toISOString().slice(0, 10),
    ),
    moment: orNull(
      () => BigInt(Date.UTC(random.int(1950, 2030), random.int(0, 11), 1)) * 1000n + BigInt(random.int(0, 2e9)) * 997n,
    ),
    agreed: orNull(() => random.chance(0.5)),
    number: orNull(() => random.bigint(random.pick([3, 20, 53, 63]))),
    pay: orNull(() => random.bigint(random.pick([4, 24, 49]))),
    measure,
    name,
    half: measure === null ? null : (measure as number) * 0.5,
    length: name === null ? null : BigInt([...(name as string)].length),
  };
}

/** A value as a data file has it, by default fields delimited by `;`. */
export function cellOfFile(type: OracleType, value: OracleValue): string {
  if (value === null) return "";
  if (type.type === "decimal") {
    const digits = String((value as bigint) < 0n ? -(value as bigint) : value).padStart(type.scale + 1, "0");
    return `${(value as bigint) < 0n ? "-" : ""}${digits.slice(0, -type.scale)}.${digits.slice(-type.scale)}`;
  }
  if (type.type === "timestamp") {
    const micros = (((value as bigint) % 1_000_000n) + 1_000_000n) % 1_000_000n;
    const seconds = new Date(Number(((value as bigint) - micros) / 1000n)).toISOString().slice(0, 19);
    return `${seconds}.${String(micros).padStart(6, "0")}Z`;
  }
  return type.type === "text" ? `"${(value as string).replaceAll('"', '""')}"` : String(value);
}

/** A question over one table, and which rows it is about. */
export interface PoolingQuestion {
  readonly query: string;
  readonly algorithm: string;
  readonly algorithmColumns: Readonly<Record<string, string>>;
  readonly algorithmParameters?: { readonly histogram: HistogramQuestion };
  readonly isAsked: (row: OracleRow) => boolean;
}

/** A random question: of values of numbers, of any columns, of times, or a histogram. */
export function randomQuestion(random: SeededRandom, kind: number, table: string): PoolingQuestion {
  const [where, isAsked] = random.pick<readonly [string, PoolingQuestion["isAsked"]]>([
    ["", () => true],
    [" WHERE level > 0", ({ level }) => level !== null && (level as bigint) > 0n],
    [" WHERE place IS NULL OR level = -1", ({ place, level }) => place === null || level === -1n],
    [" WHERE number > 9000000000000000000", ({ number }) => number !== null && (number as bigint) > 9n * 10n ** 18n],
  ]);
  const grouped = (columns: readonly string[]): Record<string, string> =>
    Object.fromEntries(
      random.some(GROUPS, random.int(1, 3)).map((groups) => [groups, random.some(columns).join(", ")]),
    );
  const asked = { query: `${SELECT} ${table}${where}`, isAsked };
  switch (kind % 4) {
    case 0:
      return { ...asked, algorithm: VALUE_ALGORITHMS.join(","), algorithmColumns: grouped(NUMBERS) };
    case 1: {
      const columns = { ...grouped(Object.keys(COLUMNS)), name: "*, number" };
      return { ...asked, algorithm: "max, count, min", algorithmColumns: columns };
    }
    case 2: {
      const histogram = random.pick<HistogramQuestion>([
        {},
        { width: 0.3, origin: 0.1 },
        { width: 250 },
        { bins: [-1e16, -0.3, 0, 0.1, 1, 1e16] },
      ]);
      return {
        ...asked,
        algorithm: "histogram",
        algorithmColumns: grouped(NUMBERS),
        algorithmParameters: { histogram },
      };
    }
    default: {
      if (random.chance(0.5)) return { ...asked, algorithm: "average,max,count,min", algorithmColumns: grouped(TIMES) };
      const unit = random.pick(["year", "quarter", "month", "day"] as const);
      const columns = Object.fromEntries(random.some(GROUPS, 2).map((groups) => [groups, "day"]));
      return {
        ...asked,
        algorithm: "histogram",
        algorithmColumns: columns,
        algorithmParameters: { histogram: { unit } },
      };
    }
  }
}

/** What differs between an answer's rows and the right ones; empty when nothing does. */
export function differences(
  question: PoolingQuestion,
  allRows: readonly OracleRow[],
  answer: readonly AnswerRow[],
): string[] {
  const expected = expectedRows(question, allRows.filter(question.isAsked));
  const found = new Map(answer.map((row) => [keyOfAnswer(question, row), row]));
  const faults =
    answer.length === expected.size ? [] : [`${String(answer.length)} rows instead of ${String(expected.size)}`];
  for (const [key, cells] of expected) {
    const row = found.get(key);
    if (row === undefined) faults.push(`there is no row ${key}`);
    for (const [column, right] of Object.entries(row === undefined ? {} : cells)) {
      const fault = differenceFrom(right, row?.[column]);
      if (fault !== undefined) faults.push(`${key} ${column}: ${fault}`);
    }
  }
  return faults;
}

/** Per key (its grouping, its group, and for bins its column and ends) the cells of the row. */
function expectedRows(question: PoolingQuestion, rows: readonly OracleRow[]): Map<string, Record<string, Expected>> {
  const expected = new Map<string, Record<string, Expected>>();
  const algorithms = question.algorithm.split(",").map((name) => name.trim());
  for (const [groups, values] of Object.entries(question.algorithmColumns)) {
    const names = namesOf(groups);
    for (const [key, members] of groupRows(names, rows)) {
      const cells: Record<string, Expected> = {};
      for (const column of values.split(",").map((name) => name.trim())) {
        const type: OracleType = COLUMNS[column] ?? { type: "integer" };
        const inGroup = members.map((row) => (column === "*" ? 1n : (row[column] ?? null)));
        if (algorithms[0] === "histogram") {
          for (const [bin, count] of binsOf(type, inGroup, question)) {
            const exactly = { exactly: BigInt(count), type: { type: "integer" } } as const;
            expected.set(`${key} ${column} ${bin}`, { count: exactly });
          }
          continue;
        }
        for (const algorithm of algorithms) {
          if (column === "*" && algorithm !== "count") continue;
          cells[column === "*" ? "count" : `${algorithm}_${column}`] = expectedValue(algorithm, type, inGroup);
        }
      }
      // "" and "*" group alike: asked for together, they are one.
      if (algorithms[0] !== "histogram") expected.set(key, { ...expected.get(key), ...cells });
    }
  }
  return expected;
}

/** Without group columns there is one group, also of no rows. */
function groupRows(names: readonly string[], rows: readonly OracleRow[]): Map<string, OracleRow[]> {
  const groups = new Map<string, OracleRow[]>(names.length === 0 ? [[keyOf(names, []), []]] : []);
  for (const row of rows) {
    const key = keyOf(
      names,
      names.map((name) => row[name] ?? null),
    );
    groups.set(key, [...(groups.get(key) ?? []), row]);
  }
  return groups;
}

function binsOf(type: OracleType, values: readonly OracleValue[], question: PoolingQuestion): Map<string, number> {
  const bins = new Map<string, number>();
  for (const value of values) {
    if (value === null) continue;
    const key = JSON.stringify(binOf(type, value, question.algorithmParameters?.histogram ?? {}));
    bins.set(key, (bins.get(key) ?? 0) + 1);
  }
  return bins;
}

function keyOfAnswer(question: PoolingQuestion, row: AnswerRow): string {
  const names = namesOf(String(row["grouping"] ?? Object.keys(question.algorithmColumns)[0]));
  const key = keyOf(
    names,
    names.map((name) => readCell(COLUMNS[name] ?? { type: "text" }, row[name] ?? null)),
  );
  return question.algorithm === "histogram"
    ? `${key} ${String(row["column"])} ${JSON.stringify([row["binStart"], row["binEnd"]])}`
    : key;
}

function keyOf(names: readonly string[], cells: readonly OracleValue[]): string {
  return `${names.join(", ")}: ${JSON.stringify(cells.map((cell) => (typeof cell === "bigint" ? `${cell}n` : cell)))}`;
}

function namesOf(groups: string): string[] {
  return groups === "*"
    ? []
    : groups
        .split(",")
        .map((name) => name.trim())
        .filter((name) => name !== "");
}
