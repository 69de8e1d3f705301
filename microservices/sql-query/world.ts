/**
 * A query's world (decision 13): a database file that holds exactly what is granted, so that nothing else can be reached
 * whatever the query says. A data set's own file serves if it holds nothing else; otherwise a file is made with the granted
 * tables and columns, and kept per content and grant.
 */
import { statSync } from "node:fs";
import { mkdir, readdir, readFile, rm, stat, utimes } from "node:fs/promises";
import { join } from "node:path";
import Database from "better-sqlite3";
import type { Clock } from "../../lib/clock.ts";
import { contentsFileOf } from "../../lib/data/duckdb-tables.ts";
import { DEFAULT_LOAD_TEMPORARY_BYTES } from "../../lib/data/duckdb.ts";
import { holdFile, removeUnheld, type FileHold } from "../../lib/data/held-files.ts";
import { makeFileOnce } from "../../lib/data/make-file-once.ts";
import { quoteName } from "../../lib/data/sqlite-tables.ts";
import {
  DEFAULT_WORLDS,
  DEFAULT_WORLDS_BYTES,
  isWorldFileName,
  removeOutdatedWorlds,
  worldFileName,
} from "../../lib/data/world-files.ts";
import { AppError } from "../../lib/errors.ts";
import type { DataSet, Table } from "../../lib/model/dataset.ts";
import type { World } from "./query-process.ts";
import { makeWorldFile, type WorldPart } from "./world-file.ts";

/** A data set's file, as the agent made it ready. */
export interface DataSetSource {
  readonly name: string;
  readonly path: string;
  readonly contentHash: string;
}

/** Where worlds are kept, and how many. */
export interface WorldOptions {
  /** One steward's; made when absent. */
  readonly cacheFolder: string;
  readonly clock: Clock;
  readonly signal: AbortSignal;
  /** What was found out about files before; absent: nothing is remembered. */
  readonly memory?: WorldMemory;
  /** Kept files beyond these go, the longest unused first. Defaults: `DEFAULT_WORLDS`, `DEFAULT_WORLDS_BYTES`. */
  readonly maxFiles?: number;
  readonly maxBytes?: number;
  /** Most that DuckDB may put beside a file that it makes. Default: `DEFAULT_LOAD_TEMPORARY_BYTES`. */
  readonly temporaryBytes?: number;
}

/** A world that stays until it is released. */
export interface HeldWorld extends World {
  release(): void;
}

/** Most that a {@link WorldMemory} remembers. */
const REMEMBERED = 256;
/** A folder is tidied no more often, unless there is a new content or world. */
const TIDY_EVERY_MS = 1000;

/**
 * What a process that serves many requests remembers of worlds, so that a small query does not cost several looks into files and
 * folders: only what cannot change behind the key that it is remembered by.
 */
export class WorldMemory {
  readonly #exact = new Map<string, boolean>();
  readonly #tidied = new Map<string, number>();

  /** The answer to whether a file, as it is now, holds exactly some tables. */
  isExact(key: string, look: () => boolean): boolean {
    const known = this.#exact.get(key);
    if (known !== undefined) return known;
    const exact = look();
    remember(this.#exact, key, exact);
    return exact;
  }

  /** Whether it is time to tidy up for this content or world. */
  isTidyDue(key: string, now: number): boolean {
    const last = this.#tidied.get(key);
    if (last !== undefined && now - last < TIDY_EVERY_MS) return false;
    remember(this.#tidied, key, now);
    return true;
  }
}

/** The oldest goes when there are too many. */
function remember<Value>(map: Map<string, Value>, key: string, value: Value): void {
  map.delete(key);
  map.set(key, value);
  for (const oldest of map.keys()) {
    if (map.size <= REMEMBERED) return;
    map.delete(oldest);
  }
}

/**
 * The world of a grant. Those of other contents of its data sets are removed.
 *
 * @param granted the grant's data sets: with only the granted tables and columns in them
 * @throws AppError `configuration_invalid` when a granted data set has no file here, or when two have a table of one name
 */
export async function openWorld(
  granted: readonly DataSet[],
  sources: readonly DataSetSource[],
  options: WorldOptions,
): Promise<HeldWorld> {
  const parts = granted.map((dataSet) => ({ dataSet, source: findSource(dataSet, sources) }));
  refuseSameNames(granted);
  const { memory = new WorldMemory(), clock } = options;
  for (const { source } of parts) {
    if (memory.isTidyDue(`${source.name}:${source.contentHash}`, clock.now())) {
      await removeOutdatedWorlds(options.cacheFolder, source);
    }
  }
  const [only] = parts;
  if (parts.length === 1 && only && (await isExactly(only.source.path, only.dataSet.tables, memory))) {
    // Whoever made this file ready keeps it.
    return { path: only.source.path, dataSets: granted, release: () => undefined };
  }
  await mkdir(options.cacheFolder, { recursive: true });
  const sourcesOfParts = parts.map(({ source }) => source);
  const grant = parts.map(({ dataSet }) => dataSet.tables);
  const engine = engineOf(sourcesOfParts);
  const path = join(options.cacheFolder, worldFileName(sourcesOfParts, grant, engine));
  const copies = parts.map(({ dataSet, source }) => ({ path: source.path, tables: dataSet.tables }));
  const hold = await holdMade(path, copies, options);
  try {
    if (memory.isTidyDue(path, clock.now())) await removeUnused(path, options);
  } catch (error) {
    hold.release();
    throw error;
  }
  return { path, dataSets: granted, release: () => hold.release() };
}

/** Another query may remove what was just made, when it knows of a newer content. */
const MAX_MAKES = 5;

async function holdMade(path: string, copies: readonly WorldPart[], options: WorldOptions): Promise<FileHold> {
  for (let makes = 0; makes < MAX_MAKES; makes++) {
    const request = { parts: copies, temporaryBytes: options.temporaryBytes ?? DEFAULT_LOAD_TEMPORARY_BYTES };
    await makeFileOnce(path, (target) => makeWorldFile({ target, ...request }, options.signal), options);
    const hold = holdFile(path);
    if (hold !== undefined) return hold;
  }
  throw new AppError("job_failed", "The data changed again and again while the query was being prepared.");
}

function findSource(dataSet: DataSet, sources: readonly DataSetSource[]): DataSetSource {
  const source = sources.find(({ name }) => name === dataSet.name);
  if (source) return source;
  const known = sources.map(({ name }) => name).join(", ") || "none";
  throw new AppError(
    "configuration_invalid",
    `The data set ${dataSet.name} is granted, but this steward has no data for it. Data sets with data: ${known}.`,
  );
}

function refuseSameNames(granted: readonly DataSet[]): void {
  const owners = new Map<string, string>();
  for (const dataSet of granted) {
    for (const { name } of dataSet.tables) {
      const owner = owners.get(name.toLowerCase());
      if (owner !== undefined) {
        throw new AppError(
          "configuration_invalid",
          `The granted data sets ${owner} and ${dataSet.name} both have a table ${name}. Name one of them in the approval (dataSets).`,
        );
      }
      owners.set(name.toLowerCase(), dataSet.name);
    }
  }
}

async function isExactly(path: string, tables: readonly Table[], memory: WorldMemory): Promise<boolean> {
  if (path.endsWith(".duckdb")) return saysExactly(path, tables);
  // What was committed to a database in WAL mode stands beside the file until a checkpoint.
  const identities = [path, `${path}-wal`].map(identityOf);
  const key = JSON.stringify([path, identities, tables]);
  return memory.isExact(key, () => holdsExactly(path, tables));
}

/** Not by a promise: every query asks, of a file that is at hand, and handing it to a thread costs ten times the asking. */
function identityOf(path: string): string {
  const entry = statSync(path, { bigint: true, throwIfNoEntry: false });
  return entry ? [entry.dev, entry.ino, entry.size, entry.mtimeNs, entry.ctimeNs].join(":") : "";
}

/** As the agent wrote it beside the file that it made: opening DuckDB here would cost more than most queries. */
async function saysExactly(path: string, tables: readonly Table[]): Promise<boolean> {
  const text = await readFile(contentsFileOf(path), "utf8").catch(ignoreAbsent);
  // Nobody says what it holds: the world is a copy then.
  if (text === undefined) return false;
  const held = JSON.parse(text) as { name: string; columns: string[] }[];
  if (held.length !== tables.length) return false;
  return tables.every((table) => {
    const columns = held.find(({ name }) => sameName(name, table.name))?.columns;
    return columns?.length === table.columns.length && table.columns.every(({ name }) => columns.includes(name));
  });
}

function engineOf(sources: readonly DataSetSource[]): "sqlite" | "duckdb" {
  const inDuckdb = sources.filter(({ path }) => path.endsWith(".duckdb"));
  if (inDuckdb.length === 0) return "sqlite";
  if (inDuckdb.length === sources.length) return "duckdb";
  throw new AppError(
    "configuration_invalid",
    `The granted data sets have different engines (${inDuckdb.map(({ name }) => name).join(", ")}: duckdb), and cannot be ` +
      "asked together. Name one of them in the approval (dataSets).",
  );
}

/**
 * Whether a file has these tables with these columns, and nothing else at all: no view, no index, no hidden column. Nor a
 * primary key, so that a table's values can be read in one way only (`columns-read.ts`).
 */
function holdsExactly(path: string, tables: readonly Table[]): boolean {
  const database = new Database(path, { readonly: true, fileMustExist: true });
  try {
    // Statistics tables count as objects too: they tell row counts and values that nobody granted.
    const objects = database.prepare<[], { type: string; name: string }>("SELECT type, name FROM sqlite_schema").all();
    if (objects.length !== tables.length || objects.some(({ type }) => type !== "table")) return false;
    return tables.every((table) => {
      if (!objects.some(({ name }) => sameName(name, table.name))) return false;
      const columns = database.pragma(`table_xinfo(${quoteName(table.name)})`) as {
        name: string;
        hidden: number;
        pk: number;
      }[];
      return (
        columns.length === table.columns.length &&
        columns.every(
          ({ name, hidden, pk }) =>
            hidden === 0 && pk === 0 && table.columns.some((column) => sameName(column.name, name)),
        )
      );
    });
  } finally {
    database.close();
  }
}

function sameName(one: string, other: string): boolean {
  return one.toLowerCase() === other.toLowerCase();
}

/** A file that was used this lately stays: the next query may want it. */
const IN_USE_MS = 60_000;

/** Notes the use of a world, and removes the longest unused beyond the limits. */
async function removeUnused(
  used: string,
  { cacheFolder, clock, maxFiles = DEFAULT_WORLDS, maxBytes = DEFAULT_WORLDS_BYTES }: WorldOptions,
): Promise<void> {
  const now = clock.now();
  await utimes(used, now / 1000, now / 1000);
  const files: { path: string; size: number; usedMs: number }[] = [];
  for (const name of await readdir(cacheFolder)) {
    if (name.startsWith("query-")) await removeAbandoned(join(cacheFolder, name), now);
    if (!isWorldFileName(name)) continue;
    const path = join(cacheFolder, name);
    const entry = await stat(path).catch(ignoreAbsent);
    if (entry) files.push({ path, size: entry.size, usedMs: entry.mtimeMs });
  }
  files.sort((a, b) => b.usedMs - a.usedMs);
  let bytes = 0;
  for (const [index, file] of files.entries()) {
    bytes += file.size;
    const isOver = index >= maxFiles || bytes > maxBytes;
    if (isOver && file.path !== used && now - file.usedMs > IN_USE_MS) removeUnheld(file.path);
  }
}

/** No query lives longer (decision 7). */
const LONGEST_QUERY_MS = 24 * 3600_000;

/** The folder for sorting of a query whose process was killed with its parent; SQLite's files in it are gone already. */
async function removeAbandoned(folder: string, now: number): Promise<void> {
  const entry = await stat(folder).catch(ignoreAbsent);
  if (entry && now - entry.mtimeMs > LONGEST_QUERY_MS) await rm(folder, { recursive: true, force: true });
}

/** Another query tidied it up first. */
function ignoreAbsent(error: NodeJS.ErrnoException): undefined {
  if (error.code !== "ENOENT") throw error;
}
