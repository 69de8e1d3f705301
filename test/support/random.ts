/** Random values that a seed repeats: for property tests, which print their seed. */

/** A small generator of 32-bit numbers (mulberry32, by T. Ettinger); good enough for tests, and the same everywhere. */
export class SeededRandom {
  readonly seed: number;
  #state: number;

  constructor(seed: number) {
    this.seed = seed;
    this.#state = seed >>> 0;
  }

  /** From 0 up to, not including, 1. */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let value = Math.imul(this.#state ^ (this.#state >>> 15), this.#state | 1);
    value ^= value + Math.imul(value ^ (value >>> 7), value | 61);
    return ((value ^ (value >>> 14)) >>> 0) / 2 ** 32;
  }

  /** A whole number from `low` to `high`, both included. */
  int(low: number, high: number): number {
    return low + Math.floor(this.next() * (high - low + 1));
  }

  /** A signed integer of at most this many bits and a sign. */
  bigint(bits: number): bigint {
    let value = 0n;
    for (let bit = 0; bit < bits; bit += 1) value = (value << 1n) | BigInt(this.int(0, 1));
    return this.chance(0.5) ? -value : value;
  }

  /** Whether something of this probability happens. */
  chance(probability: number): boolean {
    return this.next() < probability;
  }

  /** One of a list that is not empty. */
  pick<Item>(list: readonly Item[]): Item {
    return list[this.int(0, list.length - 1)] as Item;
  }

  /** Some of a list, at least one, in the list's order. */
  some<Item>(list: readonly Item[], count = this.int(1, list.length)): Item[] {
    const left = list.map((_, place) => place);
    while (left.length > count) left.splice(this.int(0, left.length - 1), 1);
    return left.map((place) => list[place] as Item);
  }
}

/** The seed of a property test: the environment variable of this name, else a new one. */
export function seedFrom(variable: string): number {
  const given = process.env[variable];
  return given === undefined || given === "" ? Math.floor(Math.random() * 2 ** 32) : Number(given);
}

/** A whole number from the environment variable of this name, else the default. */
export function countFrom(variable: string, otherwise: number): number {
  const given = process.env[variable];
  return given === undefined || given === "" ? otherwise : Number(given);
}
