import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { test } from "node:test";
import { promisify } from "node:util";
import { DEFAULT_QUERY_LIMITS } from "../../../microservices/sql-query/query-protocol.ts";
import { limitedCommand } from "../../../microservices/sql-query/system-limits.ts";

const limits = { ...DEFAULT_QUERY_LIMITS, memoryBytes: 64 * 1024 * 1024, temporaryBytes: 512 * 1000, timeMs: 5000 };

/** What the limits are in a process that was started under them: files in blocks, processor time in seconds, memory in KiB. */
async function limitsOn(platform: NodeJS.Platform): Promise<string[]> {
  const show = ["/bin/sh", "-c", "ulimit -f; ulimit -t; ulimit -c; ulimit -d"];
  const [program = "", ...args] = limitedCommand(platform, limits, 3, show);
  const { stdout, stderr } = await promisify(execFile)(program, args);
  assert.equal(stderr, "");
  return stdout.trim().split("\n");
}

test("on Linux size of files, processor time (of three queries), core dumps and mapped memory are limited", async () => {
  assert.deepEqual(await limitsOn("linux"), ["1001", "60", "0", String((64 + 192) * 1024)]);
});

for (const platform of ["darwin", "freebsd"] as const) {
  test(`on ${platform} size of files, processor time and core dumps are limited`, async () => {
    assert.deepEqual((await limitsOn(platform)).slice(0, 3), ["1001", "60", "0"]);
  });
}

test("on Windows, which has no such shell, the process is started as it is", () => {
  assert.deepEqual(limitedCommand("win32", limits, 3, ["node", "program"]), ["node", "program"]);
});
