/** Runs a query in DuckDB and writes its frames: schema and batches. Runs in the query's process. */
import { isDeepStrictEqual } from "node:util";
import type { DuckDBDataChunk, DuckDBPreparedStatement, DuckDBType } from "@duckdb/node-api";
import { makeData, RecordBatch, Struct, type DataType, type Schema } from "apache-arrow";
import { openDuckdb, type OpenDuckdb } from "../../lib/data/duckdb.ts";
import { SENSITIVE_COLUMNS_READ, SOURCE_COLUMN, SOURCE_TABLE, TYPE_UNKNOWN } from "../../lib/data/field-metadata.ts";
import { fieldTypeOfColumn, toArrowSchema, type FieldSpec } from "../../lib/data/field-types.ts";
import { encodeBatch, encodeSchema } from "../../lib/data/ipc.ts";
import { TextDictionaries } from "../../lib/data/text-dictionaries.ts";
import { AppError } from "../../lib/errors.ts";
import { findTable, type DataSet } from "../../lib/model/dataset.ts";
import { duckdbColumn, fieldTypeOfDuckdb, type DuckdbColumn } from "./duckdb-columns.ts";
import { preparingFault, steppingFaultOfDuckdb } from "./duckdb-faults.ts";
import { guardSelect } from "./duckdb-guard.ts";
import { originsOf, selectsNoSensitiveColumn } from "./duckdb-origins.ts";
import { FRAME, type WriteFrame } from "./frames.ts";
import { writeStates } from "./pushdown-documents.ts";
import { pushedStatesOfDuckdb } from "./pushdown-duckdb.ts";
import type { ChildRequest, QueryLimits } from "./query-protocol.ts";

/** Of the process's memory, what DuckDB may not count on: Node, Arrow, and the library itself. */
const OWN_BYTES = 140 * 1024 * 1024;
const LEAST_BYTES = 32 * 1024 * 1024;
/** A batch is sent when it is about this large: with its message, below 256 KiB. */
const BATCH_BYTES = 224 * 1024;

/** Runs the query in a world of DuckDB, and resolves with the number of rows. */
export async function streamDuckdb(request: ChildRequest, limits: QueryLimits, write: WriteFrame): Promise<number> {
  const database = await openDuckdb({
    path: request.worldPath,
    readOnly: true,
    memoryBytes: Math.max(LEAST_BYTES, limits.memoryBytes - OWN_BYTES),
    temporaryFolder: process.cwd(),
    temporaryBytes: limits.temporaryBytes,
    externalAccess: false,
  });
  try {
    return await run(database, request, limits, write);
  } catch (error) {
    throw steppingFaultOfDuckdb(error, limits);
  } finally {
    database.close();
  }
}

async function run(
  { connection }: OpenDuckdb,
  { sql, dataSets, pushed }: ChildRequest,
  limits: QueryLimits,
  write: WriteFrame,
): Promise<number> {
  const guarded = await guardSelect(connection, sql, dataSets);
  const prepared = await prepare(() => connection.prepare(sql));
  if (prepared.parameterCount > 0) {
    throw new AppError("query_invalid", "The query has a parameter (?, $name): write its value into the query.");
  }
  const places = Array.from({ length: prepared.columnCount }, (_, index) => index);
  const types = places.map((index) => prepared.columnType(index));
  const names = uniqueNames(places.map((index) => prepared.columnName(index)));
  const origins = originsOf(guarded, dataSets, names.length);
  const fields = names.map((name, index): FieldSpec => {
    const type = fieldTypeOfDuckdb(types[index] as DuckDBType, name);
    const metadata = { ...origins[index], ...(type === undefined ? { [TYPE_UNKNOWN]: "true" } : {}) };
    return { name, type: type ?? { kind: "text" }, nullable: true, metadata };
  });
  const metadata = new Map<string, string>();
  if (selectsNoSensitiveColumn(guarded, dataSets)) {
    metadata.set(SENSITIVE_COLUMNS_READ, "none");
    if (pushed !== undefined && fields.every((field) => hasDeclaredType(field, dataSets))) {
      const documents = await pushedStatesOfDuckdb(connection, { sql, guarded, fields }, pushed, limits);
      if (documents !== undefined) return writeStates(documents, fields, metadata, write);
    }
  }
  const result = await prepared.stream();
  const schema = toArrowSchema(fields, metadata);
  const columns = types.map((type, index) =>
    duckdbColumn(index, type, schema.fields[index]?.type as DataType, names[index] ?? ""),
  );
  const writer = new ChunkWriter(schema, columns, limits, write);
  for (let chunk = await result.fetchChunk(); chunk && chunk.rowCount > 0; chunk = await result.fetchChunk()) {
    writer.append(chunk, 0, chunk.rowCount);
  }
  return writer.end();
}

/** Whether a column of the result is certainly a granted column, of the type that it was declared with. */
function hasDeclaredType({ type, metadata = {} }: FieldSpec, dataSets: readonly DataSet[]): boolean {
  const tables = dataSets.map((dataSet) => findTable(dataSet, metadata[SOURCE_TABLE] ?? ""));
  const column = tables
    .find((table) => table !== undefined)
    ?.columns.find(({ name }) => name === metadata[SOURCE_COLUMN]);
  return column !== undefined && isDeepStrictEqual(fieldTypeOfColumn(column.type), type);
}

async function prepare(work: () => Promise<DuckDBPreparedStatement>): Promise<DuckDBPreparedStatement> {
  try {
    return await work();
  } catch (error) {
    throw preparingFault(error);
  }
}

/** Names that come twice get `:1`, `:2` and so on, as with SQLite. */
function uniqueNames(names: readonly string[]): string[] {
  const taken = new Set<string>();
  return names.map((name, index) => {
    if (name === "") {
      throw new AppError(
        "query_invalid",
        `Column ${String(index + 1)} of the result has no name. Give it one with AS.`,
      );
    }
    let unique = name;
    for (let count = 1; taken.has(unique); count++) unique = `${name}:${String(count)}`;
    taken.add(unique);
    return unique;
  });
}

/** Collects chunks into batches, and counts them against the limits. */
class ChunkWriter {
  readonly #schema: Schema;
  readonly #columns: readonly DuckdbColumn[];
  readonly #limits: QueryLimits;
  readonly #write: WriteFrame;
  readonly #dictionaries = new TextDictionaries();
  /** The schema is known with the first batch, which decides on dictionaries. */
  #isSchemaWritten = false;
  #batchRows = 0;
  #batchBytes = 0;
  #rows = 0;
  #bytes = 0;

  constructor(schema: Schema, columns: readonly DuckdbColumn[], limits: QueryLimits, write: WriteFrame) {
    this.#schema = schema;
    this.#columns = columns;
    this.#limits = limits;
    this.#write = write;
  }

  /** Halves what is larger than a batch. */
  append(chunk: DuckDBDataChunk, from: number, to: number): void {
    const bytes = this.#columns.reduce((sum, column) => sum + column.bytes(chunk, from, to), 0);
    if (to - from > 1 && bytes > BATCH_BYTES) {
      const middle = (from + to) >> 1;
      this.append(chunk, from, middle);
      this.append(chunk, middle, to);
      return;
    }
    if (this.#batchRows > 0 && this.#batchBytes + bytes > BATCH_BYTES) this.#flush();
    this.#count(to - from, bytes);
    for (const column of this.#columns) column.append(chunk, from, to);
    this.#batchRows += to - from;
    this.#batchBytes += bytes;
  }

  end(): number {
    if (this.#batchRows > 0 || !this.#isSchemaWritten) this.#flush();
    return this.#rows;
  }

  #count(rows: number, bytes: number): void {
    const { rows: mostRows, rowBytes } = this.#limits;
    if (rows === 1 && bytes > rowBytes) {
      throw new AppError(
        "batch_too_large",
        `A row of the result is larger than ${String(rowBytes)} bytes, the limit.`,
        {
          details: { limit: "rowBytes", value: rowBytes },
        },
      );
    }
    this.#rows += rows;
    if (this.#rows > mostRows) {
      throw new AppError("result_too_large", `The result has more than ${String(mostRows)} rows, the limit.`, {
        details: { limit: "rows", value: mostRows },
      });
    }
  }

  #flush(): void {
    const children = this.#columns.map((column) => column.take(this.#batchRows));
    const type = new Struct(this.#schema.fields);
    const data = makeData({ type, length: this.#batchRows, nullCount: 0, children });
    const batch = this.#dictionaries.encode(new RecordBatch(this.#schema, data));
    if (!this.#isSchemaWritten) {
      this.#write(FRAME.schema, encodeSchema(batch.schema));
      this.#isSchemaWritten = true;
      if (batch.numRows === 0) return;
    }
    const bytes = encodeBatch(batch);
    // Without dictionaries: whoever writes the rows out needs as much.
    this.#bytes += Math.max(bytes.length, this.#batchBytes);
    [this.#batchRows, this.#batchBytes] = [0, 0];
    const { bytes: mostBytes } = this.#limits;
    if (this.#bytes > mostBytes) {
      throw new AppError("result_too_large", `The result has more than ${String(mostBytes)} bytes, the limit.`, {
        details: { limit: "bytes", value: mostBytes },
      });
    }
    this.#write(FRAME.batch, bytes);
  }
}
