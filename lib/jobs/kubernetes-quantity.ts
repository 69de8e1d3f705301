/** Quantities of memory and processors as Kubernetes writes them (API reference, "Quantity"). Pure. */

/** The forms that are taken: a decimal number with `m`, `k`, `M`, `G`, `T` or with `Ki`, `Mi`, `Gi`, `Ti`. */
export const QUANTITY = /^\d+(\.\d+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$/;

const FACTORS: Readonly<Record<string, number>> = {
  "": 1,
  m: 1e-3,
  k: 1e3,
  M: 1e6,
  G: 1e9,
  T: 1e12,
  Ki: 2 ** 10,
  Mi: 2 ** 20,
  Gi: 2 ** 30,
  Ti: 2 ** 40,
};

/** The number that a quantity stands for: bytes, or processors. Of another form: NaN. */
export function quantityOf(text: string): number {
  const match = QUANTITY.exec(text);
  return match ? Number.parseFloat(text) * (FACTORS[match[2] ?? ""] ?? Number.NaN) : Number.NaN;
}
