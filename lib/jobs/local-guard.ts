/**
 * What kills an agent's containers when the agent itself is killed (`kill -9`), so that it cannot clean up.
 *
 * A tiny shell process of its own session reads process groups from a pipe that only the agent holds open. When the agent
 * ends, however it ends, the kernel closes the pipe and the guard kills every group that it still has. Linux's
 * PR_SET_PDEATHSIG would need a helper program, reaches no grandchildren, and exists nowhere else.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { AppError } from "../errors.ts";

/** POSIX shell: `+ group` adds, `- group` removes, the end of input kills what is left. */
const GUARD_PROGRAM = `
trap '' HUP INT TERM
groups=
while read -r change group; do
  case $change in
    +) groups="$groups $group" ;;
    -) rest=; for each in $groups; do [ "$each" = "$group" ] || rest="$rest $each"; done; groups=$rest ;;
  esac
done
for each in $groups; do kill -s KILL -- "-$each" 2>/dev/null; done
exit 0`;

/** Milliseconds between two guards, when somebody kills them. */
const RESTART_AFTER_MS = 100;

/** See the file comment. A guard that is killed is replaced while it has something to guard. */
export class ProcessGuard {
  readonly #groups = new Set<number>();
  readonly #report: (error: AppError) => void;
  #shell: ChildProcess | undefined;
  #isClosed = false;

  /** `report` hears of a guard that somebody killed. */
  constructor(report: (error: AppError) => void) {
    this.#report = report;
  }

  /** From when it resolves, these groups die with the agent. Fails with `job_start_failed`. */
  async add(groupIds: readonly number[]): Promise<void> {
    if (this.#isClosed) throw new AppError("unavailable", "The job runner is closed.");
    this.#shell ??= this.#startShell();
    for (const id of groupIds) this.#groups.add(id);
    await this.#write(groupIds.map((id) => `+ ${String(id)}\n`).join(""));
  }

  /** These groups are gone, and their ids may soon be somebody else's. */
  async remove(groupIds: readonly number[]): Promise<void> {
    for (const id of groupIds) this.#groups.delete(id);
    if (this.#shell !== undefined) await this.#write(groupIds.map((id) => `- ${String(id)}\n`).join(""));
  }

  /** Ends the guard; what it still has is killed. */
  async close(): Promise<void> {
    this.#isClosed = true;
    const shell = this.#shell;
    if (shell?.pid === undefined || shell.exitCode !== null || shell.signalCode !== null) return;
    await new Promise((resolve) => {
      shell.once("exit", resolve);
      shell.stdin?.end();
    });
  }

  async #write(lines: string): Promise<void> {
    const pipe = this.#shell?.stdin;
    await new Promise<void>((resolve, reject) => {
      if (!pipe) return resolve();
      pipe.write(lines, (error) => (error ? reject(guardFailed(error)) : resolve()));
    });
  }

  #startShell(): ChildProcess {
    const shell = spawn("/bin/sh", ["-c", GUARD_PROGRAM, "dynamos-guard"], {
      detached: true,
      stdio: ["pipe", "ignore", "ignore"],
      env: {},
      cwd: "/",
    });
    // The write that fails is rejected by itself, and the exit below replaces the guard; without a listener the
    // stream's error event would end the agent.
    shell.stdin.on("error", () => undefined);
    shell.once("error", (error) => this.#replaceShell(shell, error));
    shell.once("exit", () => this.#replaceShell(shell));
    return shell;
  }

  #replaceShell(ended: ChildProcess, cause?: Error): void {
    if (this.#shell !== ended || this.#isClosed) return;
    this.#shell = undefined;
    this.#report(guardFailed(cause));
    setTimeout(() => this.#restart(), RESTART_AFTER_MS).unref();
  }

  #restart(): void {
    if (this.#isClosed || this.#groups.size === 0 || this.#shell !== undefined) return;
    const groups = [...this.#groups];
    this.add(groups).catch((error: unknown) => this.#report(guardFailed(error)));
  }
}

function guardFailed(cause: unknown): AppError {
  const reason = cause instanceof Error ? `: ${cause.message}` : "";
  return new AppError("job_start_failed", `The process that guards the chains' processes ended${reason}.`, { cause });
}
