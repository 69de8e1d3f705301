/** What goes between sql-query and the process that runs one query: the request, and the verdict of its watchdog. */
import type { ErrorCode, Failure } from "../../lib/errors.ts";
import type { PushedQuestion } from "./pushdown.ts";
import type { DataSet } from "../../lib/model/dataset.ts";

/** Limits of one query. Each is named in the error that it causes. */
export interface QueryLimits {
  /** Milliseconds that the query may work; the time in which its reader takes nothing does not count. */
  readonly timeMs: number;
  readonly rows: number;
  /** Bytes of the result as Arrow. */
  readonly bytes: number;
  /** Resident memory of the query's process; about 80 MB of it are the process itself. */
  readonly memoryBytes: number;
  /** Disk for sorting and intermediate results. */
  readonly temporaryBytes: number;
  /** Bytes of one row. */
  readonly rowBytes: number;
  readonly queryCharacters: number;
}

/** Limits where nothing else is said. */
export const DEFAULT_QUERY_LIMITS: QueryLimits = {
  timeMs: 300_000,
  rows: 50_000_000,
  bytes: 20_000_000_000,
  memoryBytes: 256 * 1024 * 1024,
  temporaryBytes: 4_000_000_000,
  rowBytes: 1024 * 1024,
  queryCharacters: 100_000,
};

/** What a query's process is started with. */
export interface ChildSettings {
  /** Its own, in which each query gets one. */
  readonly folder: string;
  readonly limits: QueryLimits;
  /** Most queries that it serves. */
  readonly queries: number;
  /** Resident memory (bytes) with which it serves no further query; absent: half of what there is between its own and the limit. */
  readonly mostMemoryKept?: number;
  /** Whose death ends it. */
  readonly parentPid: number;
}

/** One query, as its process reads it from standard input. */
export interface ChildRequest {
  readonly worldPath: string;
  /** The granted data sets, for the declared types and what is sensitive. */
  readonly dataSets: readonly DataSet[];
  readonly sql: string;
  /** The question's algorithms, where their states may be sent instead of the rows. */
  readonly pushed?: PushedQuestion;
}

/** After the last batch. */
export interface ChildEnd {
  readonly rows: number;
  /** Whether the process waits for another query; otherwise it ends. */
  readonly servesAgain: boolean;
}

/** The failure that the query's process sends. */
export interface ChildFailure extends Failure {
  /** Where an error came up that it did not expect: for this party's log, not for the analyst. */
  readonly frames?: string;
}

/** The last line on standard error of a process that its watchdog killed. */
export interface Verdict {
  readonly code: ErrorCode;
  readonly detail: string;
}

/** The error's text when the time is over. */
export function timeDetail(timeMs: number): string {
  return `The query took longer than ${String(timeMs)} ms, the limit.`;
}

/** The error's text when memory is over its limit. */
export function memoryDetail(bytes: number): string {
  return `The query needs more memory than its limit of ${String(bytes)} bytes. Ask for fewer or smaller intermediate values.`;
}

/** The error's text when the disk for intermediate results is over its limit. */
export function temporaryDetail(bytes: number): string {
  return (
    `The query needs more temporary space for sorting and intermediate results than its limit of ${String(bytes)} bytes. ` +
    "Sort, join or group fewer rows."
  );
}

/** Queries of the rehearsal, which the process of a warm chain serves before the request's (`rehearsal.ts`). */
export const REHEARSED_QUERIES = 2;
