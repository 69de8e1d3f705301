/**
 * Files that are made once, whoever asks and however many ask at once: under a lock, aside, then renamed.
 *
 * Invariants: M1 what stands at the path is complete. M2 at most one process makes it at a time. M3 a maker that was
 * killed leaves nothing in use, and nobody waits for it: the lock is a file lock that the operating system takes back.
 */
import { createHash, randomUUID } from "node:crypto";
import { mkdir, open, rename, rm, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import Database from "better-sqlite3";
import type { Clock } from "../clock.ts";
import { AppError } from "../errors.ts";

/** How to wait. */
export interface MakeFileOptions {
  readonly clock: Clock;
  readonly signal?: AbortSignal;
  /** How long to wait for another maker before giving up with `deadline_exceeded`. Default 10 minutes. */
  readonly waitMs?: number;
}

/**
 * Resolves when `path` exists: it does already, or `make` has written it. `make` gets another path in the same folder and
 * must leave one closed file there. When it throws, nothing stays; the next caller tries again.
 */
export async function makeFileOnce(
  path: string,
  make: (temporaryPath: string) => Promise<void>,
  options: MakeFileOptions,
): Promise<void> {
  if (await exists(path)) return;
  await mkdir(dirname(path), { recursive: true });
  const release = await lock(path, options);
  try {
    if (await exists(path)) return;
    // In a folder of its own, so that journals which the maker leaves go with it. With the lock held, what stands there is
    // nobody's: a maker that was killed left it.
    const folder = `${path}.making`;
    await rm(folder, { recursive: true, force: true });
    await mkdir(folder);
    try {
      // A name of its own: a child of a killed maker may still be writing to the old one.
      const temporaryPath = join(folder, randomUUID());
      await make(temporaryPath);
      await syncFile(temporaryPath);
      await rename(temporaryPath, path);
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  } finally {
    release();
  }
}

/** Lock files of a folder. They stay (removing one is a race), so there is a fixed number, and files share them. */
const LOCKS_PER_FOLDER = 16;

/** Waits for the lock of a file, and resolves with its release. */
async function lock(path: string, { clock, signal, waitMs = 600_000 }: MakeFileOptions): Promise<() => void> {
  const giveUpAt = clock.now() + waitMs;
  const bucket = (createHash("sha256").update(basename(path)).digest()[0] ?? 0) % LOCKS_PER_FOLDER;
  const database = new Database(join(dirname(path), `making-${String(bucket)}.lock`), { timeout: 0 });
  try {
    for (;;) {
      signal?.throwIfAborted();
      if (tryLock(database)) return () => database.close();
      if (clock.now() >= giveUpAt) {
        throw new AppError(
          "deadline_exceeded",
          `Another process has been making ${basename(path)} for ${String(waitMs)} ms.`,
        );
      }
      await clock.sleep(25, signal);
    }
  } catch (error) {
    database.close();
    throw error;
  }
}

function tryLock(database: Database.Database): boolean {
  try {
    database.exec("BEGIN EXCLUSIVE");
    return true;
  } catch (error) {
    if (error instanceof Database.SqliteError && error.code.startsWith("SQLITE_BUSY")) return false;
    throw error;
  }
}

/** So that the file is whole behind its name also after the machine itself stops. */
async function syncFile(path: string): Promise<void> {
  const file = await open(path, "r");
  try {
    await file.sync();
  } finally {
    await file.close();
  }
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    (error: NodeJS.ErrnoException) => {
      if (error.code === "ENOENT") return false;
      throw error;
    },
  );
}
