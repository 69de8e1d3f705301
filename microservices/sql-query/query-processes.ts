/**
 * The processes that queries run in: one is started ahead, so that it is ready when the question comes. Where several queries are
 * served at once (a persistent chain), processes are kept and used again, and replaced in the background when they end.
 */
import { mkdirSync } from "node:fs";
import { QueryProcess } from "./query-process.ts";
import type { QueryLimits } from "./query-protocol.ts";

/** How many processes, and for what. */
export interface QueryProcessesOptions {
  readonly limits: QueryLimits;
  /** Folder in which each process makes its own; made when absent. */
  readonly temporaryFolder: string;
  /** Queries at once. 1 means a single query altogether: its process is not used again, and no other takes its place. */
  readonly atOnce: number;
  /** Queries of the rehearsal before a single one: its process serves them as well. Default 0. */
  readonly rehearsed?: number;
  /** Queries after which a process is replaced. Default 500. */
  readonly queriesPerProcess?: number;
  /** Resident memory (bytes) with which a process is replaced. Default: half of what there is between its own and the limit. */
  readonly mostMemoryKept?: number;
}

const QUERIES_PER_PROCESS = 500;

/** See the file comment. */
export class QueryProcesses {
  readonly limits: QueryLimits;
  readonly #start: () => QueryProcess;
  readonly #atOnce: number;
  readonly #free: QueryProcess[] = [];
  #taken = 0;
  #isClosed = false;

  /** Starts the first process. Throws what making its folder throws. */
  constructor(options: QueryProcessesOptions) {
    const {
      limits,
      temporaryFolder,
      atOnce,
      rehearsed = 0,
      queriesPerProcess = QUERIES_PER_PROCESS,
      mostMemoryKept,
    } = options;
    this.limits = limits;
    this.#atOnce = atOnce;
    const queries = atOnce === 1 ? rehearsed + 1 : queriesPerProcess;
    mkdirSync(temporaryFolder, { recursive: true });
    this.#start = () => new QueryProcess({ limits, temporaryFolder, queries, mostMemoryKept });
    this.#free.push(this.#start());
  }

  /** A process that waits for a query: {@link giveBack} must follow. One that died meanwhile is not given out. */
  async take(): Promise<QueryProcess> {
    this.#taken++;
    for (let process = this.#free.pop(); process !== undefined; process = this.#free.pop()) {
      if (process.isFree) {
        this.#startAhead();
        return process;
      }
      await process.stop();
    }
    const process = this.#start();
    this.#startAhead();
    return process;
  }

  /** Takes a process back: to be used again if it may be, stopped otherwise. Resolves when that is done. */
  async giveBack(process: QueryProcess): Promise<void> {
    this.#taken--;
    if (process.finish() && !this.#isClosed && this.#free.length < this.#atOnce) {
      // The one that was used last is used first: it is warm, and the others may rest.
      this.#free.push(process);
      return;
    }
    await process.stop();
    this.#startAhead();
  }

  /** Stops the processes that wait; those that run end with their queries. */
  async close(): Promise<void> {
    this.#isClosed = true;
    await Promise.all(this.#free.splice(0).map((process) => process.stop()));
  }

  /** One beyond those that run, while there may be more: whoever comes next does not wait for a start. */
  #startAhead(): void {
    if (this.#isClosed || this.#atOnce === 1) return;
    if (this.#free.length === 0 && this.#taken < this.#atOnce) this.#free.push(this.#start());
  }
}
