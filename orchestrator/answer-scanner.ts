/**
 * Follows the bytes of an agent's JSON answer as they are passed on, without parsing or holding them: where it could be
 * closed properly if it broke off here, and what a few of its top-level members say. Pure; one per answer.
 *
 * An answer is one object. It may be cut before a comma between its members, and before a comma or the closing bracket of
 * its `rows`: closing brackets make valid JSON of what stands before. Only bytes outside of strings matter.
 */

/** Top-level members whose values are kept, up to {@link MAX_KEPT_BYTES}. */
const KEPT_MEMBERS = new Set(["provider", "status", "problem", "rowCount"]);
const MAX_KEPT_BYTES = 64 * 1024;

const QUOTE = 0x22;
const COMMA = 0x2c;
const COLON = 0x3a;
const OPEN_BRACKET = 0x5b;
const BACKSLASH = 0x5c;
const CLOSE_BRACKET = 0x5d;
const OPEN_BRACE = 0x7b;
const CLOSE_BRACE = 0x7d;

/** See the file comment. */
export class AnswerScanner {
  #depth = 0;
  #inString = false;
  #isEscaped = false;
  #isEnded = false;
  #inRows = false;
  /** At depth 1: whether a member's name is expected. */
  #expectsName = true;
  #name = "";
  #kept = "";
  readonly #members = new Map<string, string>();
  /** What closes an answer that is cut at the last place returned by `scan`. */
  #closing = "";

  /** Whether the object has been closed. */
  get isEnded(): boolean {
    return this.#isEnded;
  }

  /** Closes the text up to the last cut, with the comma that a further member needs; empty: nothing can be closed yet. */
  get closing(): string {
    return this.#closing;
  }

  /** The JSON value of a kept top-level member, or undefined when it has not passed, or is malformed. */
  member(name: string): unknown {
    const text = this.#members.get(name);
    if (text === undefined) return undefined;
    try {
      return JSON.parse(Buffer.from(text, "latin1").toString("utf8")) as unknown;
    } catch (error) {
      if (error instanceof SyntaxError) return undefined;
      throw error;
    }
  }

  /** Takes the next bytes; the number of them that stand before the last place where the answer could be cut, or -1 for none. */
  scan(bytes: Uint8Array): number {
    let cut = -1;
    let keptFrom = 0;
    for (let index = 0; index < bytes.length; index++) {
      const byte = bytes[index]!;
      if (this.#inString) {
        if (this.#isEscaped) this.#isEscaped = false;
        else if (byte === BACKSLASH) this.#isEscaped = true;
        else if (byte === QUOTE) this.#inString = false;
        continue;
      }
      switch (byte) {
        case QUOTE:
          this.#inString = true;
          break;
        case OPEN_BRACE:
        case OPEN_BRACKET:
          this.#depth++;
          if (this.#depth === 1) keptFrom = index + 1;
          if (this.#depth === 2) this.#inRows = byte === OPEN_BRACKET && this.#name === "rows";
          break;
        case COLON:
          if (this.#depth === 1 && this.#expectsName) {
            this.#nameEnds(bytes.subarray(keptFrom, index));
            keptFrom = index + 1;
          }
          break;
        case COMMA:
          if (this.#depth === 1) {
            this.#valueEnds(bytes.subarray(keptFrom, index));
            keptFrom = index + 1;
            cut = this.#cutAt(index, ",");
          } else if (this.#depth === 2 && this.#inRows) cut = this.#cutAt(index, "],");
          break;
        case CLOSE_BRACE:
        case CLOSE_BRACKET:
          if (this.#depth === 2 && this.#inRows) cut = this.#cutAt(index, "],");
          if (this.#depth === 1) {
            this.#valueEnds(bytes.subarray(keptFrom, index));
            this.#isEnded = true;
            cut = index + 1;
          }
          this.#depth--;
          break;
        default:
      }
    }
    this.#keep(bytes.subarray(keptFrom));
    return cut;
  }

  #cutAt(index: number, closing: string): number {
    this.#closing = closing;
    return index;
  }

  #nameEnds(rest: Uint8Array): void {
    this.#keep(rest);
    this.#name = this.#kept.trim().replace(/^"|"$/g, "");
    this.#kept = "";
    this.#expectsName = false;
  }

  #valueEnds(rest: Uint8Array): void {
    this.#keep(rest);
    if (KEPT_MEMBERS.has(this.#name)) this.#members.set(this.#name, this.#kept);
    this.#kept = "";
    this.#expectsName = true;
  }

  /** Adds to the name or the kept value that is being read; as Latin-1, so that a character split between chunks stays whole. */
  #keep(bytes: Uint8Array): void {
    if (this.#isEnded || (!this.#expectsName && !KEPT_MEMBERS.has(this.#name))) return;
    if (this.#kept.length + bytes.length <= MAX_KEPT_BYTES) this.#kept += Buffer.from(bytes).toString("latin1");
  }
}
