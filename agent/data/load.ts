/**
 * Data pods made ready for queries (decision 11): delimited and Parquet files are loaded once into a SQLite or DuckDB file, and again only when
 * their content or declaration changes; SQLite files are used where they are, read-only.
 *
 * Layout of the folder: `<data set>-<content hash>.sqlite` (or `.duckdb`), lock files, and `<data set>.json`, which remembers size and
 * times of the files behind a hash, so that an unchanged file is not even read.
 */
import { createHash, randomUUID } from "node:crypto";
import { createReadStream, existsSync } from "node:fs";
import { mkdir, readFile, readdir, rename, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import Database from "better-sqlite3";
import type { Clock } from "../../lib/clock.ts";
import { removeUnheld } from "../../lib/data/held-files.ts";
import { makeFileOnce } from "../../lib/data/make-file-once.ts";
import { createTableSql, quoteName } from "../../lib/data/sqlite-tables.ts";
import { AppError } from "../../lib/errors.ts";
import type { DataSet, Table } from "../../lib/model/dataset.ts";
import { readCsvTable } from "./csv-table.ts";
import { makeDuckdbFile, writeContents } from "./duckdb-pod.ts";
import type { DataPod } from "./data-pods.ts";
import { checkSqliteTables } from "./sqlite-pod.ts";
import type { Turns } from "./turns.ts";

/** A data set that queries can be asked of. Metadata and place; no rows. */
export interface LoadedDataSet {
  readonly name: string;
  /** A SQLite or DuckDB file, to be opened read-only. */
  readonly path: string;
  /** Changes with every byte of the data and with the declaration (for a SQLite file: with size and times). */
  readonly contentHash: string;
  /** Whether the file was made of others, and goes when they change. */
  readonly isMade: boolean;
}

/** How loading is going. */
export interface LoadProgress {
  readonly dataSet: string;
  readonly table: string;
  readonly bytesRead: number;
  readonly totalBytes: number;
  readonly rows: number;
}

/** Where to load, and what to tell. */
export interface LoadOptions {
  /** Folder for one steward's loaded files; made when absent. Several of its agents may share it. */
  readonly folder: string;
  readonly clock: Clock;
  readonly signal?: AbortSignal;
  /** Most bytes that a data set's files may have together: what is made of them takes about as much disk. Default: {@link DEFAULT_LOAD_BYTES}. */
  readonly mostBytes?: number;
  /** Most that DuckDB may put beside a file that it makes. Default: `DEFAULT_LOAD_TEMPORARY_BYTES`. */
  readonly temporaryBytes?: number;
  /** Whose turn it is to load with DuckDB, which may take `LOAD_BYTES` of this process' memory each time. Default: nobody waits. */
  readonly duckdbTurns?: Turns;
  /** Called now and then while loading, and at the end of each file. */
  readonly onProgress?: (progress: LoadProgress) => void;
}

/** 100 GB. */
export const DEFAULT_LOAD_BYTES = 100_000_000_000;

/**
 * Makes a data set ready. Resolves at once when nothing changed since the last time.
 *
 * @throws AppError `data_invalid` with file, line and column; `configuration_invalid` when pod and declaration do not
 * belong together, or the files are larger than is allowed; `not_found` for a file that is not there.
 */
export async function loadDataSet(dataSet: DataSet, pod: DataPod, options: LoadOptions): Promise<LoadedDataSet> {
  if (pod.engine === "sqlite") {
    const identity = [await fileIdentity(pod.path), await walIdentity(pod.path)];
    checkSqliteTables(pod.path, dataSet);
    return {
      name: dataSet.name,
      path: pod.path,
      contentHash: shortHash(JSON.stringify([dataSet, identity])),
      isMade: false,
    };
  }
  const sources = csvSources(dataSet, pod.files);
  await checkSizes(dataSet.name, sources, options.mostBytes);
  await mkdir(options.folder, { recursive: true });
  const contentHash = await contentHashOf(dataSet, sources, options);
  const path = join(options.folder, `${dataSet.name}-${contentHash}.${pod.engine === "csv" ? "sqlite" : "duckdb"}`);
  const makeWith = (make: typeof loadCsv): Promise<void> =>
    makeFileOnce(path, (temporary) => make(temporary, dataSet, sources, contentHash, options), options);
  if (pod.engine === "csv") await makeWith(loadCsv);
  else {
    const makeInTurn = (): Promise<void> => makeWith(loadIntoDuckdb);
    const { duckdbTurns, signal } = options;
    // Before the file's lock, which others wait for; and not at all for a file that is there.
    await (duckdbTurns === undefined || existsSync(path) ? makeInTurn() : duckdbTurns.take(makeInTurn, signal));
    await writeContents(path, dataSet.tables);
  }
  await removeOutdated(dataSet.name, options.folder, contentHash);
  return { name: dataSet.name, path, contentHash, isMade: true };
}

/**
 * What changes when a data set's files change, or others are named; nothing is read. Undefined where it is used where it is.
 *
 * @throws AppError as {@link loadDataSet} for files that are not there.
 */
export async function sourcesIdentity(dataSet: DataSet, pod: DataPod): Promise<string | undefined> {
  if (pod.engine === "sqlite") return undefined;
  const sources = csvSources(dataSet, pod.files);
  const identities = await Promise.all(sources.map(async ({ path }) => [path, await fileIdentity(path)]));
  return JSON.stringify([pod.engine, identities]);
}

/** The content of a data set that was loaded last, by whichever agent; undefined for one that is used where it is. */
export async function latestContentHash(name: string, folder: string): Promise<string | undefined> {
  return (await readRemembered(join(folder, `${name}.json`)))?.contentHash;
}

/**
 * Removes the loaded files of other contents of a data set: they may have rows that the steward took out. Those that are held
 * (`lib/data/held-files.ts`) or read stay until the next call.
 */
export async function removeOutdated(name: string, folder: string, contentHash: string): Promise<void> {
  for (const file of await readdir(folder)) {
    const suffix = file.startsWith(`${name}-`) ? file.slice(name.length) : "";
    const hash = /^-([0-9a-f]{32})\.(?:sqlite|duckdb)$/.exec(suffix)?.[1];
    if (hash === undefined || hash === contentHash) continue;
    removeUnheld(join(folder, file));
  }
}

/** One delimited file and the table that it belongs to. */
export interface CsvSource {
  readonly table: Table;
  readonly path: string;
}

/** The files of a data set's tables. Throws `configuration_invalid` unless each table has one, and nothing else has. */
export function csvSources(dataSet: DataSet, files: Readonly<Record<string, string | string[]>>): CsvSource[] {
  for (const name of Object.keys(files)) {
    if (!dataSet.tables.some((table) => table.name === name)) {
      const declared = dataSet.tables.map((table) => table.name).join(", ");
      throw new AppError(
        "configuration_invalid",
        `The data set ${dataSet.name} declares no table ${name}, which files are given for. Declared: ${declared}.`,
      );
    }
  }
  return dataSet.tables.flatMap((table) => {
    const paths = files[table.name];
    if (paths === undefined) {
      throw new AppError(
        "configuration_invalid",
        `No file is given for the table ${table.name} of the data set ${dataSet.name}.`,
      );
    }
    return [paths].flat().map((path) => ({ table, path }));
  });
}

async function checkSizes(name: string, sources: readonly CsvSource[], most = DEFAULT_LOAD_BYTES): Promise<void> {
  let bytes = 0;
  for (const { path } of sources) bytes += (await stat(path).catch(notFound(path))).size;
  if (bytes <= most) return;
  throw new AppError(
    "configuration_invalid",
    `The files of the data set ${name} have ${String(bytes)} bytes together; an agent loads ${String(most)} at most: ` +
      `raise DYNAMOS_LOAD_MAX_BYTES, or declare the data set in parts.`,
    { details: { limit: "DYNAMOS_LOAD_MAX_BYTES", value: most } },
  );
}

/** What the folder remembers of the files behind a hash. */
interface Remembered {
  readonly key: string;
  readonly contentHash: string;
}

/** Increase when the same bytes would be loaded differently. */
const LOADER_VERSION = 1;

/** The hash of declaration and contents. Files whose size and times are as remembered are not read. */
async function contentHashOf(dataSet: DataSet, sources: readonly CsvSource[], options: LoadOptions): Promise<string> {
  const identities = await Promise.all(sources.map(async ({ path }) => [path, await fileIdentity(path)]));
  const key = shortHash(JSON.stringify([LOADER_VERSION, dataSet, identities]));
  const memory = join(options.folder, `${dataSet.name}.json`);
  const remembered = await readRemembered(memory);
  if (remembered?.key === key) return remembered.contentHash;
  const hashes: string[] = [];
  for (const { path } of sources) hashes.push(await hashFile(path, options.signal));
  const contentHash = combinedHash(dataSet, sources, hashes);
  const temporary = `${memory}.${randomUUID()}.new`;
  await writeFile(temporary, JSON.stringify({ key, contentHash } satisfies Remembered));
  await rename(temporary, memory);
  return contentHash;
}

function combinedHash(dataSet: DataSet, sources: readonly CsvSource[], fileHashes: readonly string[]): string {
  const tables = sources.map(({ table }, index) => [table.name, fileHashes[index]]);
  return shortHash(JSON.stringify([LOADER_VERSION, dataSet.delimiter ?? ";", dataSet.tables, tables]));
}

async function readRemembered(path: string): Promise<Remembered | undefined> {
  try {
    return JSON.parse(await readFile(path, "utf8")) as Remembered;
  } catch (error) {
    // Absent, or damaged: both only mean that the files are read again.
    if ((error as NodeJS.ErrnoException).code === "ENOENT" || error instanceof SyntaxError) return undefined;
    throw error;
  }
}

/** What changes when a file changes, without reading it (`not_found` where it is not there): also after a change that keeps size and modification time. */
export async function fileIdentity(path: string): Promise<string> {
  const { dev, ino, size, mtimeNs, ctimeNs } = await stat(path, { bigint: true }).catch(notFound(path));
  return [dev, ino, size, mtimeNs, ctimeNs].join(":");
}

function notFound(path: string): (error: NodeJS.ErrnoException) => never {
  return (error) => {
    throw new AppError("not_found", `The data file ${path} cannot be read (${String(error.code)}).`, {
      place: { file: path },
      cause: error,
    });
  };
}

/**
 * Of a database in WAL mode, where what was committed stands beside the file until a checkpoint
 * (https://www.sqlite.org/walformat.html). Readers make an empty one, which says nothing, and touch its `ctime`.
 */
async function walIdentity(path: string): Promise<string> {
  const entry = await stat(`${path}-wal`, { bigint: true }).catch(ignoreAbsent);
  return entry === undefined || entry.size === 0n ? "" : [entry.ino, entry.size, entry.mtimeNs].join(":");
}

async function hashFile(path: string, signal: AbortSignal | undefined): Promise<string> {
  const hash = createHash("sha256");
  await pipeline(createReadStream(path), hash, signal ? { signal } : {});
  return hash.digest("hex");
}

async function loadCsv(
  path: string,
  dataSet: DataSet,
  sources: readonly CsvSource[],
  contentHash: string,
  options: LoadOptions,
): Promise<void> {
  const database = new Database(path);
  try {
    // The file is aside until it is complete: a crash loses nothing but time.
    database.pragma("journal_mode = OFF");
    database.pragma("synchronous = OFF");
    for (const table of dataSet.tables) database.exec(createTableSql(table));
    const hashes: string[] = [];
    for (const source of sources) hashes.push(await loadFile(database, dataSet, source, options));
    if (combinedHash(dataSet, sources, hashes) !== contentHash) throw changedWhileRead(dataSet);
    // No ANALYZE: its sqlite_stat1 would tell every query the number of rows, which no agreement grants.
  } finally {
    database.close();
  }
}

/** As `loadCsv`. The files are read by DuckDB, so that their hash is taken once more afterwards. */
async function loadIntoDuckdb(
  path: string,
  dataSet: DataSet,
  sources: readonly CsvSource[],
  contentHash: string,
  options: LoadOptions,
): Promise<void> {
  const { signal } = options;
  await makeDuckdbFile(path, dataSet, sources, options);
  const hashes: string[] = [];
  for (const source of sources) hashes.push(await hashFile(source.path, signal));
  if (combinedHash(dataSet, sources, hashes) !== contentHash) throw changedWhileRead(dataSet);
}

function changedWhileRead({ name }: DataSet): AppError {
  const message = `The files of the data set ${name} changed while they were being read. Ask again when they are complete.`;
  return new AppError("data_invalid", message, { retryable: true });
}

const PROGRESS_EVERY_BYTES = 8 * 1024 * 1024;

async function loadFile(
  database: Database.Database,
  dataSet: DataSet,
  { table, path }: CsvSource,
  { signal, onProgress }: LoadOptions,
): Promise<string> {
  const places = table.columns.map(() => "?").join(", ");
  const insert = database.prepare(`INSERT INTO ${quoteName(table.name)} VALUES (${places})`);
  const totalBytes = (await stat(path)).size;
  const hash = createHash("sha256");
  let [rows, bytesRead, toldAt] = [0, 0, 0];
  const tell = (): void => {
    toldAt = bytesRead;
    onProgress?.({ dataSet: dataSet.name, table: table.name, bytesRead, totalBytes, rows });
  };
  const onBytes = (bytes: Buffer): void => {
    hash.update(bytes);
    bytesRead += bytes.length;
    if (bytesRead - toldAt >= PROGRESS_EVERY_BYTES) tell();
  };
  const onRow = (values: readonly unknown[]): void => {
    insert.run(values);
    rows++;
  };
  database.exec("BEGIN");
  await readCsvTable(
    path,
    table,
    { delimiter: dataSet.delimiter ?? ";", onBytes, ...(signal ? { signal } : {}) },
    { onRow },
  );
  database.exec("COMMIT");
  tell();
  return hash.digest("hex");
}

function ignoreAbsent(error: NodeJS.ErrnoException): undefined {
  if (error.code !== "ENOENT") throw error;
}

function shortHash(text: string): string {
  return createHash("sha256").update(text).digest("hex").slice(0, 32);
}
