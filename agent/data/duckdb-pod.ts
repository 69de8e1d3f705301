/**
 * Data sets of the engine `duckdb`: Parquet and delimited files loaded once into a DuckDB database, as `load.ts` loads delimited files
 * into SQLite. What is declared is what is stored: a value that the declared type cannot hold exactly is a fault, not rounded.
 */
import { randomUUID } from "node:crypto";
import { mkdtemp, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import type { DuckDBAppender, DuckDBConnection } from "@duckdb/node-api";
import { contentsFileOf, createDuckdbTableSql, duckdbType } from "../../lib/data/duckdb-tables.ts";
import { DEFAULT_LOAD_TEMPORARY_BYTES, loadDuckdb, openDuckdb } from "../../lib/data/duckdb.ts";
import { quoteName } from "../../lib/data/sqlite-tables.ts";
import { AppError } from "../../lib/errors.ts";
import type { Column, ColumnType, DataSet, Table } from "../../lib/model/dataset.ts";
import type { StoredValue } from "./cell-parser.ts";
import { readCsvTable } from "./csv-table.ts";

/** What loading may take of the agent's memory; the rest goes to disk beside the file that is made. */
const LOAD_BYTES = 256 * 1024 * 1024;

/** A file and the table that it belongs to. */
interface Source {
  readonly table: Table;
  readonly path: string;
}

/** What making a file may take, and when to stop. */
export interface DuckdbLoadOptions {
  readonly signal?: AbortSignal;
  /** Most that DuckDB may put beside the file. Default: `DEFAULT_LOAD_TEMPORARY_BYTES`. */
  readonly temporaryBytes?: number;
}

/** Whether a file is read as Parquet (https://parquet.apache.org), by its name. */
export function isParquet(path: string): boolean {
  return path.toLowerCase().endsWith(".parquet");
}

/**
 * Writes a database with the data set's tables to `target`, and beside it which tables and columns it has.
 *
 * @throws AppError `data_invalid` that names file and column, never a value; `configuration_invalid` without DuckDB.
 */
export async function makeDuckdbFile(
  target: string,
  dataSet: DataSet,
  sources: readonly Source[],
  { signal, temporaryBytes = DEFAULT_LOAD_TEMPORARY_BYTES }: DuckdbLoadOptions,
): Promise<void> {
  const temporaryFolder = await mkdtemp(join(dirname(target), "duckdb-"));
  try {
    const database = await openDuckdb({
      path: target,
      readOnly: false,
      memoryBytes: LOAD_BYTES,
      temporaryFolder,
      temporaryBytes,
      externalAccess: true,
    });
    const interrupt = (): void => database.connection.interrupt();
    signal?.addEventListener("abort", interrupt);
    try {
      for (const table of dataSet.tables) await database.connection.run(createDuckdbTableSql(table));
      for (const source of sources) await loadSource(database.connection, dataSet, source, signal);
      await database.connection.run("CHECKPOINT");
    } catch (error) {
      signal?.throwIfAborted();
      throw error;
    } finally {
      signal?.removeEventListener("abort", interrupt);
      database.close();
    }
  } finally {
    await rm(temporaryFolder, { recursive: true, force: true });
  }
}

/** Checks a Parquet file against its declared table; resolves with its rows. Throws `data_invalid`. */
export async function checkParquetFile(table: Table, path: string): Promise<number> {
  const temporaryFolder = await mkdtemp(join(tmpdir(), "duckdb-"));
  try {
    const database = await openDuckdb({
      path: ":memory:",
      readOnly: false,
      memoryBytes: LOAD_BYTES,
      temporaryFolder,
      temporaryBytes: DEFAULT_LOAD_TEMPORARY_BYTES,
      externalAccess: true,
    });
    try {
      const from = await checkedParquet(database.connection, { table, path });
      return Number((await database.connection.runAndReadAll(`SELECT count(*) ${from}`)).getRows()[0]?.[0]);
    } finally {
      database.close();
    }
  } finally {
    await rm(temporaryFolder, { recursive: true, force: true });
  }
}

/** Says beside a made file what it holds: queries need not open it to know. */
export async function writeContents(path: string, tables: readonly Table[]): Promise<void> {
  const names = tables.map(({ name, columns }) => ({ name, columns: columns.map((column) => column.name) }));
  const temporary = `${contentsFileOf(path)}.${randomUUID()}.new`;
  await writeFile(temporary, JSON.stringify(names));
  await rename(temporary, contentsFileOf(path));
}

async function loadSource(
  connection: DuckDBConnection,
  dataSet: DataSet,
  source: Source,
  signal: AbortSignal | undefined,
): Promise<void> {
  if (isParquet(source.path)) await loadParquet(connection, source);
  else await loadDelimited(connection, dataSet, source, signal);
}

async function loadParquet(connection: DuckDBConnection, { table, path }: Source): Promise<void> {
  const from = await checkedParquet(connection, { table, path });
  const values = table.columns.map(({ name, type }) => `CAST(${quoteName(name)} AS ${duckdbType(type)})`);
  await connection.run(`INSERT INTO ${quoteName(table.name)} SELECT ${values.join(", ")} ${from}`);
}

/** The FROM clause of a file that holds what is declared. */
async function checkedParquet(connection: DuckDBConnection, { table, path }: Source): Promise<string> {
  const types = await parquetTypes(connection, path);
  const missing = table.columns.filter(({ name }) => !types.has(name.toLowerCase()));
  if (missing.length > 0) {
    throw fileFault(path, table, `lacks declared columns: ${missing.map(({ name }) => name).join(", ")}`);
  }
  const from = `FROM read_parquet(${quoteText(path)})`;
  await refuseMisfits(connection, table, path, from, types);
  return from;
}

async function parquetTypes(connection: DuckDBConnection, path: string): Promise<ReadonlyMap<string, string>> {
  try {
    const described = await connection.runAndReadAll(`DESCRIBE SELECT * FROM read_parquet(${quoteText(path)})`);
    return new Map(described.getRows().map(([name, type]) => [String(name).toLowerCase(), String(type)]));
  } catch (cause) {
    throw new AppError("data_invalid", `${path} is not a readable Parquet file.`, { cause, place: { file: path } });
  }
}

/** One pass over all columns: what does not come back the same from its declared type does not fit it. */
async function refuseMisfits(
  connection: DuckDBConnection,
  table: Table,
  path: string,
  from: string,
  types: ReadonlyMap<string, string>,
): Promise<void> {
  const counts = table.columns.flatMap((column) => [misfits(column, types), nulls(column)]);
  const reader = await connection.runAndReadAll(`SELECT ${counts.join(", ")} ${from}`);
  const row = reader.getRows()[0] ?? [];
  for (const [index, { name, type }] of table.columns.entries()) {
    const [wrong, missing] = [Number(row[2 * index]), Number(row[2 * index + 1])];
    if (wrong > 0) {
      const source = types.get(name.toLowerCase()) ?? "";
      const message = `has ${String(wrong)} values in the column ${name} (${source}) that are no ${type.type} as declared`;
      throw fileFault(path, table, message);
    }
    if (missing > 0) throw fileFault(path, table, `has ${String(missing)} rows without a value in the column ${name}`);
  }
}

function misfits({ name, type }: Column, types: ReadonlyMap<string, string>): string {
  const column = quoteName(name);
  const source = types.get(name.toLowerCase()) ?? "";
  const stored = `TRY_CAST(${column} AS ${duckdbType(type)})`;
  return `count_if(${column} IS NOT NULL AND TRY_CAST(${stored} AS ${source}) IS DISTINCT FROM ${column})`;
}

function nulls({ name, nullable }: Column): string {
  return nullable === false ? `count_if(${quoteName(name)} IS NULL)` : "0";
}

/** Rows between two looks at whether loading is still wanted, and between two writes. */
const FLUSH_ROWS = 100_000;

async function loadDelimited(
  connection: DuckDBConnection,
  dataSet: DataSet,
  { table, path }: Source,
  signal: AbortSignal | undefined,
): Promise<void> {
  const appender = await connection.createAppender(table.name);
  const appenders = table.columns.map(({ type }) => valueAppender(appender, type));
  let rows = 0;
  await readCsvTable(
    path,
    table,
    { delimiter: dataSet.delimiter ?? ";", ...(signal ? { signal } : {}) },
    {
      onRow: (values) => {
        for (const [index, value] of values.entries()) {
          if (value === null) appender.appendNull();
          else appenders[index]?.(value);
        }
        appender.endRow();
        if (++rows % FLUSH_ROWS === 0) appender.flushSync();
      },
    },
  );
  appender.closeSync();
}

/** Appends what the reader of delimited files gives, which is what SQLite would store. */
function valueAppender(appender: DuckDBAppender, type: ColumnType): (value: Exclude<StoredValue, null>) => void {
  const { DuckDBDateValue, DuckDBDecimalValue, DuckDBTimestampValue } = loadDuckdb();
  switch (type.type) {
    case "integer":
      return (value) => appender.appendBigInt(BigInt(value));
    case "decimal":
      return (value) => {
        const unscaled = BigInt(Math.round(Number(value) * 10 ** type.scale));
        appender.appendDecimal(new DuckDBDecimalValue(unscaled, type.precision, type.scale));
      };
    case "float":
      return (value) => appender.appendDouble(Number(value));
    case "boolean":
      return (value) => appender.appendBoolean(Number(value) === 1);
    case "text":
      return (value) => appender.appendVarchar(String(value));
    case "date":
      return (value) => appender.appendDate(new DuckDBDateValue(Date.parse(`${String(value)}T00:00:00Z`) / 86_400_000));
    case "timestamp":
      return (value) => appender.appendTimestamp(new DuckDBTimestampValue(microseconds(String(value))));
  }
}

/** Of `yyyy-mm-dd hh:mm:ss[.ffffff]`, UTC. */
function microseconds(text: string): bigint {
  const [, seconds = "", fraction = ""] = /^(.{19})(?:\.(\d{1,6}))?/.exec(text) ?? [];
  return BigInt(Date.parse(`${seconds.replace(" ", "T")}Z`)) * 1000n + BigInt(fraction.padEnd(6, "0"));
}

function quoteText(text: string): string {
  return `'${text.replaceAll("'", "''")}'`;
}

function fileFault(path: string, table: Table, message: string): AppError {
  return new AppError("data_invalid", `${path} ${message}.`, { place: { file: path }, details: { table: table.name } });
}
