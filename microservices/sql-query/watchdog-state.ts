/** What a query's process and its watchdog share. */

/** What the thread is told. */
export interface WatchdogData {
  readonly parentPid: number;
  /** The process's own, removed when the parent is gone and cannot do it. */
  readonly folder: string;
  readonly memoryBytes: number;
  readonly temporaryBytes: number;
  readonly timeMs: number;
  /** Two 32-bit integers: {@link WATCHING} and {@link QUERY}. */
  readonly state: SharedArrayBuffer;
}

/** Place of what becomes 1 when the watchdog is at work. */
export const WATCHING = 0;
/** Place of the running query's number; {@link NO_QUERY} between queries. */
export const QUERY = 1;
/** See {@link QUERY}. */
export const NO_QUERY = 0;
