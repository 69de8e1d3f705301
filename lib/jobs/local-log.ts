/**
 * Containers' output on disk, bounded: two files of half the limit each, of which the older one is thrown away. Output
 * comes through a pipe, not straight into a file, since only so a container that floods it is slowed down.
 */
import { open, rename, type FileHandle } from "node:fs/promises";
import type { Readable } from "node:stream";

/** Most bytes that the tail of a log is taken from. */
const TAIL_BYTES = 256 * 1024;

/**
 * Copies a container's output to `path` (older half: `path`.1) until it ends or is destroyed. After a failure, such as a
 * full disk, it reads on without writing, so that the container never blocks, and fails at the end.
 */
export async function keepLog(output: Readable, path: string, maxBytes: number): Promise<void> {
  let file: FileHandle | undefined;
  let bytes = 0;
  let failure: unknown;
  try {
    for await (const chunk of output as AsyncIterable<Buffer>) {
      if (failure !== undefined) continue;
      try {
        file ??= await open(path, "a");
        await file.appendFile(chunk);
        bytes += chunk.length;
        if (bytes < maxBytes / 2) continue;
        bytes = 0;
        await file.close();
        file = undefined;
        await rename(path, `${path}.1`);
      } catch (error) {
        failure = error;
      }
    }
  } catch (error) {
    // Destroyed by us after the container's end: somebody outside its process group still held the pipe.
    if ((error as NodeJS.ErrnoException).code !== "ERR_STREAM_PREMATURE_CLOSE") throw error;
  } finally {
    await file?.close();
  }
  if (failure instanceof Error) throw failure;
}

/** The last lines of a log, at most `lines`; those older than the last 256 KiB are lost. No log: no lines. */
export async function readLogTail(path: string, lines: number): Promise<readonly string[]> {
  const newest = await readTail(path);
  const text = newest.length >= TAIL_BYTES ? newest : Buffer.concat([await readTail(`${path}.1`), newest]);
  const all = text.toString("utf8").split(/\r?\n/);
  if (all.at(-1) === "") all.pop();
  return lines <= 0 ? [] : all.slice(-lines);
}

async function readTail(path: string): Promise<Buffer> {
  let file: FileHandle;
  try {
    file = await open(path, "r");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return Buffer.alloc(0);
    throw error;
  }
  try {
    const { size } = await file.stat();
    const start = Math.max(0, size - TAIL_BYTES);
    const { buffer, bytesRead } = await file.read(Buffer.alloc(size - start), 0, size - start, start);
    const tail = buffer.subarray(0, bytesRead);
    // A line whose beginning is not there is no line.
    return start === 0 ? tail : tail.subarray(tail.indexOf(0x0a) + 1);
  } finally {
    await file.close();
  }
}
