/**
 * Finds processes that a test left behind. They are recognised by a marker: a text that stands in their command line or in
 * the environment that they began with, such as the path of the test's own folder.
 */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { promisify } from "node:util";
import { eventually } from "./eventually.ts";

/** A living process that carries the marker. */
export interface MarkedProcess {
  readonly pid: number;
  readonly commandLine: string;
}

/** The living processes, without this one and without zombies, in whose command line or environment `marker` stands. */
export async function processesWith(marker: string): Promise<readonly MarkedProcess[]> {
  return process.platform === "linux" ? processesWithOnLinux(marker) : processesWithByPs(marker);
}

/** Fails, naming them, if processes with the marker still live after `timeoutMs` (default 20 s). */
export async function assertNoProcessLeft(marker: string, timeoutMs = 20_000): Promise<void> {
  await eventually(
    async () => {
      assert.deepEqual(await processesWith(marker), []);
      return true;
    },
    { timeoutMs, intervalMs: 50, describe: `no process with ${marker} to be left` },
  );
}

function processesWithOnLinux(marker: string): readonly MarkedProcess[] {
  const pids = readdirSync("/proc").filter((entry) => /^\d+$/.test(entry) && Number(entry) !== process.pid);
  const found: MarkedProcess[] = [];
  for (const pid of pids) {
    // A zombie has neither.
    const commandLine = readIfAllowed(`/proc/${pid}/cmdline`);
    const environment = readIfAllowed(`/proc/${pid}/environ`);
    if (!commandLine.includes(marker) && !environment.includes(marker)) continue;
    found.push({ pid: Number(pid), commandLine: commandLine.replaceAll("\0", " ").trim() });
  }
  return found;
}

function readIfAllowed(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? "";
    if (["ENOENT", "ESRCH", "EACCES", "EPERM"].includes(code)) return "";
    throw error;
  }
}

async function processesWithByPs(marker: string): Promise<readonly MarkedProcess[]> {
  // `e` shows the environment behind the command line (BSD).
  const { stdout } = await promisify(execFile)("ps", ["axeww", "-o", "pid=,stat=,command="], { maxBuffer: 2 ** 26 });
  return stdout.split("\n").flatMap((line) => {
    const [, pid, state, commandLine] = /^\s*(\d+)\s+(\S+)\s+(.*)$/.exec(line) ?? [];
    if (pid === undefined || state?.startsWith("Z") || Number(pid) === process.pid) return [];
    return commandLine?.includes(marker) ? [{ pid: Number(pid), commandLine }] : [];
  });
}
