/** The methods of anonymization: a function over values for each, and the type of what comes out. Null stays null. */
import { formatCell, type CellValue, type FieldType } from "../../lib/data/field-types.ts";
import {
  decimalOfCell,
  decimalOfNumber,
  floorDivideDecimals,
  numberOfDecimal,
  type ExactDecimal,
} from "../../lib/algorithms/exact-decimal.ts";
import { AppError } from "../../lib/errors.ts";
import type { Anonymization } from "../../lib/model/dataset.ts";
import { KeyedValues } from "./keyed-values.ts";

/** A column's transformation. */
export interface ColumnMethod {
  readonly type: FieldType;
  apply(value: CellValue): CellValue;
}

/** What masked text looks like, whatever its length was. */
export const MASK = "********";

const MICROSECONDS_PER_DAY = 86_400_000_000;
const MS_PER_DAY = 86_400_000;

/**
 * The transformation for a column of this name and type; undefined for a column that is dropped. The method must fit the
 * type (`anonymizationFault` of lib/model), otherwise `configuration_invalid`.
 */
export function columnMethod(
  columnName: string,
  type: FieldType,
  anonymization: Anonymization,
  key: Uint8Array,
): ColumnMethod | undefined {
  switch (anonymization.method) {
    case "drop":
      return undefined;
    case "mask":
      return type.kind === "text" ? notNull(type, () => MASK) : { type, apply: () => null };
    case "pseudonymize": {
      const keyed = new KeyedValues(key, "pseudonym", columnName);
      return notNull({ kind: "text" }, (value) => keyed.pseudonym(formatCell(type, value)));
    }
    case "perturb":
      return notNull(type, perturbation(type, anonymization.range, new KeyedValues(key, "noise", columnName)));
    case "generalize":
      return notNull(type, generalization(type, anonymization));
  }
}

type Change = (value: NonNullable<CellValue>) => CellValue;

function notNull(type: FieldType, change: Change): ColumnMethod {
  return { type, apply: (value) => (value === null ? null : change(value)) };
}

function perturbation(type: FieldType, range: number, keyed: KeyedValues): Change {
  switch (type.kind) {
    case "float":
      return (value) => movedFloat(value as number, keyed.floatNoise(String(value), range));
    case "integer":
    case "decimal": {
      const whole = floorDivideDecimals(decimalOfNumber(range), lastDigit(type));
      return (value) => moved(type, value as bigint, keyed.wholeNoise(formatCell(type, value), whole));
    }
    case "timestamp": {
      const whole = BigInt(Math.max(1, Math.floor(range * MICROSECONDS_PER_DAY)));
      return (value) => moved(type, value as bigint, keyed.wholeNoise(formatCell(type, value), whole));
    }
    case "date": {
      const whole = BigInt(Math.floor(range));
      return (value) => (value as number) + Number(keyed.wholeNoise(formatCell(type, value), whole));
    }
    case "text":
    case "boolean":
      throw unfit(type, "perturb");
  }
}

function generalization(type: FieldType, { width, unit, keep }: Anonymization & { method: "generalize" }): Change {
  switch (type.kind) {
    case "integer":
    case "decimal":
    case "float": {
      if (width === undefined) throw unfit(type, "generalize without a width");
      return bandStart(type, width);
    }
    case "date":
    case "timestamp": {
      if (unit === undefined) throw unfit(type, "generalize without a unit");
      return (value) => cellOfMs(type, unitStart(msOfCell(type, value), unit));
    }
    case "text": {
      if (keep === undefined) throw unfit(type, "generalize without keep");
      return (value) =>
        Array.from(value as string)
          .slice(0, keep)
          .join("");
    }
    case "boolean":
      throw unfit(type, "generalize");
  }
}

/** The lower end of the value's band: a multiple of the width, in the type's own unit. */
function bandStart(type: FieldType, width: number): Change {
  const step = decimalOfNumber(width);
  if (type.kind === "float") {
    return (value) => {
      if (!Number.isFinite(value)) return null;
      const bands = floorDivideDecimals(decimalOfCell(type, value), step);
      return numberOfDecimal({ digits: bands * step.digits, exponent: step.exponent });
    };
  }
  const unscaledStep = floorDivideDecimals(step, lastDigit(type));
  if (unscaledStep < 1n) throw unfit(type, `generalize with the width ${width}`);
  return (value) => {
    const rest = (value as bigint) % unscaledStep;
    const start = (value as bigint) - (rest < 0n ? rest + unscaledStep : rest);
    return fits(type, start) ? start : null;
  };
}

/** 10^-scale: what one unit of an integer or an unscaled decimal is worth. */
function lastDigit(type: FieldType): ExactDecimal {
  return { digits: 1n, exponent: type.kind === "decimal" ? -type.scale : 0 };
}

/** At the ends of a type's range, noise goes the other way. */
function moved(type: FieldType, value: bigint, noise: bigint): CellValue {
  if (fits(type, value + noise)) return value + noise;
  return fits(type, value - noise) ? value - noise : null;
}

/** Noise that a float is too large to show would leave the original. */
function movedFloat(value: number, noise: number): CellValue {
  return Number.isFinite(value + noise) && value + noise !== value ? value + noise : null;
}

function fits(type: FieldType, value: bigint): boolean {
  if (type.kind !== "decimal") return BigInt.asIntN(64, value) === value;
  const limit = 10n ** BigInt(type.precision);
  return value < limit && value > -limit;
}

type Unit = "year" | "quarter" | "month" | "decade";

function unitStart(ms: number, unit: Unit): number {
  const date = new Date(ms);
  const [year, month] = [date.getUTCFullYear(), date.getUTCMonth()];
  date.setUTCHours(0, 0, 0, 0);
  switch (unit) {
    case "decade":
      return date.setUTCFullYear(Math.floor(year / 10) * 10, 0, 1);
    case "year":
      return date.setUTCFullYear(year, 0, 1);
    case "quarter":
      return date.setUTCFullYear(year, month - (month % 3), 1);
    case "month":
      return date.setUTCFullYear(year, month, 1);
  }
}

function msOfCell(type: FieldType, value: NonNullable<CellValue>): number {
  return type.kind === "date" ? (value as number) * MS_PER_DAY : Number((value as bigint) / 1000n);
}

/** A date beyond the calendar becomes null: it must not stay as it is. */
function cellOfMs(type: FieldType, ms: number): CellValue {
  if (Number.isNaN(ms)) return null;
  return type.kind === "date" ? Math.round(ms / MS_PER_DAY) : BigInt(ms) * 1000n;
}

function unfit(type: FieldType, method: string): AppError {
  return new AppError("configuration_invalid", `A column of type ${type.kind} cannot be anonymized by ${method}.`);
}
