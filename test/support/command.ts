/** The command line as its users run it: a child process of the built program. */
import { spawn } from "node:child_process";
import { join } from "node:path";
import { packageRoot } from "../../lib/package-root.ts";

/** What a command said. */
export interface CommandResult {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs `dynamos …`, and kills it after a minute. */
export function dynamos(...args: readonly string[]): Promise<CommandResult> {
  return runProgram("dist/cli/main.js", args, 60_000);
}

/** Runs a built program of the package, and kills it after a time. */
export function runProgram(path: string, args: readonly string[], timeoutMs: number): Promise<CommandResult> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [join(packageRoot, path), ...args], {
      stdio: ["ignore", "pipe", "pipe"],
      timeout: timeoutMs,
      killSignal: "SIGKILL",
    });
    let [stdout, stderr] = ["", ""];
    child.stdout.on("data", (bytes: Buffer) => (stdout += bytes.toString()));
    child.stderr.on("data", (bytes: Buffer) => (stderr += bytes.toString()));
    child.once("error", reject);
    child.once("close", (code) => resolve({ code, stdout, stderr }));
  });
}
