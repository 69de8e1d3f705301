import assert from "node:assert/strict";
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { LAUNCHER_NAME } from "../../../lib/jobs/job-ending.ts";
import { LAUNCHER, LAUNCHER_FOLDER } from "../../../lib/jobs/kubernetes-launcher.ts";
import { eventually } from "../../support/eventually.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

interface Launched {
  readonly process: ChildProcess;
  readonly output: () => string;
  readonly exit: Promise<number | null>;
}

function launch(folder: string, ...command: readonly string[]): Launched {
  const script = LAUNCHER.replaceAll(LAUNCHER_FOLDER, folder);
  const child = spawn("/bin/sh", ["-c", script, LAUNCHER_NAME, ...command], {
    stdio: ["ignore", "pipe", "pipe"],
    detached: true,
  });
  let output = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (data: Buffer) => (output += String(data)));
  const closed = once(child, "close");
  const exit = once(child, "exit").then(async ([code]) => {
    // As in a container: what its first process leaves is killed.
    killGroup(child.pid);
    await closed;
    return code as number | null;
  });
  return { process: child, output: () => output, exit };
}

function killGroup(pid: number | undefined): void {
  signal(-Number(pid), "SIGKILL");
}

function isAlive(pid: number): boolean {
  return signal(pid, 0);
}

/** Whether there was somebody to take it. */
function signal(pid: number, name: "SIGKILL" | 0): boolean {
  try {
    return process.kill(pid, name);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
    return false;
  }
}

const node = (program: string): readonly string[] => [process.execPath, "-e", program];

test("a program that failed ends the launcher with its code", async () => {
  assert.equal(await launch(await temporaryFolder(), ...node("process.exit(3)")).exit, 3);
});

test("a program that is done lets the launcher wait for the others, until it is told to end", async () => {
  const launched = launch(await temporaryFolder(), ...node("console.log(process.pid)"));
  await eventually(() => launched.output().includes("\n"));
  await eventually(() => !isAlive(Number(launched.output())));
  launched.process.kill("SIGTERM");
  assert.equal(await launched.exit, 0);
});

test("nobody has to tell it: after a while it ends by itself", async () => {
  assert.equal(await launch(await temporaryFolder(), ...node("")).exit, 0);
});

test("a program that is told to end may take its time, and its code counts", async () => {
  const program = `
    process.on("SIGTERM", () => setTimeout(() => { console.log("published"); process.exit(4); }, 200));
    console.log("up");
    setInterval(() => {}, 1000);`;
  const launched = launch(await temporaryFolder(), ...node(program));
  await eventually(() => launched.output().includes("up"));
  launched.process.kill("SIGTERM");
  assert.equal(await launched.exit, 4);
  assert.match(launched.output(), /published/);
});

test("a second start runs nothing, and waits for its end", async () => {
  const folder = await temporaryFolder();
  const program = node('console.log("ran"); process.exit(5)');
  assert.equal(await launch(folder, ...program).exit, 5);
  assert.ok(existsSync(join(folder, "started")));
  const again = launch(folder, ...program);
  again.process.kill("SIGTERM");
  await again.exit;
  assert.equal(again.output(), "");
});

test("a program that is not there is told in the launcher's name", async () => {
  const launched = launch(await temporaryFolder(), "/no/such/program");
  assert.equal(await launched.exit, 127);
  assert.match(launched.output(), new RegExp(`^${LAUNCHER_NAME}:.*/no/such/program`, "m"));
});
