/** `dynamos up` as its users run it: a child process that is ready when it has said how to ask, and ends on SIGINT. */
import { spawn } from "node:child_process";
import { join } from "node:path";
import { packageRoot } from "../../lib/package-root.ts";
import type { CommandResult } from "./command.ts";

/** An exchange that runs in a terminal. */
export interface RunningUp {
  /** Base URL of its front door. */
  readonly url: string;
  /** What it has printed so far. */
  printed(): string;
  /** As Ctrl-C does; resolves when it has ended. */
  interrupt(): Promise<CommandResult>;
}

const FRONT_DOOR = /Front door: (http:\/\/\S+)/;

/** Starts `dynamos up` in a folder, on a free port; fails with what it printed when it ends before it is ready. */
export function startUp(folder: string, ...args: readonly string[]): Promise<RunningUp> {
  return startUpFrom(packageRoot, folder, ...args);
}

/** The same with the program of another checkout. */
export function startUpFrom(root: string, folder: string, ...args: readonly string[]): Promise<RunningUp> {
  const child = spawn(process.execPath, [join(root, "dist/cli/main.js"), "up", "--port", "0", ...args], {
    cwd: folder,
    stdio: ["ignore", "pipe", "pipe"],
    timeout: 240_000,
    killSignal: "SIGKILL",
  });
  let [stdout, stderr] = ["", ""];
  child.stderr.on("data", (bytes: Buffer) => (stderr += bytes.toString()));
  const ended = new Promise<CommandResult>((resolve) => {
    child.once("close", (code) => resolve({ code, stdout, stderr }));
  });
  return new Promise((resolve, reject) => {
    void ended.then(({ code }) => reject(new Error(`It ended with ${String(code)}:\n${stdout}\n${stderr}`)));
    child.stdout.on("data", (bytes: Buffer) => {
      stdout += bytes.toString();
      const url = FRONT_DOOR.exec(stdout)?.[1];
      if (url === undefined || !stdout.includes("Stop with Ctrl-C")) return;
      resolve({
        url,
        printed: () => stdout,
        interrupt: () => {
          child.kill("SIGINT");
          return ended;
        },
      });
    });
  });
}
