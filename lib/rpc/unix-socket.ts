/** Taking a Unix socket's place in the file system, for this user alone. */
import { unlink } from "node:fs/promises";
import { connect } from "node:net";
import { AppError } from "../errors.ts";

/**
 * Runs `listen`, which makes the socket, so that only this user may connect (mode 0600 from its first moment). A socket that a
 * dead program left behind is removed; one that answers is `unavailable`.
 */
export async function claimSocket(path: string, listen: () => Promise<unknown>): Promise<void> {
  if (await isAnswering(path)) {
    throw new AppError("unavailable", `Another program listens on ${path}.`);
  }
  // The mask is the whole process's: files that others make meanwhile are for this user alone, too.
  const mask = process.umask(0o177);
  try {
    await listen();
  } finally {
    process.umask(mask);
  }
}

/** Whether somebody listens; a dead socket is removed. */
function isAnswering(path: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const socket = connect({ path });
    socket.once("connect", () => {
      socket.destroy();
      resolve(true);
    });
    socket.once("error", (error: NodeJS.ErrnoException) => {
      if (error.code === "ENOENT") resolve(false);
      else if (error.code === "ECONNREFUSED") unlink(path).then(() => resolve(false), reject);
      else reject(new AppError("unavailable", `${path} cannot be listened on.`, { cause: error }));
    });
  });
}
