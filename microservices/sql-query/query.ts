/**
 * Runs one query in a process of its own (decision 13), and gives its result as a stream of batches. However it ends
 * (last row, error, limit, cancel, reader gone), nothing of it is left when the stream is over: neither its files, nor, unless it
 * ended well and may serve again, its process.
 */
import type { RecordBatch, Schema } from "apache-arrow";
import { BatchDecoder } from "../../lib/data/ipc.ts";
import { AppError } from "../../lib/errors.ts";
import { FRAME } from "./frames.ts";
import type { QueryProcess, QueryRequest } from "./query-process.ts";
import type { QueryProcesses } from "./query-processes.ts";

/** A result, as soon as its columns are known. */
export interface QueryResult {
  readonly schema: Schema;
  readonly batches: AsyncIterable<RecordBatch>;
  /** Frees the process, also where no batch was ever asked for; what is read of the batches to their end has freed it already. */
  close(): Promise<void>;
}

/**
 * Starts a query and resolves with its schema.
 *
 * @throws AppError here or from the batches: `query_invalid`, `type_mismatch`, `time_limit_exceeded`, `memory_limit_exceeded`,
 * `result_too_large`, `batch_too_large`, `data_invalid`, `job_failed`, or what the signal was aborted with.
 */
export async function runQuery(request: QueryRequest, processes: QueryProcesses): Promise<QueryResult> {
  const { queryCharacters } = processes.limits;
  if (request.sql.length > queryCharacters) {
    throw new AppError(
      "query_invalid",
      `The query has ${String(request.sql.length)} characters; the limit is ${String(queryCharacters)}.`,
    );
  }
  request.signal.throwIfAborted();
  const process = await processes.take();
  try {
    await process.begin(request);
    const first = await process.next();
    if (first?.kind !== FRAME.schema)
      throw new AppError("internal", "The query's process did not begin with a schema.");
    const decoder = new BatchDecoder(first.payload);
    let givenBack: Promise<void> | undefined;
    const close = (): Promise<void> => (givenBack ??= processes.giveBack(process));
    return { schema: decoder.schema, batches: readBatches(process, decoder, close), close };
  } catch (error) {
    await processes.giveBack(process);
    throw error;
  }
}

async function* readBatches(
  process: QueryProcess,
  decoder: BatchDecoder,
  close: () => Promise<void>,
): AsyncGenerator<RecordBatch> {
  try {
    for (let frame = await process.next(); frame?.kind === FRAME.batch; frame = await process.next()) {
      yield decoder.decode(frame.payload);
    }
  } finally {
    await close();
  }
}
