/**
 * A data set of any size for measurements: readings of made-up stations, six typed columns with nulls in them. Every cell follows
 * from the seed and the row's number alone, so that any part can be made anywhere, and an oracle needs no file.
 */
import { createWriteStream } from "node:fs";
import { mkdir } from "node:fs/promises";
import { dirname } from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import type { DataSet } from "../lib/model/dataset.ts";

/** Its declaration. A request that is anonymized gets the years of days, and of stations the first two characters. */
export const READINGS: DataSet = {
  name: "readings",
  type: "csv",
  sensitive_columns: { Readings: ["day", "station"] },
  anonymization: {
    Readings: {
      day: { method: "generalize", unit: "year" },
      station: { method: "generalize", keep: 2 },
    },
  },
  tables: [
    {
      name: "Readings",
      columns: [
        { name: "id", type: { type: "integer" }, nullable: false },
        { name: "level", type: { type: "float" } },
        { name: "amount", type: { type: "decimal", precision: 12, scale: 2 } },
        { name: "day", type: { type: "date" } },
        { name: "station", type: { type: "text" } },
        { name: "code", type: { type: "integer" } },
      ],
    },
  ],
};

/** One row; null where nothing is known. */
export interface Reading {
  /** Beyond 2⁵³: what goes through a JavaScript number on its way comes out wrong. */
  readonly id: bigint;
  /** A multiple of 1/1024, so that sums of it can be had exactly. */
  readonly level: number | null;
  /** In cents. */
  readonly amountCents: number | null;
  /** Days since 1950-01-01. */
  readonly day: number | null;
  readonly station: string | null;
  readonly code: number | null;
}

/** Rows `first` to `first + count - 1`, counted from 0. */
export interface ReadingRange {
  readonly first: number;
  readonly count: number;
  readonly seed: number;
}

const FIRST_ID = 9_007_199_254_740_993n;
const DAYS = 25_000;
const STATIONS = Array.from({ length: 500 }, (_, index) => `S${String(index).padStart(3, "0")}`);
const FIRST_DAY_MS = Date.UTC(1950, 0, 1);
const DAY_TEXTS = Array.from({ length: DAYS }, (_, day) =>
  new Date(FIRST_DAY_MS + day * 86_400_000).toISOString().slice(0, 10),
);
const LINES_AT_ONCE = 4_096;

/** The rows of a range. */
export function* readings({ first, count, seed }: ReadingRange): Generator<Reading> {
  for (let row = first; row < first + count; row += 1) yield reading(row, seed);
}

/** `yyyy-mm-dd` of a day as rows have it. */
export function dayText(day: number): string {
  return DAY_TEXTS[day] ?? "";
}

/** Writes a range as a CSV file; the folder is made. */
export async function writeReadings(path: string, range: ReadingRange): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  await pipeline(Readable.from(csvParts(range)), createWriteStream(path));
}

function* csvParts({ first, count, seed }: ReadingRange): Generator<string> {
  yield "id;level;amount;day;station;code\n";
  for (let start = first; start < first + count; start += LINES_AT_ONCE) {
    let text = "";
    const end = Math.min(first + count, start + LINES_AT_ONCE);
    for (let row = start; row < end; row += 1) text += csvLine(reading(row, seed));
    yield text;
  }
}

function csvLine({ id, level, amountCents, day, station, code }: Reading): string {
  const amount = amountCents === null ? "" : centsText(amountCents);
  return `${String(id)};${level === null ? "" : String(level)};${amount};${day === null ? "" : dayText(day)};${station ?? ""};${code === null ? "" : String(code)}\n`;
}

function centsText(cents: number): string {
  const digits = String(Math.abs(cents)).padStart(3, "0");
  return `${cents < 0 ? "-" : ""}${digits.slice(0, -2)}.${digits.slice(-2)}`;
}

function reading(row: number, seed: number): Reading {
  const at = (column: number): number => mixed(row, seed * 31 + column);
  return {
    id: FIRST_ID + BigInt(row) * 7n,
    level: at(1) % 11 === 0 ? null : ((at(2) % 2 ** 20) - 2 ** 19) / 1024,
    amountCents: at(3) % 13 === 0 ? null : (at(4) % 1_000_000_000) - 500_000_000,
    day: at(5) % 17 === 0 ? null : at(6) % DAYS,
    station: at(7) % 19 === 0 ? null : (STATIONS[at(8) % STATIONS.length] ?? null),
    code: at(9) % 5 !== 0 ? null : at(10) % 100_000,
  };
}

/** 32 bits that look random, of a row and a column: the finalizer of MurmurHash3 (Appleby, public domain), twice. */
function mixed(row: number, column: number): number {
  return finalized(finalized(row ^ Math.imul(column, 0x9e37_79b1)) ^ column);
}

function finalized(value: number): number {
  let bits = value | 0;
  bits = Math.imul(bits ^ (bits >>> 16), 0x85eb_ca6b);
  bits = Math.imul(bits ^ (bits >>> 13), 0xc2b2_ae35);
  return (bits ^ (bits >>> 16)) >>> 0;
}
