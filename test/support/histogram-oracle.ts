/** Which bin a value belongs into, by comparing fractions: the oracle for histograms, without anything of lib/algorithms. */
import { fractionOf, minus, sign, toNumber, type Fraction, type OracleType, type OracleValue } from "./oracle.ts";

/** `algorithmParameters.histogram`. */
export interface HistogramQuestion {
  readonly bins?: readonly (number | string)[];
  readonly width?: number;
  readonly origin?: number;
  readonly unit?: "year" | "quarter" | "month" | "day" | "hour";
}

/** Ends of a bin as a JSON answer has them. */
export type BinEnds = readonly [start: number | string | null, end: number | string | null];

/** The bin of a value that is not null. */
export function binOf(type: OracleType, value: OracleValue, question: HistogramQuestion): BinEnds {
  if (type.type === "date" || type.type === "timestamp") return calendarBin(type, value, question.unit ?? "year");
  const number = asPeopleWriteIt(type, value);
  if (question.bins !== undefined) return edgeBin(number, question.bins as readonly number[]);
  if (question.width !== undefined) return widthBin(number, question.width, question.origin ?? 0);
  return gridBin(type, number);
}

/** Floats stand for their shortest decimal: 0.3 is three tenths. */
function asPeopleWriteIt(type: OracleType, value: OracleValue): Fraction {
  return type.type === "float" ? fractionOfText(String(value)) : fractionOf(type, value);
}

/** A number in decimal or scientific notation as a fraction. */
function fractionOfText(text: string): Fraction {
  const [, minusSign = "", whole = "", fraction = "", power = "0"] =
    /^(-?)(\d+)(?:\.(\d+))?(?:e([+-]\d+))?$/.exec(text) ?? [];
  const digits = BigInt(`${minusSign}${whole}${fraction}`);
  const exponent = Number(power) - fraction.length;
  return exponent >= 0 ? { n: digits * 10n ** BigInt(exponent), d: 1n } : { n: digits, d: 10n ** BigInt(-exponent) };
}

function edgeBin(number: Fraction, edges: readonly number[]): BinEnds {
  const below = edges.filter((edge) => isAtMost(fractionOfText(String(edge)), number)).length - 1;
  const last = edges.length - 1;
  const isLastEdge = below === last && sign(minus(number, fractionOfText(String(edges[last])))) === 0;
  const place = isLastEdge ? last - 1 : below;
  return [edges[place] ?? null, edges[place + 1] ?? null];
}

function widthBin(number: Fraction, width: number, origin: number): BinEnds {
  const [step, start] = [fractionOfText(String(width)), fractionOfText(String(origin))];
  const { n, d } = minus(number, start);
  const [dividend, divisor] = [n * step.d, d * step.n];
  const count = dividend / divisor - (dividend < 0n && dividend % divisor !== 0n ? 1n : 0n);
  const end = (index: bigint): number =>
    toNumber({ n: start.n * step.d + index * step.n * start.d, d: start.d * step.d });
  return [end(count), end(count + 1n)];
}

/** From 1 to 2 in steps of 0.1, to 5 of 0.2, to 10 of 0.5, times every power of ten; mirrored for negative numbers. */
function gridBin(type: OracleType, number: Fraction): BinEnds {
  const finest = type.type === "float" ? -9 : type.type === "decimal" ? -type.scale : 0;
  const magnitude: Fraction = { n: number.n < 0n ? -number.n : number.n, d: number.d };
  const mirror = ([start, end]: readonly [number, number]): BinEnds =>
    number.n < 0n ? [-end, start === 0 ? 0 : -start] : [start, end];
  if (!isAtMost(powerOfTen(finest), magnitude)) return mirror([0, Number(`1e${String(finest)}`)]);
  let decade = finest;
  while (isAtMost(powerOfTen(decade + 1), magnitude)) decade += 1;
  // In tenths of the decade: 10, 11, … 20, 22, … 50, 55, … 100.
  let [start, step] = [10, 1];
  while (isAtMost(scaled(start + step, decade - 1), magnitude)) {
    start += step;
    step = start < 20 ? 1 : start < 50 ? 2 : 5;
  }
  const isTooFine = sign(minus(scaled(step, decade - 1), powerOfTen(finest))) < 0;
  const end = isTooFine
    ? minus(scaled(start, decade - 1), { n: -powerOfTen(finest).n, d: powerOfTen(finest).d })
    : scaled(start + step, decade - 1);
  return mirror([toNumber(scaled(start, decade - 1)), toNumber(end)]);
}

function calendarBin(type: OracleType, value: OracleValue, unit: NonNullable<HistogramQuestion["unit"]>): BinEnds {
  const microseconds = type.type === "date" ? undefined : (value as bigint);
  const day =
    microseconds === undefined
      ? (value as string)
      : new Date(Number((microseconds - (((microseconds % 1000n) + 1000n) % 1000n)) / 1000n)).toISOString();
  const [year, month, dayOfMonth, hour] = [day.slice(0, 4), day.slice(5, 7), day.slice(8, 10), day.slice(11, 13)].map(
    Number,
  ) as [number, number, number, number];
  const at = (y: number, m: number, d = 1, h = 0): string => {
    const date = new Date(0);
    date.setUTCFullYear(y, m - 1, d);
    date.setUTCHours(h);
    return type.type === "date" ? date.toISOString().slice(0, 10) : date.toISOString().replace(".000", "");
  };
  switch (unit) {
    case "year":
      return [at(year, 1), at(year + 1, 1)];
    case "quarter": {
      const first = month - ((month - 1) % 3);
      return [at(year, first), at(year, first + 3)];
    }
    case "month":
      return [at(year, month), at(year, month + 1)];
    case "day":
      return [at(year, month, dayOfMonth), at(year, month, dayOfMonth + 1)];
    case "hour":
      return [at(year, month, dayOfMonth, hour), at(year, month, dayOfMonth, hour + 1)];
  }
}

function isAtMost(a: Fraction, b: Fraction): boolean {
  return sign(minus(b, a)) >= 0;
}

function powerOfTen(exponent: number): Fraction {
  return scaled(1, exponent);
}

function scaled(digits: number, exponent: number): Fraction {
  return exponent >= 0
    ? { n: BigInt(digits) * 10n ** BigInt(exponent), d: 1n }
    : { n: BigInt(digits), d: 10n ** BigInt(-exponent) };
}
