import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { test } from "node:test";
import { liveness, ownProcess, type ProcessIdentity } from "../../../lib/bus/embedded-process.ts";
import { DeadInstances } from "../../../lib/bus/embedded-recovery.ts";
import { eventually } from "../../support/eventually.ts";

const self = ownProcess();
const onLinux = process.platform === "linux";

test("this process is seen to live, and one that ended is seen to be gone", async () => {
  assert.equal(liveness(self, self), "alive");
  const child = spawn(process.execPath, ["-e", ""]);
  const pid = child.pid as number;
  await once(child, "exit");
  assert.equal(liveness({ ...self, pid, started: onLinux ? "1" : "" }, self), "gone");
});

test("a later process with the same number is not the one that was", { skip: !onLinux && "needs /proc" }, () => {
  assert.equal(liveness({ ...self, started: "1" }, self), "gone");
});

test("a process that ended but was not yet reaped is gone", { skip: !onLinux && "needs /proc" }, async () => {
  const parent = spawn("sh", ["-c", "sleep 0 & echo $!; exec sleep 60"], { stdio: ["ignore", "pipe", "ignore"] });
  const [line] = (await once(parent.stdout, "data")) as [Buffer];
  const zombie: ProcessIdentity = { ...self, pid: Number(line.toString()) };
  // Its start time is read where the system has it, so that only its state tells.
  const { readFileSync } = await import("node:fs");
  const stat = (): string => readFileSync(`/proc/${zombie.pid}/stat`, "utf8");
  await eventually(() => stat().includes(") Z "), { describe: "the process to become a zombie" });
  const started = stat().split(") ")[1]?.split(" ")[19] ?? "";
  assert.equal(liveness({ ...zombie, started }, self), "gone");
  parent.kill();
  await once(parent, "exit");
});

test(
  "a process of an earlier boot is gone, one of another process namespace unknown",
  { skip: !onLinux && "needs /proc" },
  () => {
    const [boot] = self.host.split("/");
    assert.equal(liveness({ ...self, host: "00000000-0000/pid:[1]" }, self), "gone");
    assert.equal(liveness({ ...self, host: `${boot}/pid:[1]` }, self), "unknown");
  },
);

test("silence kills an unseen instance after nine sweeps, a living one after thirty, a beating one never", () => {
  const unseen = { id: 1, ...self, host: `${self.host.split("/")[0]}/elsewhere`, beat: 0 };
  const living = { id: 2, ...self, beat: 0 };
  const deadInstances = new DeadInstances(self);
  const deadAt = new Map<number, number>();
  for (let sweep = 0; sweep <= 40; sweep += 1) {
    const beating = { ...unseen, id: 3, beat: sweep };
    for (const id of deadInstances.among([unseen, living, beating, { ...living, id: 4 }], 4)) {
      if (!deadAt.has(id)) deadAt.set(id, sweep);
    }
  }
  assert.deepEqual(
    [...deadAt],
    [
      [1, 9],
      [2, 30],
    ],
  );
});
