/** Checks a party's files against a data set without loading them: every row, and every fault up to a limit. */
import { AppError } from "../../lib/errors.ts";
import type { DataSet } from "../../lib/model/dataset.ts";
import { readCsvTable } from "./csv-table.ts";
import type { DataPod } from "./data-pods.ts";
import { checkParquetFile, isParquet } from "./duckdb-pod.ts";
import { csvSources } from "./load.ts";
import { checkSqliteTables } from "./sqlite-pod.ts";

/** What to do with what is found. */
export interface CheckOptions {
  /** Each fault, as `data_invalid` with file, line and column. No cell values. */
  readonly onFault: (fault: AppError) => void;
  /** Called when a file has been read to its end. */
  readonly onFile?: (file: CheckedFile) => void;
  readonly signal?: AbortSignal;
}

/** A file that was read to its end. */
export interface CheckedFile {
  readonly table: string;
  readonly path: string;
  /** Rows that fit their declaration; absent for a SQLite file, whose values are checked as queries read them. */
  readonly rows?: number;
}

/**
 * Checks the files of a data pod. A fault in one cell does not end the reading of its file; a fault of a header or a record
 * does.
 *
 * @throws AppError when pod and declaration do not belong together, or a file is not there.
 */
export async function checkFiles(dataSet: DataSet, pod: DataPod, options: CheckOptions): Promise<void> {
  if (pod.engine === "sqlite") {
    await reporting(options, async () => {
      checkSqliteTables(pod.path, dataSet);
      options.onFile?.({ table: dataSet.tables.map(({ name }) => name).join(", "), path: pod.path });
    });
    return;
  }
  for (const { table, path } of csvSources(dataSet, pod.files)) {
    await reporting(options, async () => {
      if (isParquet(path)) {
        const rows = await checkParquetFile(table, path);
        options.onFile?.({ table: table.name, path, rows });
        return;
      }
      let rows = 0;
      const csv = { delimiter: dataSet.delimiter ?? ";", ...(options.signal ? { signal: options.signal } : {}) };
      await readCsvTable(path, table, csv, { onRow: () => rows++, onFault: options.onFault });
      options.onFile?.({ table: table.name, path, rows });
    });
  }
}

/** Other files are still worth checking after a fault that ends one. */
async function reporting(options: CheckOptions, check: () => Promise<void>): Promise<void> {
  try {
    await check();
  } catch (error) {
    if (!(error instanceof AppError) || error.code !== "data_invalid") throw error;
    options.onFault(error);
  }
}
