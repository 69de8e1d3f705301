/**
 * One container of a local job: a process in a session and process group of its own, so that it and all its
 * descendants can be killed together.
 *
 * It begins as a shell that waits at a gate, its standard input. Only when the agent has put the process on record and
 * under guard does it open the gate, and the shell becomes the container's program. An agent that dies in between closes
 * the pipe, and the shell ends: no program ever runs that nobody would kill.
 */
import { spawn, type ChildProcessByStdio } from "node:child_process";
import { once } from "node:events";
import { access, constants, stat } from "node:fs/promises";
import { delimiter, join } from "node:path";
import type { Readable, Writable } from "node:stream";
import type { Clock } from "../clock.ts";
import { AppError } from "../errors.ts";
import { LAUNCHER_NAME, type ContainerExit } from "./job-ending.ts";
import { keepLog } from "./local-log.ts";
import { identityOf, signalGroup, type ProcessIdentity } from "./local-processes.ts";

/** Both output streams become one, in the order of writing. The shell's own variables do not reach the program. */
const GATE_PROGRAM = 'read -r go || exit 1; unset go PWD OLDPWD SHLVL; exec "$@" </dev/null 2>&1';

/** Milliseconds that output may take to arrive after its writers are dead. */
const DRAIN_MS = 1_000;

/** What to run, and where. */
export interface LocalContainerOptions {
  readonly name: string;
  readonly command: readonly string[];
  readonly environment: Readonly<Record<string, string>>;
  readonly folder: string;
  readonly logPath: string;
  readonly maxLogBytes: number;
}

type LocalProcess = ChildProcessByStdio<Writable, Readable, null>;

/** See the file comment. */
export class LocalContainer {
  readonly name: string;
  readonly identity: ProcessIdentity;
  /** Resolves when the container's own process has ended; what was left in its group is killed by then. */
  readonly exited: Promise<ContainerExit>;
  readonly #process: LocalProcess;
  readonly #log: Promise<Error | undefined>;
  #hasExited = false;

  private constructor(options: LocalContainerOptions, process: LocalProcess, identity: ProcessIdentity, exit: Exit) {
    this.name = options.name;
    this.identity = identity;
    this.#process = process;
    this.#log = keepLog(process.stdout, options.logPath, options.maxLogBytes).then(
      () => undefined,
      (error: unknown) => (error instanceof Error ? error : new Error(String(error))),
    );
    this.exited = exit.then((how) => {
      // As in a container: its first process ends, and the rest of it is killed.
      signalGroup(identity.pid, "SIGKILL");
      this.#hasExited = true;
      return how;
    });
  }

  /** Starts it up to the gate. A program that is not there, or cannot be run: `job_start_failed`, not retryable. */
  static async launch(options: LocalContainerOptions): Promise<LocalContainer> {
    const program = await findProgram(options);
    const argv = ["-c", GATE_PROGRAM, LAUNCHER_NAME, program, ...options.command.slice(1)];
    const process: LocalProcess = spawn("/bin/sh", argv, {
      cwd: options.folder,
      env: { ...options.environment },
      detached: true,
      stdio: ["pipe", "pipe", "ignore"],
    });
    // It may be killed before the gate opens. `exited` tells; the pipe's own complaint adds nothing.
    process.stdin.on("error", () => undefined);
    const exit = whenExited(process);
    try {
      await once(process, "spawn");
    } catch (error) {
      throw new AppError("job_start_failed", `Container ${options.name} could not be started: ${String(error)}.`, {
        cause: error,
        details: { container: options.name },
      });
    }
    const pid = process.pid ?? 0;
    const identity = (await identityOf(pid)) ?? { pid, startedAt: "ended already" };
    return new LocalContainer(options, process, identity, exit);
  }

  /** Opens the gate: the program runs. */
  release(): void {
    this.#process.stdin.end("\n");
  }

  /** Signals the whole group; nothing when it has ended. */
  signal(signal: NodeJS.Signals): void {
    if (!this.#hasExited) signalGroup(this.identity.pid, signal);
  }

  /** After everything of it was killed: waits for its last output. Resolves with what was wrong with keeping it. */
  async drain(clock: Clock): Promise<Error | undefined> {
    const stop = new AbortController();
    const tooLate = clock.sleep(DRAIN_MS, stop.signal).then(
      () => void this.#process.stdout.destroy(),
      () => undefined,
    );
    const problem = await this.#log;
    stop.abort();
    await tooLate;
    return problem;
  }
}

type Exit = Promise<ContainerExit>;

function whenExited(process: LocalProcess): Exit {
  return new Promise((resolve) => {
    process.once("exit", (exitCode, signal) =>
      resolve({ ...(exitCode === null ? {} : { exitCode }), ...(signal ? { signal } : {}) }),
    );
  });
}

/** The program's path, looked up as execvp(3) does; known to be there before anything starts. */
async function findProgram({ name, command, environment }: LocalContainerOptions): Promise<string> {
  const program = command[0] ?? "";
  const folders = program.includes("/") ? [""] : (environment["PATH"] ?? "").split(delimiter);
  for (const folder of folders) {
    const path = folder === "" ? program : join(folder, program);
    if (await isExecutable(path)) return path;
  }
  throw new AppError("job_start_failed", `Container ${name}: there is no program ${JSON.stringify(program)}.`, {
    retryable: false,
    details: { container: name, program },
  });
}

async function isExecutable(path: string): Promise<boolean> {
  try {
    await access(path, constants.X_OK);
    return (await stat(path)).isFile();
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === "ENOENT" || code === "EACCES" || code === "ENOTDIR") return false;
    throw error;
  }
}
