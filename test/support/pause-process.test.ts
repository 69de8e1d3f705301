import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, openSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { eventually } from "./eventually.ts";
import { pauseProcess, resumeProcess } from "./pause-process.ts";
import { temporaryFolder } from "./temporary-folder.ts";

// Threads that are always busy: the one that takes the signal must wait for its turn among them.
const BUSY = `
  const { Worker } = require("node:worker_threads");
  for (let i = 0; i < 8; i++) {
    new Worker(\`
      const { writeSync } = require("node:fs");
      const { workerData: file } = require("node:worker_threads");
      for (let count = 1n; ; count++) writeSync(file, new BigUint64Array([count]), 0, 8, 8 * ${"$"}{i});
    \`, { eval: true, workerData: 3 });
  }`;

test("a process that is paused does nothing from then on, until it is resumed", async (context) => {
  const path = join(await temporaryFolder(), "counts");
  const file = openSync(path, "w");
  const child = spawn(process.execPath, ["-e", BUSY], { stdio: ["ignore", "ignore", "inherit", file] });
  closeSync(file);
  context.after(() => child.kill("SIGKILL"));
  const counts = (): string => readFileSync(path).toString("hex");
  await eventually(() => readFileSync(path).length === 64, { describe: "all threads to be at work" });
  for (let round = 0; round < 20; round++) {
    await pauseProcess(child.pid!);
    const before = counts();
    await sleep(20);
    assert.equal(counts(), before, `in round ${String(round)}`);
    resumeProcess(child.pid!);
    await eventually(() => counts() !== before, { describe: "the process to go on" });
  }
});

test("a process that is not there cannot be paused", async () => {
  const child = spawn("true");
  await once(child, "exit");
  await assert.rejects(pauseProcess(child.pid!), { code: "ESRCH" });
});
