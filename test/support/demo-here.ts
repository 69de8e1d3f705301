/** The demo as a user plays it on one machine, on embedded store and bus. */
import { spawn } from "node:child_process";
import { join } from "node:path";
import { packageRoot } from "../../lib/package-root.ts";
import { temporaryFolder } from "./temporary-folder.ts";

const TIMEOUT_MS = 300_000;

/** What it told. */
export interface DemoHere {
  /** From its first question to the wage gap. */
  readonly story: string;
  /** Where its pictures are. */
  readonly outputFolder: string;
}

/** Plays `dynamos demo` in a folder of its own; fails unless all its answers are the known ones. */
export async function playDemoHere(): Promise<DemoHere> {
  const folder = await temporaryFolder();
  const child = spawn(process.execPath, [join(packageRoot, "dist", "cli", "main.js"), "demo"], {
    cwd: folder,
    stdio: ["ignore", "pipe", "pipe"],
    timeout: TIMEOUT_MS,
    killSignal: "SIGKILL",
  });
  let output = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding("utf8").on("data", (text: string) => (output += text));
  }
  const code = await new Promise((resolve) => child.once("close", resolve));
  const outputFolder = join(folder, ".dynamos", "demo-output");
  if (code !== 0) throw new Error(`The demo ended with ${String(code)}: ${output}`);
  const story = output.slice(output.indexOf("\n1. "), output.indexOf("\nAll answers are the known ones"));
  return { story, outputFolder };
}
