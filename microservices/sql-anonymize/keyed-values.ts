/**
 * Pseudonyms and noise under a steward's key: HMAC-SHA-256 (RFC 2104, FIPS 198-1) over purpose, column and value.
 *
 * The same value of the same column (by name, in any table) always gives the same output, so joins over pseudonyms work
 * and asking again averages nothing away (decision 16). Stewards have different keys, so nothing links across them.
 */
import { createHmac } from "node:crypto";
import { AppError } from "../../lib/errors.ts";

const SHORTEST_KEY_BYTES = 16;
/** Values repeat; remembering some is several times faster. It bounds memory, too. */
const REMEMBERED_VALUES = 20_000;
/** 128 bits: no two of a billion values get the same pseudonym. */
const PSEUDONYM_HEX_DIGITS = 32;

/** What a value is replaced by or moved with. */
export class KeyedValues {
  readonly #key: Uint8Array;
  readonly #context: string;
  readonly #remembered = new Map<string, Buffer>();

  /** `configuration_invalid` for a key of fewer than 16 bytes. The column's name counts without case. */
  constructor(key: Uint8Array, purpose: "pseudonym" | "noise", columnName: string) {
    if (key.length < SHORTEST_KEY_BYTES) {
      throw new AppError(
        "configuration_invalid",
        `The steward's key for pseudonyms has ${key.length} bytes; it needs at least ${SHORTEST_KEY_BYTES}.`,
      );
    }
    this.#key = key;
    this.#context = `dynamos ${purpose}\0${columnName.toLowerCase()}\0`;
  }

  /** 32 hexadecimal digits for a value in text form. */
  pseudonym(text: string): string {
    return this.#digest(text).toString("hex").slice(0, PSEUDONYM_HEX_DIGITS);
  }

  /** A whole number from -range to range, never 0: a value that stayed as it is would be an original value. `range` ≥ 1. */
  wholeNoise(text: string, range: bigint): bigint {
    const digest = this.#digest(text);
    // 128 bits over at most 2^64 values: no value is noticeably more likely than another.
    const random = digest.readBigUInt64BE(0) * 2n ** 64n + digest.readBigUInt64BE(8);
    const magnitude = 1n + (random % range);
    return this.#isNegative(digest) ? -magnitude : magnitude;
  }

  /** A number with a magnitude above 0 and up to `range`. */
  floatNoise(text: string, range: number): number {
    const digest = this.#digest(text);
    const fraction = (Number(digest.readBigUInt64BE(0) >> 11n) + 1) / 2 ** 53;
    return this.#isNegative(digest) ? -fraction * range : fraction * range;
  }

  #isNegative(digest: Buffer): boolean {
    return (digest.readUInt8(16) & 1) === 1;
  }

  #digest(text: string): Buffer {
    const known = this.#remembered.get(text);
    if (known) return known;
    const digest = createHmac("sha256", this.#key).update(this.#context).update(text, "utf8").digest();
    if (this.#remembered.size >= REMEMBERED_VALUES) this.#remembered.clear();
    this.#remembered.set(text, digest);
    return digest;
  }
}
