/** Taking a Unix socket's place in the file system, for this user alone. */
import { lstat, mkdir, unlink } from "node:fs/promises";
import { connect } from "node:net";
import { dirname } from "node:path";
import { AppError } from "../errors.ts";

/**
 * Runs `listen`, which makes the socket, so that only this user may connect (mode 0600 from its first moment). A missing folder
 * is made. A socket that a dead program left behind is removed; one that answers, and what is no socket, is `unavailable`.
 */
export async function claimSocket(path: string, listen: () => Promise<unknown>): Promise<void> {
  await mkdir(dirname(path), { recursive: true, mode: 0o700 });
  await removeDeadSocket(path);
  // The mask is the whole process's: files that others make meanwhile are for this user alone, too.
  const mask = process.umask(0o177);
  try {
    await listen();
  } finally {
    process.umask(mask);
  }
}

async function removeDeadSocket(path: string): Promise<void> {
  const found = await lstat(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return undefined;
    throw taken(path, "it cannot be looked at", error);
  });
  if (found === undefined) return;
  if (!found.isSocket()) throw taken(path, "it is there, and no socket");
  if (await isAnswering(path)) throw taken(path, "another program does");
  await unlink(path);
}

function isAnswering(path: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const socket = connect({ path });
    socket.once("connect", () => {
      socket.destroy();
      resolve(true);
    });
    socket.once("error", (error: NodeJS.ErrnoException) => {
      if (error.code === "ECONNREFUSED") resolve(false);
      else reject(taken(path, "it cannot be connected to", error));
    });
  });
}

function taken(path: string, why: string, cause?: Error): AppError {
  return new AppError("unavailable", `${path} cannot be listened on: ${why}.`, cause === undefined ? {} : { cause });
}
