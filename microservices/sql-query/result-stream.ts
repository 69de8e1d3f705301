/** From the rows of a guarded statement to frames: schema and batches. Runs in the query's process, synchronously. */
import type Database from "better-sqlite3";
import { BatchBuilder } from "../../lib/data/batch-builder.ts";
import { SENSITIVE_COLUMNS_READ, TYPE_UNKNOWN } from "../../lib/data/field-metadata.ts";
import type { CellValue, FieldSpec, FieldType } from "../../lib/data/field-types.ts";
import { encodeBatch, encodeSchema } from "../../lib/data/ipc.ts";
import { AppError } from "../../lib/errors.ts";
import type { DataSet } from "../../lib/model/dataset.ts";
import { readsNoSensitiveColumn } from "./columns-read.ts";
import { FRAME, type WriteFrame } from "./frames.ts";
import { asSubselect, type GuardedStatement } from "./guarded-statement.ts";
import { outputColumns, type OutputColumn } from "./output-columns.ts";
import {
  declaredReader,
  expressionReader,
  noteKind,
  typeOfKinds,
  type CellReader,
  type SeenKinds,
  type SqliteValue,
} from "./output-types.ts";
import { writeStates } from "./pushdown-documents.ts";
import { pushedStatesOfSqlite } from "./pushdown-sqlite.ts";
import type { PushedQuestion } from "./pushdown.ts";
import type { QueryLimits } from "./query-protocol.ts";

/** An expression's type is taken from this many rows. */
const ROWS_FOR_TYPES = 1024;
/** ... or from those that are this large, if that is fewer. */
const BYTES_FOR_TYPES = 4 * 1024 * 1024;
/** A batch is sent when it is about this large: with its message, below 256 KiB. */
const BATCH_BYTES = 224 * 1024;
/** ... or when its rows are, counted without dictionaries: whoever writes them out must not need more for a text that repeats. */
const BATCH_ROW_BYTES = 2 * 1024 * 1024;
/** The first batch goes out sooner, so that the rest of the chain begins to work; enough rows to tell which columns repeat. */
const FIRST_BATCH_ROWS = 2048;

/** Runs the query, writes its frames, and returns the number of rows. Throws what stops it; an `AppError`, or what SQLite throws while stepping. */
export function streamResult(
  database: Database.Database,
  guarded: GuardedStatement,
  dataSets: readonly DataSet[],
  limits: QueryLimits,
  write: WriteFrame,
  pushed?: PushedQuestion,
): number {
  const columns = outputColumns(guarded, dataSets);
  const metadata = new Map<string, string>();
  if (readsNoSensitiveColumn(database, guarded.program, dataSets)) {
    metadata.set(SENSITIVE_COLUMNS_READ, "none");
    const sent = pushed && sendStates(database, guarded, columns, metadata, limits, write, pushed);
    if (sent !== undefined) return sent;
  }
  const rows = guarded.statement.safeIntegers(true).raw(true).iterate() as IterableIterator<SqliteValue[]>;
  const head = takeHead(rows, limits);
  const types = columns.map(
    (column, index) => column.declaredType ?? expressionType(column, index, head, database, guarded),
  );
  const fields = columns.map((column, index) => fieldSpec(column, types[index]));
  const readers = columns.map((column, index) => cellReader(column, types[index] ?? NULLS_ONLY));
  const writer = new BatchWriter(new BatchBuilder(fields, { metadata, dictionaries: true }), readers, limits, write);
  for (const row of head.rows) writer.append(row);
  for (const row of rows) writer.append(row);
  return writer.end();
}

/** Sends states of groups instead of rows where they say the same; undefined where they do not. */
function sendStates(
  database: Database.Database,
  guarded: GuardedStatement,
  columns: readonly OutputColumn[],
  metadata: ReadonlyMap<string, string>,
  limits: QueryLimits,
  write: WriteFrame,
  question: PushedQuestion,
): number | undefined {
  if (columns.some(({ declaredType }) => declaredType === undefined)) return undefined;
  const fields = columns.map((column) => fieldSpec(column, column.declaredType));
  const documents = pushedStatesOfSqlite(database, guarded, fields, question, limits.rows);
  return documents && writeStates(documents, fields, metadata, write);
}

/** The first rows, which are held until the types are known. */
interface Head {
  readonly rows: readonly SqliteValue[][];
  /** Whether the result has no more. */
  readonly isAll: boolean;
}

function takeHead(rows: IterableIterator<SqliteValue[]>, limits: QueryLimits): Head {
  const head: SqliteValue[][] = [];
  let bytes = 0;
  while (head.length < ROWS_FOR_TYPES && bytes < BYTES_FOR_TYPES) {
    const next = rows.next();
    if (next.done === true) return { rows: head, isAll: true };
    bytes += checkedRowBytes(next.value, limits);
    head.push(next.value);
  }
  return { rows: head, isAll: false };
}

/** What a column of nulls is sent as; its field says that this is a guess. */
const NULLS_ONLY: FieldType = { kind: "text" };

/** Undefined when there is no value to tell it by. */
function expressionType(
  column: OutputColumn,
  index: number,
  head: Head,
  database: Database.Database,
  guarded: GuardedStatement,
): FieldType | undefined {
  const seen: SeenKinds = { integer: false, float: false, text: false };
  for (const row of head.rows) noteKind(seen, row[index] ?? null, column.name);
  const type = typeOfKinds(seen, column.name);
  if (type !== undefined) return type;
  // Only nulls so far. If there are more rows, the first other value decides, wherever it is.
  if (!head.isAll) noteKind(seen, firstNonNull(database, guarded, index), column.name);
  return typeOfKinds(seen, column.name);
}

function firstNonNull(database: Database.Database, { sql }: GuardedStatement, index: number): SqliteValue {
  const name = database.prepare(asSubselect(sql)).columns()[index]?.name ?? "";
  const probe = database.prepare<[], SqliteValue[]>(
    asSubselect(sql, `WHERE "${name.replaceAll('"', '""')}" IS NOT NULL LIMIT 1`),
  );
  return probe.safeIntegers(true).raw(true).get()?.[index] ?? null;
}

function fieldSpec(column: OutputColumn, type: FieldType | undefined): FieldSpec {
  const metadata = type === undefined ? { ...column.metadata, [TYPE_UNKNOWN]: "true" } : column.metadata;
  return { name: column.name, type: type ?? NULLS_ONLY, nullable: true, metadata };
}

function cellReader(column: OutputColumn, type: FieldType): CellReader {
  return column.declaredType === undefined ? expressionReader(type, column.name) : declaredReader(type, column.name);
}

/** Collects rows into batches, and counts them against the limits. */
class BatchWriter {
  readonly #builder: BatchBuilder;
  readonly #readers: readonly CellReader[];
  readonly #limits: QueryLimits;
  readonly #write: WriteFrame;
  readonly #cells: CellValue[];
  /** The schema is known with the first batch, which decides on dictionaries. */
  #isSchemaWritten = false;
  /** Estimating walks over the columns: it is done every so many rows. */
  #checkAt = 1;
  /** Of the batch's rows, each by itself. */
  #rowBytes = 0;
  #rows = 0;
  #bytes = 0;

  constructor(builder: BatchBuilder, readers: readonly CellReader[], limits: QueryLimits, write: WriteFrame) {
    this.#builder = builder;
    this.#write = write;
    this.#readers = readers;
    this.#limits = limits;
    this.#cells = readers.map(() => null);
  }

  append(row: readonly SqliteValue[]): void {
    this.#rowBytes += checkedRowBytes(row, this.#limits);
    if (++this.#rows > this.#limits.rows) {
      throw new AppError("result_too_large", `The result has more than ${String(this.#limits.rows)} rows, the limit.`, {
        details: { limit: "rows", value: this.#limits.rows },
      });
    }
    for (let index = 0; index < this.#readers.length; index++) {
      this.#cells[index] = (this.#readers[index] as CellReader)(row[index] ?? null);
    }
    this.#builder.append(this.#cells);
    if (this.#builder.rowCount >= this.#checkAt || this.#rowBytes >= BATCH_ROW_BYTES) this.#flushIfFull();
  }

  end(): number {
    if (this.#builder.rowCount > 0 || !this.#isSchemaWritten) this.#flush(true);
    return this.#rows;
  }

  #flushIfFull(): void {
    const { rowCount, estimatedBytes } = this.#builder;
    const isEnoughToBegin = !this.#isSchemaWritten && rowCount >= FIRST_BATCH_ROWS;
    if (estimatedBytes >= BATCH_BYTES || this.#rowBytes >= BATCH_ROW_BYTES || isEnoughToBegin) {
      this.#flush();
      return;
    }
    // As many rows again as would fill a quarter of what is left: large rows are met early.
    const bytesPerRow = Math.max(1, estimatedBytes / rowCount);
    const next = rowCount + Math.max(1, Math.floor((BATCH_BYTES - estimatedBytes) / bytesPerRow / 4));
    this.#checkAt = this.#isSchemaWritten ? next : Math.min(next, FIRST_BATCH_ROWS);
  }

  #flush(isLast = false): void {
    const batch = this.#builder.build();
    if (!this.#isSchemaWritten) {
      this.#write(FRAME.schema, encodeSchema(batch.schema));
      this.#isSchemaWritten = true;
      if (batch.numRows === 0) return;
    }
    const bytes = encodeBatch(batch);
    this.#checkAt = 1;
    this.#bytes += Math.max(bytes.length, this.#rowBytes);
    this.#rowBytes = 0;
    if (this.#bytes > this.#limits.bytes) {
      throw new AppError(
        "result_too_large",
        `The result has more than ${String(this.#limits.bytes)} bytes, the limit.`,
        {
          details: { limit: "bytes", value: this.#limits.bytes },
        },
      );
    }
    this.#write(FRAME.batch, bytes, isLast);
  }
}

/** About how large a row is; throws `batch_too_large` over the limit. */
function checkedRowBytes(row: readonly SqliteValue[], limits: QueryLimits): number {
  let bytes = 0;
  for (let index = 0; index < row.length; index++) {
    const value = row[index];
    bytes += typeof value === "string" || value instanceof Uint8Array ? value.length : 8;
  }
  if (bytes > limits.rowBytes) {
    throw new AppError(
      "batch_too_large",
      `A row of the result is larger than ${String(limits.rowBytes)} bytes, the limit.`,
      {
        details: { limit: "rowBytes", value: limits.rowBytes },
      },
    );
  }
  return bytes;
}
