/**
 * A local job's folder: `job.json` (the record below), `<container>.log`, and `tmp/`, the containers' working folder.
 *
 * The folder is the job's claim to its name. It appears in one step with its record in it, and the record is replaced in
 * one step: whoever looks, after whatever crash, finds no folder or a readable record.
 */
import { randomUUID } from "node:crypto";
import { mkdir, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { AppError } from "../errors.ts";
import type { JobStatus, LogLine } from "./job-runner.ts";
import { readLogTail } from "./local-log.ts";
import type { KillTarget, ProcessIdentity } from "./local-processes.ts";

/** What is known of a job beyond the life of its agent. */
export interface JobRecord {
  /** The agent process that runs it. */
  readonly owner: ProcessIdentity;
  /** Absent in what an earlier version left. */
  readonly labels?: Readonly<Record<string, string>>;
  readonly containers: readonly string[];
  /** The containers' first processes, on record before their programs run. */
  readonly processes: readonly ProcessIdentity[];
  readonly status: JobStatus;
  /** Milliseconds since the epoch; absent while it lives. */
  readonly endedAtMs?: number;
}

/** Names of folders that are being made begin so; no job's does. */
const UNFINISHED_PREFIX = ".new-";

/** See the file comment. */
export class JobFolder {
  readonly name: string;
  readonly #path: string;

  constructor(stewardFolder: string, name: string) {
    this.name = name;
    this.#path = join(stewardFolder, name);
  }

  /** Working folder of the containers, and where their temporary files go; removed when the job ends. */
  get temporary(): string {
    return join(this.#path, "tmp");
  }

  /** What its processes, and only they, carry in their environment. */
  get environmentEntry(): string {
    return `TMPDIR=${this.temporary}`;
  }

  /** Where a container's output goes. */
  logPath(container: string): string {
    return join(this.#path, `${container}.log`);
  }

  /** Claims the name. In use: `already_exists`. */
  async create(record: JobRecord): Promise<void> {
    const unfinished = join(dirname(this.#path), `${UNFINISHED_PREFIX}${String(record.owner.pid)}-${randomUUID()}`);
    try {
      await mkdir(join(unfinished, "tmp"), { recursive: true });
      await writeFile(join(unfinished, "job.json"), JSON.stringify(record));
      await rename(unfinished, this.#path);
    } catch (error) {
      await rm(unfinished, { recursive: true, force: true });
      const code = (error as NodeJS.ErrnoException).code;
      if (code !== "ENOTEMPTY" && code !== "EEXIST") throw error;
      throw new AppError("already_exists", `There is a job ${this.name} already, running or lately ended.`);
    }
  }

  /** The record; undefined when there is no such job. */
  async read(): Promise<JobRecord | undefined> {
    try {
      return JSON.parse(await readFile(join(this.#path, "job.json"), "utf8")) as JobRecord;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
      throw error;
    }
  }

  /** Replaces the record. A job that was removed meanwhile stays removed. */
  async write(record: JobRecord): Promise<void> {
    const unfinished = join(this.#path, `.job-${randomUUID()}.json`);
    try {
      await writeFile(unfinished, JSON.stringify(record));
      await rename(unfinished, join(this.#path, "job.json"));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    }
  }

  /** What {@link killProcesses} needs to end every process of the job. */
  killTarget(processes: readonly ProcessIdentity[]): KillTarget {
    return { leaders: processes, environmentEntry: this.environmentEntry };
  }

  /** The containers' last lines, at most `lines` each. */
  async logs(containers: readonly string[], lines: number): Promise<readonly LogLine[]> {
    const logs: LogLine[] = [];
    for (const container of containers) {
      for (const line of await readLogTail(this.logPath(container), lines)) logs.push({ container, line });
    }
    return logs;
  }

  /** Removes the temporary files. */
  async removeTemporary(): Promise<void> {
    await rm(this.temporary, { recursive: true, force: true, maxRetries: 3 });
  }

  /** Removes everything: the name is free. */
  async remove(): Promise<void> {
    // Renamed first, so that nobody sees half a folder.
    const aside = join(dirname(this.#path), `${UNFINISHED_PREFIX}${String(process.pid)}-${randomUUID()}`);
    try {
      await rename(this.#path, aside);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return;
      throw error;
    }
    await rm(aside, { recursive: true, force: true, maxRetries: 3 });
  }
}

/** The names of all jobs of a steward. */
export async function listJobNames(stewardFolder: string): Promise<readonly string[]> {
  const names = await readdir(stewardFolder);
  return names.filter((name) => !name.startsWith(UNFINISHED_PREFIX)).sort();
}

/** Removes what agents left that died while they made or removed a folder. */
export async function removeUnfinished(stewardFolder: string): Promise<void> {
  for (const name of await readdir(stewardFolder)) {
    const pid = new RegExp(`^\\${UNFINISHED_PREFIX}(\\d+)-`).exec(name)?.[1];
    if (pid === undefined || processExists(Number(pid))) continue;
    await rm(join(stewardFolder, basename(name)), { recursive: true, force: true });
  }
}

function processExists(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}
