/** Stopping a process with SIGSTOP so that it does nothing more, from a known moment on. */
import { readdirSync, readFileSync } from "node:fs";
import { eventually } from "./eventually.ts";

const STOPPED = new Set(["T", "t"]);
const ENDED = new Set(["Z", "X"]);

/**
 * Sends SIGSTOP, and resolves when no thread of the process runs any more. The signal alone says nothing of when: until a thread
 * has been woken to take it, the others go on, and may answer still what is sent to them after it (seen with etcd, 2 of 60 times).
 * Fails when there is no such process. Where there is no /proc, it is taken at its word after the signal.
 */
export async function pauseProcess(pid: number): Promise<void> {
  process.kill(pid, "SIGSTOP");
  if (process.platform !== "linux") return;
  await eventually(() => threadStates(pid).every((state) => STOPPED.has(state) || ENDED.has(state)), {
    intervalMs: 1,
    describe: `all threads of process ${String(pid)} to be stopped`,
  });
}

/** Lets it go on: SIGCONT. */
export function resumeProcess(pid: number): void {
  process.kill(pid, "SIGCONT");
}

/** One letter for each thread, as proc_pid_stat(5) has them. */
function threadStates(pid: number): readonly string[] {
  const folder = `/proc/${String(pid)}/task`;
  return readdirSync(folder).flatMap((thread) => stateOf(`${folder}/${thread}/stat`));
}

function stateOf(statFile: string): readonly string[] {
  try {
    // The state follows the name, which stands in parentheses and may hold anything.
    return [/\) (\S) [^)]*$/.exec(readFileSync(statFile, "utf8"))?.[1] ?? "?"];
  } catch (error) {
    // Ended since the folder was read.
    if (["ENOENT", "ESRCH"].includes((error as NodeJS.ErrnoException).code ?? "")) return [];
    throw error;
  }
}
