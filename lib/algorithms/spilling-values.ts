/**
 * Lists of numbers of which the middle is asked: what a median needs, in bounded memory.
 *
 * Values of all lists are held in typed arrays until there are `maximumHeldValues` of them. Then every list is sorted and
 * appended to one temporary file as a run: for each list in order of its number a header and its sorted values. At the end one
 * pass merges the runs list by list, up to the middle of each (external merge sort; Knuth, "The Art of Computer
 * Programming" 3, section 5.4). The file is unlinked as soon as it is open, so that nothing stays behind whatever happens
 * to the process.
 */
import { closeSync, mkdtempSync, openSync, readSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { FieldType } from "../data/field-types.ts";
import { AppError } from "../errors.ts";
import type { ValueStore } from "./summary.ts";

/** Limits of a {@link SpillingValues}. */
export interface SpillingValuesOptions {
  /** Values held in memory (8 bytes each) before they are spilled. Default 1,000,000. */
  readonly maximumHeldValues?: number;
  /** Size of the temporary file at most. Default 8 GiB. */
  readonly maximumSpilledBytes?: number;
  /** Where the temporary file is made. Default: the system's folder for such files. */
  readonly folder?: string;
}

/** `maximumSpilledBytes` where nothing else is said. */
export const DEFAULT_SPILLED_BYTES = 8 * 2 ** 30;

const HEADER_BYTES = 16;
const VALUE_BYTES = 8;
const READ_BYTES = 64 * 1024;

type Values = Float64Array | BigInt64Array;

/** One list: what is in memory, and how many values it has in all. */
interface List {
  readonly isFloat: boolean;
  held: Values;
  heldCount: number;
  count: number;
}

/** A {@link ValueStore} that spills. `close` it whatever happens. */
export class SpillingValues implements ValueStore {
  readonly #options: Required<SpillingValuesOptions>;
  readonly #lists: List[] = [];
  readonly #runs: Run[] = [];
  #heldCount = 0;
  #file: number | undefined;
  #fileBytes = 0;
  #middles: (readonly [number | bigint, number | bigint] | undefined)[] | undefined;

  constructor(options: SpillingValuesOptions = {}) {
    this.#options = {
      maximumHeldValues: 1_000_000,
      maximumSpilledBytes: DEFAULT_SPILLED_BYTES,
      folder: tmpdir(),
      ...options,
    };
  }

  /** Bytes in the temporary file so far. */
  get spilledBytes(): number {
    return this.#fileBytes;
  }

  open(type: FieldType): number {
    const isFloat = type.kind === "float";
    return this.#lists.push({ isFloat, held: emptyValues(isFloat, 0), heldCount: 0, count: 0 }) - 1;
  }

  add(listNumber: number, value: bigint | number): void {
    const list = this.#list(listNumber);
    if (this.#middles) throw new AppError("internal", "A value came after the middle had been asked for.");
    if (list.heldCount === list.held.length) list.held = grown(list);
    if (list.isFloat) list.held[list.heldCount] = value;
    else list.held[list.heldCount] = wholeValue(value);
    list.heldCount += 1;
    list.count += 1;
    this.#heldCount += 1;
    if (this.#heldCount >= this.#options.maximumHeldValues) this.#spill();
  }

  middle(listNumber: number): readonly [bigint | number, bigint | number] | undefined {
    this.#middles ??= this.#findMiddles();
    return this.#middles[listNumber];
  }

  /** Gives up the temporary file. Idempotent. */
  close(): void {
    if (this.#file !== undefined) closeSync(this.#file);
    this.#file = undefined;
    this.#runs.length = 0;
  }

  #list(listNumber: number): List {
    const list = this.#lists[listNumber];
    if (list === undefined) throw new AppError("internal", `There is no list of values ${listNumber}.`);
    return list;
  }

  #findMiddles(): (readonly [number | bigint, number | bigint] | undefined)[] {
    const file = this.#file;
    const readers = file === undefined ? [] : this.#runs.map((run) => new RunReader(file, run));
    return this.#lists.map((list, listNumber) => {
      const sources = readers.filter((reader) => reader.list === listNumber);
      const middle = middleOf(list, sources);
      for (const source of sources) source.nextList();
      return middle;
    });
  }

  #spill(): void {
    this.#file ??= openUnlinkedFile(this.#options.folder);
    const start = this.#fileBytes;
    for (const [listNumber, list] of this.#lists.entries()) {
      if (list.heldCount === 0) continue;
      const values = list.held.subarray(0, list.heldCount).sort();
      this.#append(BigInt64Array.of(BigInt(listNumber), BigInt(values.length)));
      this.#append(values);
      list.held = emptyValues(list.isFloat, 0);
      list.heldCount = 0;
    }
    this.#runs.push({ start, end: this.#fileBytes, isFloat: (list) => this.#list(list).isFloat });
    this.#heldCount = 0;
  }

  #append(values: Values): void {
    if (this.#fileBytes + values.byteLength > this.#options.maximumSpilledBytes) {
      throw new AppError(
        "result_too_large",
        `The values for a median need more than ${this.#options.maximumSpilledBytes} bytes of temporary space. Select ` +
          "fewer rows, or ask the party to raise DYNAMOS_MEDIAN_TEMP_BYTES.",
        { details: { limit: this.#options.maximumSpilledBytes } },
      );
    }
    const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    for (let written = 0; written < bytes.length;) {
      written += writeSync(this.#file as number, bytes, written, bytes.length - written, this.#fileBytes + written);
    }
    this.#fileBytes += bytes.length;
  }
}

/** One spilled run: a part of the file. */
interface Run {
  readonly start: number;
  readonly end: number;
  readonly isFloat: (list: number) => boolean;
}

/** Reads one run from its start, list by list, value by value, in pieces. */
class RunReader {
  /** The list that the reader stands at; undefined at the end of the run. */
  list: number | undefined;
  readonly #file: number;
  readonly #run: Run;
  #position: number;
  #left = 0;
  #values: Values = new Float64Array(0);
  #next = 0;

  constructor(file: number, run: Run) {
    this.#file = file;
    this.#run = run;
    this.#position = run.start;
    this.nextList();
  }

  /** The value that the reader stands at; undefined at the end of the list. */
  get head(): number | bigint | undefined {
    return this.#values[this.#next];
  }

  advance(): void {
    this.#next += 1;
    if (this.#next === this.#values.length) this.#readValues();
  }

  /** Skips what is left of this list. */
  nextList(): void {
    this.#position += this.#left * VALUE_BYTES;
    this.#left = 0;
    if (this.#position >= this.#run.end) {
      this.list = undefined;
      return;
    }
    const header = new BigInt64Array(this.#read(HEADER_BYTES));
    this.list = Number(header[0]);
    this.#left = Number(header[1]);
    this.#readValues();
  }

  #readValues(): void {
    const count = Math.min(this.#left, READ_BYTES / VALUE_BYTES);
    const bytes = this.#read(count * VALUE_BYTES);
    const isFloat = this.list !== undefined && this.#run.isFloat(this.list);
    this.#values = isFloat ? new Float64Array(bytes) : new BigInt64Array(bytes);
    this.#left -= count;
    this.#next = 0;
  }

  #read(byteCount: number): ArrayBuffer {
    const buffer = new ArrayBuffer(byteCount);
    for (let read = 0; read < byteCount;) {
      const got = readSync(this.#file, new Uint8Array(buffer, read), { position: this.#position + read });
      if (got === 0) throw new AppError("internal", "The temporary file of a median ended too early.");
      read += got;
    }
    this.#position += byteCount;
    return buffer;
  }
}

/** The middle of a list, merged out of the runs and of what is in memory. */
function middleOf(list: List, runs: readonly RunReader[]): readonly [number | bigint, number | bigint] | undefined {
  if (list.count === 0) return undefined;
  const sources: Source[] = [new HeldReader(list.held.subarray(0, list.heldCount).sort()), ...runs];
  const [lower, upper] = [Math.floor((list.count - 1) / 2), Math.floor(list.count / 2)];
  let lowerValue: number | bigint = 0;
  for (let rank = 0; ; rank++) {
    const value = takeSmallest(sources);
    if (rank === lower) lowerValue = value;
    if (rank === upper) return [lowerValue, value];
  }
}

interface Source {
  readonly head: number | bigint | undefined;
  advance(): void;
}

class HeldReader implements Source {
  readonly #values: Values;
  #next = 0;

  constructor(values: Values) {
    this.#values = values;
  }

  get head(): number | bigint | undefined {
    return this.#values[this.#next];
  }

  advance(): void {
    this.#next += 1;
  }
}

/** With the few runs that there are, looking at each is as fast as a heap. */
function takeSmallest(sources: readonly Source[]): number | bigint {
  let smallest: Source | undefined;
  for (const source of sources) {
    if (source.head !== undefined && (smallest?.head === undefined || source.head < smallest.head)) smallest = source;
  }
  const value = smallest?.head;
  if (value === undefined) throw new AppError("internal", "The temporary file of a median holds too few values.");
  smallest?.advance();
  return value;
}

function emptyValues(isFloat: boolean, length: number): Values {
  return isFloat ? new Float64Array(length) : new BigInt64Array(length);
}

function grown(list: List): Values {
  const values = emptyValues(list.isFloat, Math.max(8, list.held.length * 2));
  values.set(list.held as never);
  return values;
}

function wholeValue(value: bigint | number): bigint {
  const whole = BigInt(value);
  if (BigInt.asIntN(64, whole) === whole) return whole;
  throw new AppError(
    "type_mismatch",
    "The median takes numbers of at most 18 digits. CAST the column to REAL in the query.",
  );
}

function openUnlinkedFile(folder: string): number {
  const place = mkdtempSync(join(folder, "dynamos-median-"));
  try {
    return openSync(join(place, "values"), "wx+", 0o600);
  } finally {
    rmSync(place, { recursive: true, force: true });
  }
}
