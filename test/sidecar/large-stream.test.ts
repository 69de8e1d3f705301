/** A stream far larger than any process may hold. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { inspect } from "node:util";
import { TestChain } from "../support/chain.ts";
import { eventually } from "../support/eventually.ts";

const MIB = 1024 * 1024;

/** Resident memory of a process in bytes; 0 when it has ended. */
function residentBytes(pid: number): number {
  try {
    return Number(/VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? 0) * 1024;
  } catch {
    return 0;
  }
}

test(
  "200 MB go through a chain of three without any process growing with them",
  { skip: process.platform === "linux" ? false : "memory of other processes is read from /proc" },
  async (t) => {
    const chain = await TestChain.start({
      programs: [
        {
          program: "test/sdk/programs/source",
          environment: { TEST_BATCHES: "800", TEST_ROWS_PER_BATCH: "32768", TEST_REPEAT_FIRST: "true" },
        },
        { program: "test/sdk/programs/pass" },
        { program: "test/sdk/programs/pass" },
      ],
    });
    t.after(() => chain.stop());
    chain.keepsData = false;
    await chain.request({ credits: 8, deadlineMs: BigInt(Date.now() + 120_000) });
    const peaks = chain.processes.map(() => 0);
    await eventually(
      () => {
        for (const [index, { pid }] of chain.processes.entries()) {
          peaks[index] = Math.max(peaks[index] ?? 0, residentBytes(pid ?? 0));
        }
        return chain.reports.some(({ state }) => state.case !== "handingOn");
      },
      { timeoutMs: 120_000, intervalMs: 10 },
    );
    const outcome = await chain.outcome();
    assert.ok(outcome.case === "ended", inspect(outcome));
    assert.equal(outcome.value.rows, 800n * 32_768n);
    const chunks = chain.frames.filter(({ body }) => body.case === "chunk").length;
    assert.ok(chunks >= 800);
    for (const peak of peaks)
      assert.ok(peak < 200 * MIB, `peaks in MiB: ${peaks.map((bytes) => Math.round(bytes / MIB)).join()}`);
    t.diagnostic(`peaks in MiB: ${peaks.map((bytes) => Math.round(bytes / MIB)).join()}`);
  },
);
