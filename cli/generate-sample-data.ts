/**
 * The sample data: personnel records of three universities as a Dutch HR export has them. All people are made up.
 *
 * Invariant G1, the built-in wage gap: people come in pairs, a man and a woman with the same reference dates, function,
 * scale, step, area and hours; her full-time salary (`Aanst_22`) is his times `1 - wageGap`, rounded to cents. So in any
 * selection by anything but sex, `1 - avg(V) / avg(M)` is the steward's gap, but for the rounding.
 */
import { createWriteStream } from "node:fs";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";

/** What differs between the sample's stewards. */
interface SampleSteward {
  readonly institutionCode: string;
  readonly seed: number;
  /** Fraction by which a woman of the sample is paid less than the man beside her. */
  readonly wageGap: number;
  readonly lineEnd: string;
  readonly byteOrderMark: boolean;
}

/** The stewards that have sample data. Line ends and byte-order marks differ on purpose, as they do in real exports. */
export const SAMPLE_STEWARDS = {
  VU: { institutionCode: "21PL", seed: 20_221, wageGap: 0.05, lineEnd: "\r\n", byteOrderMark: false },
  UVA: { institutionCode: "21PK", seed: 20_222, wageGap: 0.08, lineEnd: "\r\n", byteOrderMark: true },
  RUG: { institutionCode: "21PC", seed: 20_223, wageGap: 0.03, lineEnd: "\n", byteOrderMark: false },
} as const satisfies Record<string, SampleSteward>;

/** A steward that has sample data. */
export type SampleStewardName = keyof typeof SAMPLE_STEWARDS;

/** Size and randomness of a sample. */
export interface SampleOptions {
  /** Pairs of people; each has about 4.5 rows per person and table. Default 2,000: about 18,000 rows a table. */
  readonly pairs?: number;
  /** Default: the steward's own, so that two runs give the same bytes. */
  readonly seed?: number;
}

/** The tables of the data set `wageGap` and their columns, in the order of the files. */
export const SAMPLE_TABLES = {
  Personen: ["Instcode", "Unieknr", "Geslacht", "Gebdat", "Nationaliteit", "BKO", "SKO", "Peildat"],
  Aanstellingen: [
    "Instcode",
    "Unieknr",
    "Volgnrar",
    "Aadnstvb",
    "Ingdatdv",
    "Eindatdv",
    "HOOPgeb",
    "Functcat",
    "WelGeenHGL",
    "Salschal",
    "Taakomv",
    "Aanst_22",
    "Peildat",
  ],
} as const;

/** A table of the sample. */
export type SampleTableName = keyof typeof SAMPLE_TABLES;

/** One row of a table: its cells as they stand in the file; an empty one is unknown. */
export interface SampleRow {
  readonly table: SampleTableName;
  readonly cells: readonly string[];
}

/**
 * Writes `<folder>/Personen.csv` and `<folder>/Aanstellingen.csv`, and resolves with their paths. The same steward and
 * options give the same bytes.
 */
export async function writeSampleData(
  folder: string,
  steward: SampleStewardName,
  options: SampleOptions = {},
): Promise<Record<SampleTableName, string>> {
  await mkdir(folder, { recursive: true });
  const paths = { Personen: join(folder, "Personen.csv"), Aanstellingen: join(folder, "Aanstellingen.csv") };
  for (const table of Object.keys(SAMPLE_TABLES) as SampleTableName[]) {
    await pipeline(Readable.from(fileParts(table, steward, options)), createWriteStream(paths[table]));
  }
  return paths;
}

/** The rows of both tables; the rows of one person and reference date stand together. */
export function* sampleRows(steward: SampleStewardName, options: SampleOptions = {}): Generator<SampleRow> {
  const { seed, wageGap, institutionCode } = SAMPLE_STEWARDS[steward];
  const random = new Random(options.seed ?? seed);
  const pairs = options.pairs ?? 2_000;
  for (let pair = 0; pair < pairs; pair++) {
    const career = makeCareer(random);
    // Numbers are unique within the institution and begin with zeros: text, though they look like integers.
    const numbers = [2 * pair, 2 * pair + 1].map((index) => String(100_003 + index * 37).padStart(9, "0"));
    const [first, second] = random.chance(0.5) ? (["M", "V"] as const) : (["V", "M"] as const);
    yield* personRows({ institutionCode, number: numbers[0] ?? "", sex: first, wageGap, career, random });
    yield* personRows({ institutionCode, number: numbers[1] ?? "", sex: second, wageGap, career, random });
  }
}

/** What both people of a pair have in common. */
interface Career {
  readonly firstYear: number;
  readonly lastYear: number;
  readonly startDate: Day;
  readonly temporary: boolean;
  readonly area: number;
  readonly category: (typeof CATEGORIES)[number];
  readonly scale: string;
  /** Of the man, in the first year, in cents a month for a full-time job. */
  readonly salaryCents: number;
  readonly appointments: readonly { readonly hundredthsOfFullTime: number }[];
}

interface Day {
  readonly year: number;
  readonly month: number;
  readonly day: number;
}

const FIRST_YEAR = 2018;
const LAST_YEAR = 2022;

/** Function categories of Dutch universities with their scales; `H` are professors'. */
const CATEGORIES = [
  { name: "HGL", professor: true, scales: ["H1", "H2"], youngest: 38, weight: 8 },
  { name: "UHD", professor: false, scales: ["13", "14"], youngest: 34, weight: 8 },
  { name: "UD", professor: false, scales: ["11", "12"], youngest: 30, weight: 16 },
  { name: "OVWP", professor: false, scales: ["10", "11"], youngest: 26, weight: 14 },
  { name: "PROM", professor: false, scales: ["P"], youngest: 23, weight: 18 },
  { name: "OBP", professor: false, scales: ["06", "07", "08", "09", "10"], youngest: 21, weight: 36 },
] as const;

/** Lowest full-time salary of a scale, in cents a month. */
const SCALE_CENTS: Readonly<Record<string, number>> = {
  P: 244_300,
  "06": 220_100,
  "07": 244_500,
  "08": 272_100,
  "09": 301_500,
  "10": 328_000,
  "11": 370_800,
  "12": 470_200,
  "13": 548_600,
  "14": 584_100,
  H2: 580_400,
  H1: 675_900,
};

function makeCareer(random: Random): Career {
  const category = random.weighted(CATEGORIES);
  const scale = random.pick(category.scales);
  const firstYear = random.chance(0.8) ? FIRST_YEAR : random.integer(FIRST_YEAR, LAST_YEAR);
  const lastYear = random.chance(0.9) ? LAST_YEAR : random.integer(firstYear, LAST_YEAR);
  const twoAppointments = random.chance(0.03);
  const hours = random.pick([20, 40, 50, 60, 80, 80, 100, 100, 100, 100]);
  return {
    firstYear,
    lastYear,
    startDate: randomDay(random, firstYear - random.integer(1, 12)),
    temporary: category.name === "PROM" || random.chance(0.2),
    area: random.integer(1, 9),
    category,
    scale,
    salaryCents: (SCALE_CENTS[scale] ?? 0) + random.integer(0, 10) * 9_150 + random.integer(0, 99),
    appointments: twoAppointments
      ? [{ hundredthsOfFullTime: 40 }, { hundredthsOfFullTime: 20 }]
      : [{ hundredthsOfFullTime: hours }],
  };
}

interface PersonParts {
  readonly institutionCode: string;
  readonly number: string;
  readonly sex: "M" | "V";
  readonly wageGap: number;
  readonly career: Career;
  readonly random: Random;
}

function* personRows({ institutionCode, number, sex, wageGap, career, random }: PersonParts): Generator<SampleRow> {
  const birth = randomDay(random, career.firstYear - random.integer(career.category.youngest, 62));
  // Four digits as in the population register: 0001 is Dutch.
  const nationality = random.chance(0.7) ? "0001" : String(random.integer(28, 499)).padStart(4, "0");
  const teachingYear = random.chance(0.45) ? random.integer(FIRST_YEAR - 4, LAST_YEAR + 2) : undefined;
  for (let year = career.firstYear; year <= career.lastYear; year++) {
    const referenceDate = `${String(year)}-12-31`;
    const qualified = teachingYear !== undefined && teachingYear <= year;
    yield {
      table: "Personen",
      cells: [
        institutionCode,
        number,
        sex,
        dutchDate(birth),
        nationality,
        yesOrNo(qualified),
        // The senior qualification is not known of those who have not the basic one.
        qualified ? yesOrNo(year - teachingYear >= 4) : "",
        referenceDate,
      ],
    };
    for (const [index, appointment] of career.appointments.entries()) {
      yield {
        table: "Aanstellingen",
        cells: [
          institutionCode,
          number,
          String(index + 1),
          career.temporary ? "T" : "V",
          dutchDate(career.startDate),
          career.temporary ? dutchDate({ ...career.startDate, year: career.lastYear + 2 }) : "",
          String(career.area),
          career.category.name,
          career.category.professor ? "wel" : "geen",
          career.scale,
          decimalComma(appointment.hundredthsOfFullTime),
          decimalComma(salaryCents(career, year, sex, wageGap)),
          referenceDate,
        ],
      };
    }
  }
}

/** Full-time salary a month; 2 % more each year. */
function salaryCents(career: Career, year: number, sex: "M" | "V", wageGap: number): number {
  const his = Math.round(career.salaryCents * 1.02 ** (year - career.firstYear));
  return sex === "M" ? his : Math.round(his * (1 - wageGap));
}

function* fileParts(table: SampleTableName, steward: SampleStewardName, options: SampleOptions): Generator<string> {
  const { lineEnd, byteOrderMark } = SAMPLE_STEWARDS[steward];
  let part = (byteOrderMark ? "\uFEFF" : "") + SAMPLE_TABLES[table].join(";") + lineEnd;
  for (const row of sampleRows(steward, options)) {
    if (row.table !== table) continue;
    part += row.cells.join(";") + lineEnd;
    if (part.length > 65_536) {
      yield part;
      part = "";
    }
  }
  yield part;
}

function randomDay(random: Random, year: number): Day {
  return { year, month: random.integer(1, 12), day: random.integer(1, 28) };
}

function dutchDate({ year, month, day }: Day): string {
  return `${String(day).padStart(2, "0")}-${String(month).padStart(2, "0")}-${String(year)}`;
}

function decimalComma(hundredths: number): string {
  return `${String(Math.trunc(hundredths / 100))},${String(hundredths % 100).padStart(2, "0")}`;
}

function yesOrNo(yes: boolean): string {
  return yes ? "J" : "N";
}

/** A seeded generator: SplitMix32 (Steele, Lea and Flood 2014, with 32 bits). Not for secrets. */
class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed | 0;
  }

  /** In [0, 1). */
  next(): number {
    this.#state = (this.#state + 0x9e3779b9) | 0;
    let mixed = this.#state;
    mixed = Math.imul(mixed ^ (mixed >>> 16), 0x21f0aaad);
    mixed = Math.imul(mixed ^ (mixed >>> 15), 0x735a2d97);
    return ((mixed ^ (mixed >>> 15)) >>> 0) / 2 ** 32;
  }

  /** From `from` to `to`, both included. */
  integer(from: number, to: number): number {
    return from + Math.floor(this.next() * (to - from + 1));
  }

  chance(probability: number): boolean {
    return this.next() < probability;
  }

  pick<Item>(items: readonly [Item, ...Item[]] | readonly Item[]): Item {
    return items[this.integer(0, items.length - 1)] as Item;
  }

  weighted<Item extends { readonly weight: number }>(items: readonly Item[]): Item {
    const total = items.reduce((sum, item) => sum + item.weight, 0);
    let left = this.next() * total;
    return (items.find((item) => (left -= item.weight) < 0) ?? items[0]) as Item;
  }
}
