/**
 * What others learn of faults in this steward's data (decision 11): what is wrong, with table, line and column, but not the
 * paths of files, which are the steward's own.
 */
import { basename } from "node:path";
import { AppError, type ErrorCode } from "../../lib/errors.ts";
import type { DataPod } from "./data-pods.ts";

/** The codes under which others get a fault that has a place in a file. */
const OUTWARD_CODES: Partial<Record<ErrorCode, ErrorCode>> = {
  configuration_invalid: "configuration_invalid",
  data_invalid: "data_invalid",
  // To the analyst nothing is missing that they could name otherwise.
  not_found: "data_invalid",
};

/** The fault as it may leave this party; what names no file goes as it is. */
export function outwardFault(thrown: unknown, dataSet: string, pod?: DataPod): unknown {
  if (!(thrown instanceof AppError) || thrown.place?.file === undefined) return thrown;
  const code = OUTWARD_CODES[thrown.code];
  if (code === undefined) return thrown;
  const { file: path, line, column } = thrown.place;
  const named = thrown.details["table"];
  const table = typeof named === "string" ? named : tableOf(path, pod);
  const file = [dataSet, table, isOneOfSeveral(table, pod) ? basename(path) : undefined].filter(Boolean).join("/");
  return new AppError(code, thrown.message.replaceAll(path, file), {
    cause: thrown,
    retryable: thrown.retryable,
    place: { file, ...(line === undefined ? {} : { line }), ...(column === undefined ? {} : { column }) },
    details: { dataSet, ...(table === undefined ? {} : { table }) },
  });
}

function tableOf(path: string, pod: DataPod | undefined): string | undefined {
  if (pod === undefined || pod.engine === "sqlite") return undefined;
  return Object.entries(pod.files).find(([, paths]) => [paths].flat().includes(path))?.[0];
}

function isOneOfSeveral(table: string | undefined, pod: DataPod | undefined): boolean {
  if (table === undefined || pod === undefined || pod.engine === "sqlite") return false;
  return Array.isArray(pod.files[table]) && pod.files[table].length > 1;
}
