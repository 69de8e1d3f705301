/** Where a steward's data are: in the agent's own configuration, never in the knowledge store (decision 11). */
import { readFile } from "node:fs/promises";
import { dirname, resolve } from "node:path";
import { Type, type Static } from "@sinclair/typebox";
import { Value } from "@sinclair/typebox/value";
import { parseJsonFile } from "../../lib/config/json-file.ts";
import { AppError } from "../../lib/errors.ts";
import { DocumentName, SqlName } from "../../lib/model/names.ts";

const FilePath = Type.String({ minLength: 1 });

/** Files of one data set. Relative paths start at the folder of the data file. */
export const DataPod = Type.Union([
  /** Delimited text: one file per table, or several with the same header. */
  Type.Object(
    {
      engine: Type.Literal("csv"),
      files: Type.Record(SqlName, Type.Union([FilePath, Type.Array(FilePath, { minItems: 1 })])),
    },
    { additionalProperties: false },
  ),
  /** Parquet files (`*.parquet`) and delimited text, asked with DuckDB (docs/decisions/0024): for large tables. */
  Type.Object(
    {
      engine: Type.Literal("duckdb"),
      files: Type.Record(SqlName, Type.Union([FilePath, Type.Array(FilePath, { minItems: 1 })])),
    },
    { additionalProperties: false },
  ),
  /** A SQLite database, which nobody may change while it is asked. */
  Type.Object({ engine: Type.Literal("sqlite"), path: FilePath }, { additionalProperties: false }),
]);
export type DataPod = Static<typeof DataPod>;

/** The data file: `{"dataSets": {"wageGap": {"engine": "csv", "files": {"Personen": "VU/Personen.csv"}}}}`. */
export const DataPods = Type.Object({ dataSets: Type.Record(DocumentName, DataPod) }, { additionalProperties: false });
export type DataPods = Static<typeof DataPods>;

/**
 * Reads a data file; paths in the answer are absolute.
 *
 * @throws AppError `not_found`, or `configuration_invalid` with file and place (a line, or a JSON pointer).
 */
export async function readDataPods(path: string): Promise<DataPods> {
  const text = await readFile(path, "utf8").catch((error: NodeJS.ErrnoException) => {
    throw new AppError("not_found", `The data file ${path} cannot be read (${String(error.code)}).`, {
      place: { file: path },
      cause: error,
    });
  });
  const value = parseJsonFile(text, path);
  const fault = Value.Errors(DataPods, value).First();
  if (fault !== undefined) {
    throw new AppError("configuration_invalid", `${path}: ${fault.path || "the document"}: ${fault.message}.`, {
      place: { file: path, pointer: fault.path },
    });
  }
  const folder = dirname(resolve(path));
  const dataSets = Object.entries((value as DataPods).dataSets).map(([name, pod]) => [name, absolute(pod, folder)]);
  return { dataSets: Object.fromEntries(dataSets) as DataPods["dataSets"] };
}

function absolute(pod: DataPod, folder: string): DataPod {
  if (pod.engine === "sqlite") return { ...pod, path: resolve(folder, pod.path) };
  const files = Object.entries(pod.files).map(([table, paths]) => [
    table,
    Array.isArray(paths) ? paths.map((path) => resolve(folder, path)) : resolve(folder, paths),
  ]);
  return { ...pod, files: Object.fromEntries(files) as typeof pod.files };
}
