/**
 * SQLite files that go when they are outdated, but never from under a query. Who needs one holds it: with SQLite's shared lock,
 * which holds between processes, and which the operating system takes back from those that die. Who removes one must have the
 * file to itself (https://www.sqlite.org/lockingv3.html). Only for files in rollback mode, which nobody writes any more.
 * A DuckDB file is held by an empty SQLite file beside it.
 */
import { existsSync, rmSync } from "node:fs";
import Database from "better-sqlite3";
import { contentsFileOf } from "./duckdb-tables.ts";

/** A file that stays. */
export interface FileHold {
  release(): void;
}

/** Holds a file; undefined when it is gone, or just being removed. */
export function holdFile(path: string): FileHold | undefined {
  const database = openLock(path, true);
  if (database === undefined) return undefined;
  try {
    database.exec("BEGIN");
    // Only reading takes the lock.
    database.prepare("SELECT count(*) FROM sqlite_schema").get();
    if (existsSync(path)) return { release: () => void database.close() };
  } catch (error) {
    database.close();
    if (isLocked(error)) return undefined;
    throw error;
  }
  database.close();
  return undefined;
}

/** Removes a file unless somebody holds or reads it; returns whether it is gone. */
export function removeUnheld(path: string): boolean {
  const database = openLock(path, false);
  if (database === undefined) return true;
  try {
    database.exec("BEGIN EXCLUSIVE");
    for (const file of [path, ...companionsOf(path)]) rmSync(file, { force: true });
    return true;
  } catch (error) {
    if (isLocked(error)) return false;
    throw error;
  } finally {
    database.close();
  }
}

/** What stands beside a file, and goes with it; the lock comes last. */
function companionsOf(path: string): readonly string[] {
  return path.endsWith(".duckdb") ? [contentsFileOf(path), lockFileOf(path)] : [];
}

function lockFileOf(path: string): string {
  return `${path}.lock`;
}

function openLock(path: string, readonly: boolean): Database.Database | undefined {
  if (!path.endsWith(".duckdb")) return openFile(path, readonly);
  return existsSync(path) ? new Database(lockFileOf(path), { timeout: 0 }) : undefined;
}

function openFile(path: string, readonly: boolean): Database.Database | undefined {
  try {
    return new Database(path, { readonly, fileMustExist: true, timeout: 0 });
  } catch (error) {
    if (error instanceof Database.SqliteError && error.code.startsWith("SQLITE_CANTOPEN") && !existsSync(path))
      return undefined;
    throw error;
  }
}

function isLocked(error: unknown): boolean {
  return error instanceof Database.SqliteError && error.code.startsWith("SQLITE_BUSY");
}
