/**
 * Decimals as Arrow stores them: 128-bit two's complement, little endian, as two 64-bit words with the low one first
 * (Arrow columnar format, "Decimal"). apache-arrow hands out the raw words, so the conversion is ours.
 */

/** Most digits that an Arrow Decimal128 may have. */
export const MAX_DECIMAL_PRECISION = 38;

/** Writes a decimal's unscaled value as entry `index`. Values beyond 128 bits wrap: check the precision before. */
export function writeDecimal(words: BigInt64Array, index: number, unscaled: bigint): void {
  words[2 * index] = BigInt.asIntN(64, unscaled);
  words[2 * index + 1] = unscaled >> 64n;
}

/** The unscaled value of entry `index`. */
export function readDecimal(words: BigInt64Array, index: number): bigint {
  const low = words[2 * index] ?? 0n;
  const high = words[2 * index + 1] ?? 0n;
  // Nearly every decimal fits into 64 bits, and then the high word only repeats the sign.
  if ((high === 0n && low >= 0n) || (high === -1n && low < 0n)) return low;
  return (high << 64n) | BigInt.asUintN(64, low);
}

/** Whether the unscaled value has at most `precision` digits. */
export function fitsPrecision(unscaled: bigint, precision: number): boolean {
  const limit = powerOfTen(precision);
  return unscaled < limit && unscaled > -limit;
}

/** An unscaled value as text with exactly `scale` decimals: `decimalText(-105n, 2)` is `-1.05`. */
export function decimalText(unscaled: bigint, scale: number): string {
  if (scale <= 0) return `${unscaled * powerOfTen(-scale)}`;
  const digits = (unscaled < 0n ? -unscaled : unscaled).toString().padStart(scale + 1, "0");
  const cut = digits.length - scale;
  return `${unscaled < 0n ? "-" : ""}${digits.slice(0, cut)}.${digits.slice(cut)}`;
}

const POWERS_OF_TEN: readonly bigint[] = Array.from({ length: MAX_DECIMAL_PRECISION + 1 }, (_, n) => 10n ** BigInt(n));

function powerOfTen(exponent: number): bigint {
  return POWERS_OF_TEN[exponent] ?? 10n ** BigInt(exponent);
}
