import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { test } from "node:test";
import { assertNoProcessLeft, processesWith } from "./leaks.ts";

for (const [where, start] of [
  ["command line", (marker: string) => spawn("sh", ["-c", "read wait", marker])],
  ["environment", (marker: string) => spawn("sleep", ["60"], { env: { PATH: process.env["PATH"], MARKER: marker } })],
] as const) {
  test(`a process that has the marker in its ${where} is found while it lives`, async (t) => {
    const marker = `marker-${randomUUID()}`;
    const left = start(marker);
    t.after(() => left.kill("SIGKILL"));
    await once(left, "spawn");
    assert.deepEqual(
      (await processesWith(marker)).map(({ pid }) => pid),
      [left.pid],
    );
    await assert.rejects(assertNoProcessLeft(marker, 100), /no process with marker/);
    left.kill("SIGKILL");
    await assertNoProcessLeft(marker);
  });
}
