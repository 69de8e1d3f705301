/**
 * The machine's processes as the local job runner sees them: who lives, who belongs to whom, how much memory each holds;
 * and how to kill without ever hitting a stranger.
 *
 * A process id alone names nobody, since the system uses it again: a {@link ProcessIdentity} also has the start time.
 * Linux is read from /proc (proc(5)); elsewhere `ps` (POSIX) answers, which costs a process of its own.
 */
import { execFile } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { promisify } from "node:util";
import type { Clock } from "../clock.ts";
import { AppError } from "../errors.ts";

/** One process for all time: no two have the same pair, also across reboots. */
export interface ProcessIdentity {
  readonly pid: number;
  /** Opaque. */
  readonly startedAt: string;
}

/** One living process. Zombies, which hold nothing but their exit code, are left out. */
export interface ProcessRow extends ProcessIdentity {
  readonly parentPid: number;
  readonly groupId: number;
  readonly residentBytes: number;
}

/** All living processes that can be seen, at one moment. */
export class ProcessTable {
  readonly #rows = new Map<number, ProcessRow>();
  readonly #groups = new Map<number, ProcessRow[]>();
  readonly #children = new Map<number, ProcessRow[]>();

  constructor(rows: Iterable<ProcessRow>) {
    for (const row of rows) {
      this.#rows.set(row.pid, row);
      addTo(this.#groups, row.groupId, row);
      addTo(this.#children, row.parentPid, row);
    }
  }

  /** Every process. */
  get rows(): Iterable<ProcessRow> {
    return this.#rows.values();
  }

  /** The process that has this id. */
  get(pid: number): ProcessRow | undefined {
    return this.#rows.get(pid);
  }

  /** Whether this very process lives. */
  has(identity: ProcessIdentity): boolean {
    return this.#rows.get(identity.pid)?.startedAt === identity.startedAt;
  }

  /** The processes of a living leader's group and all their descendants; none when the id has a new owner. */
  membersOf(leader: ProcessIdentity): readonly ProcessRow[] {
    if (!this.has(leader)) return [];
    const members = new Set(this.#groups.get(leader.pid));
    // A set may grow while it is walked: each round adds the children of those found before.
    for (const member of members) for (const child of this.#children.get(member.pid) ?? []) members.add(child);
    return [...members];
  }
}

function addTo(index: Map<number, ProcessRow[]>, key: number, row: ProcessRow): void {
  const rows = index.get(key);
  if (rows) rows.push(row);
  else index.set(key, [row]);
}

/** What {@link killProcesses} is to kill. */
export interface KillTarget {
  /** Leaders of process groups: the group dies, with the descendants that left it, if it is still this leader's. */
  readonly leaders: readonly ProcessIdentity[];
  /** An environment entry `NAME=value`: on Linux whoever carries it dies too, wherever it has hidden in the tree. */
  readonly environmentEntry: string;
}

const run = promisify(execFile);
const onLinux = process.platform === "linux";
const bootId = onLinux ? readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim() : "";
const pageBytes = onLinux ? measurePageBytes() : 0;

/**
 * Reads who lives now.
 *
 * @param unwanted ids of processes that may be left out, which spares reading them where the system lets us choose.
 */
export async function readProcessTable(unwanted: ReadonlySet<number> = NOBODY): Promise<ProcessTable> {
  if (!onLinux) return parsePs((await run("ps", ["-axww", "-o", PS_COLUMNS], PS_OPTIONS)).stdout);
  const rows = readdirSync("/proc")
    .filter((entry) => entry.charCodeAt(0) <= 0x39)
    .map(Number)
    .filter((pid) => !unwanted.has(pid))
    .map(readLinuxProcess)
    .filter((row) => row !== undefined);
  return new ProcessTable(rows);
}

const NOBODY: ReadonlySet<number> = new Set();

/** The identity of the process that has this id now; undefined when there is none. */
export async function identityOf(pid: number): Promise<ProcessIdentity | undefined> {
  const row = onLinux ? readLinuxProcess(pid) : (await readProcessTable()).get(pid);
  return row && { pid: row.pid, startedAt: row.startedAt };
}

/** Whether this very process lives. */
export async function isAlive(identity: ProcessIdentity): Promise<boolean> {
  return (await identityOf(identity.pid))?.startedAt === identity.startedAt;
}

/** Sends a signal to a whole process group. False when nobody is left in it. */
export function signalGroup(groupId: number, signal: NodeJS.Signals): boolean {
  try {
    return process.kill(-groupId, signal);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    // EPERM: macOS answers so when only zombies are left in the group.
    if (code === "ESRCH" || code === "EPERM") return false;
    throw error;
  }
}

/**
 * Kills and resolves when nothing of the target lives. Fails with `internal` when something still does after
 * `limitMs` (default 10 s; the kernel keeps a process that waits for a broken disk, whatever we send).
 */
export async function killProcesses(target: KillTarget, clock: Clock, limitMs = 10_000): Promise<void> {
  const giveUpAtMs = clock.now() + limitMs;
  for (let waitMs = 2; ; waitMs = Math.min(waitMs * 2, 100)) {
    const table = await readProcessTable();
    const living = findLiving(target, table);
    if (living.length === 0) return;
    if (clock.now() > giveUpAtMs) {
      const pids = living.map((row) => row.pid);
      throw new AppError("internal", `Processes ${pids.join(", ")} still live ${limitMs} ms after they were killed.`, {
        details: { pids },
      });
    }
    // The group first, in one step: so that none of it can have a child meanwhile.
    for (const leader of target.leaders) if (table.has(leader)) signalGroup(leader.pid, "SIGKILL");
    for (const row of living) kill(row.pid);
    await clock.sleep(waitMs);
  }
}

function findLiving(target: KillTarget, table: ProcessTable): readonly ProcessRow[] {
  const living = new Set(target.leaders.flatMap((leader) => table.membersOf(leader)));
  if (onLinux) {
    for (const row of table.rows) if (hasEnvironmentEntry(row.pid, target.environmentEntry)) living.add(row);
  }
  return [...living].filter((row) => row.pid !== process.pid);
}

function kill(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}

/** proc(5): /proc/pid/environ is the environment at exec, entries separated by NUL. */
function hasEnvironmentEntry(pid: number, entry: string): boolean {
  const environment = readIfThere(`/proc/${String(pid)}/environ`);
  return environment !== undefined && `\0${environment}\0`.includes(`\0${entry}\0`);
}

/** proc(5), /proc/pid/stat; the program's name, in parentheses, may itself hold spaces and parentheses. */
function readLinuxProcess(pid: number): ProcessRow | undefined {
  const stat = readIfThere(`/proc/${String(pid)}/stat`);
  if (stat === undefined) return undefined;
  const [state, parentPid, groupId, ...rest] = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  if (state === "Z" || state === "X") return undefined;
  return {
    pid,
    parentPid: Number(parentPid),
    groupId: Number(groupId),
    // Fields 22 and 24 of the line; `rest` begins with field 6.
    startedAt: `${bootId}:${rest[16] ?? ""}`,
    residentBytes: Number(rest[18]) * pageBytes,
  };
}

function readIfThere(path: string): string | undefined {
  try {
    return readFileSync(path, "latin1");
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    // Gone meanwhile, or somebody else's: neither is ours.
    if (code === "ENOENT" || code === "ESRCH" || code === "EACCES" || code === "EPERM") return undefined;
    throw error;
  }
}

/** Node does not tell the page size (4, 16 or 64 KiB): it follows from our own memory, known in bytes and in pages. */
function measurePageBytes(): number {
  const pages = Number(readFileSync("/proc/self/statm", "latin1").split(" ")[1]);
  return 2 ** Math.round(Math.log2(process.memoryUsage.rss() / pages));
}

const PS_COLUMNS = "pid=,ppid=,pgid=,rss=,stat=,lstart=";
const PS_OPTIONS = { env: { PATH: "/bin:/usr/bin", LC_ALL: "C" }, maxBuffer: 64 * 1024 * 1024 };

function parsePs(output: string): ProcessTable {
  const rows = output.split("\n").flatMap((line): ProcessRow[] => {
    const [pid, parentPid, groupId, residentKiB, state, ...startedAt] = line.trim().split(/\s+/);
    if (state === undefined || state.startsWith("Z")) return [];
    return [
      {
        pid: Number(pid),
        parentPid: Number(parentPid),
        groupId: Number(groupId),
        residentBytes: Number(residentKiB) * 1024,
        startedAt: startedAt.join(" "),
      },
    ];
  });
  return new ProcessTable(rows);
}
