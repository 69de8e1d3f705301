/**
 * What the answer to {@link READINGS_QUESTION} must be: computed from the generator alone, in whole numbers, by nothing that the
 * system has in it.
 */
import { dayText, readings, type ReadingRange } from "./readings-data.ts";

/** Of all six columns; with `anonymize` on, of stations' first two characters and of years. */
export const READINGS_QUESTION = {
  type: "sqlDataRequest",
  query: "SELECT id, level, amount, day, station, code FROM Readings",
  algorithm: "count,sum",
  algorithmColumns: { station: "id, level, amount, code", day: "amount" },
  options: { anonymize: true },
} as const;

/** A row of an answer by its columns' names, all values as texts; null where the answer has null. */
export type AnswerText = Readonly<Record<string, string | null>>;

interface Sums {
  rows: bigint;
  id: bigint;
  levels: bigint;
  /** In 1/1024. */
  level: bigint;
  amounts: bigint;
  cents: bigint;
  codes: bigint;
  code: bigint;
}

/** The answer's rows over these ranges together, by a key of their group. */
export function expectedAnswer(ranges: readonly ReadingRange[]): Map<string, AnswerText> {
  const stations = new Map<string, Sums>();
  const years = new Map<string, Sums>();
  for (const range of ranges) {
    for (const row of readings(range)) {
      const sums = [
        sumsOf(stations, row.station === null ? "null" : row.station.slice(0, 2)),
        sumsOf(years, row.day === null ? "null" : `${dayText(row.day).slice(0, 4)}-01-01`),
      ];
      const level = row.level === null ? undefined : BigInt(row.level * 1024);
      for (const sum of sums) {
        sum.rows += 1n;
        sum.id += row.id;
        sum.levels += known(level);
        sum.level += level ?? 0n;
        sum.amounts += known(row.amountCents);
        sum.cents += BigInt(row.amountCents ?? 0);
        sum.codes += known(row.code);
        sum.code += BigInt(row.code ?? 0);
      }
    }
  }
  return new Map([
    ...[...stations].map(([station, sums]) => [`station ${station}`, stationText(sums)] as const),
    ...[...years].map(([day, sums]) => [`day ${day}`, amountText(sums)] as const),
  ]);
}

/** An answer's rows in the same form. Two rows of one group: fails. */
export function answerTexts(rows: readonly Readonly<Record<string, unknown>>[]): Map<string, AnswerText> {
  const answer = new Map<string, AnswerText>();
  for (const row of rows) {
    const isStation = String(row["grouping"]) === "station";
    const key = isStation ? `station ${groupText(row["station"])}` : `day ${groupText(row["day"])}`;
    if (answer.has(key)) throw new Error(`The answer has two rows for ${key}.`);
    const names = isStation ? ["id", "level", "amount", "code"] : ["amount"];
    const entries = names.flatMap((name) =>
      [`count_${name}`, `sum_${name}`].map((column) => [column, cellText(row[column])]),
    );
    answer.set(key, Object.fromEntries(entries) as AnswerText);
  }
  return answer;
}

function stationText(sums: Sums): AnswerText {
  return {
    count_id: String(sums.rows),
    sum_id: String(sums.id),
    count_level: String(sums.levels),
    // Less than 2⁵³ of these units: exact.
    sum_level: String(Number(sums.level) / 1024),
    ...amountText(sums),
    count_code: String(sums.codes),
    sum_code: String(sums.code),
  };
}

function amountText({ amounts, cents }: Sums): AnswerText {
  return { count_amount: String(amounts), sum_amount: String(Number(cents) / 100) };
}

function known(value: unknown): bigint {
  return value === null || value === undefined ? 0n : 1n;
}

function sumsOf(all: Map<string, Sums>, key: string): Sums {
  const begun = all.get(key);
  if (begun !== undefined) return begun;
  const sums: Sums = { rows: 0n, id: 0n, levels: 0n, level: 0n, amounts: 0n, cents: 0n, codes: 0n, code: 0n };
  all.set(key, sums);
  return sums;
}

function groupText(value: unknown): string {
  return cellText(value) ?? "null";
}

function cellText(value: unknown): string | null {
  if (typeof value === "string") return value;
  return typeof value === "number" ? String(value) : null;
}
