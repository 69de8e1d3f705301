/**
 * DuckDB, loaded only where a data set asks for it: it is an optional dependency of 70 MB, with builds for some systems
 * (docs/decisions/0024). Databases of one process and one folder, under a memory limit, without extensions.
 */
import { createRequire } from "node:module";
import type * as Duckdb from "@duckdb/node-api";
import { AppError } from "../errors.ts";

/** Most temporary bytes while a database is made, where nothing else is said. */
export const DEFAULT_LOAD_TEMPORARY_BYTES = 100_000_000_000;

/** How a database is opened. */
export interface DuckdbOptions {
  readonly path: string;
  readonly readOnly: boolean;
  readonly memoryBytes: number;
  /** For what does not fit into memory. */
  readonly temporaryFolder: string;
  readonly temporaryBytes: number;
  /** Whether files outside of the database can be reached. Never where somebody else's SQL runs. */
  readonly externalAccess: boolean;
}

/** An open database. */
export interface OpenDuckdb {
  readonly connection: Duckdb.DuckDBConnection;
  /** Closes connection and database; what was written is in the file then. */
  close(): void;
}

/** The library. Throws `configuration_invalid` that names the package where it is not installed. */
export function loadDuckdb(): typeof Duckdb {
  try {
    // Native code that is not bundled, found beside this program's other packages.
    return createRequire(import.meta.url)("@duckdb/node-api") as typeof Duckdb;
  } catch (cause) {
    throw new AppError(
      "configuration_invalid",
      'A data set has the engine "duckdb", but the package @duckdb/node-api cannot be loaded here. Install it ' +
        '(npm install --no-save @duckdb/node-api@1.5.5-r.5), or give the data set the engine "csv".',
      { cause },
    );
  }
}

/** Opens a database. */
export async function openDuckdb(options: DuckdbOptions): Promise<OpenDuckdb> {
  const { DuckDBInstance } = loadDuckdb();
  const instance = await DuckDBInstance.create(options.path, {
    access_mode: options.readOnly ? "READ_ONLY" : "READ_WRITE",
    threads: "1",
    memory_limit: `${String(Math.floor(options.memoryBytes / 1024))}KiB`,
    temp_directory: options.temporaryFolder,
    max_temp_directory_size: `${String(Math.floor(options.temporaryBytes / 1024))}KiB`,
    preserve_insertion_order: "true",
    autoinstall_known_extensions: "false",
    autoload_known_extensions: "false",
    allow_community_extensions: "false",
    allow_unsigned_extensions: "false",
    enable_external_access: String(options.externalAccess),
    // The last: nothing can be set after it.
    lock_configuration: "true",
  });
  const connection = await instance.connect();
  return {
    connection,
    close: () => {
      connection.closeSync();
      instance.closeSync();
    },
  };
}
