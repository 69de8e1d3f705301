/** When another connection's writes to a shared SQLite file are looked for. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import Database from "better-sqlite3";
import { WriteSigns } from "../../lib/write-signs.ts";
import { eventually } from "../support/eventually.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

/** Without a find they grow by half, and are some fifteen. */
const FEW_LOOKS = 11;

/** Two connections to one file, and the looks of the second for the first one's writes. */
async function sharedFile(context: TestContext, options: { readonly log?: string; readonly paceMs?: number } = {}) {
  const path = join(await temporaryFolder(), "shared.sqlite");
  const writer = new Database(path);
  writer.pragma("journal_mode = WAL");
  writer.exec("CREATE TABLE t (n)");
  const reader = new Database(path);
  const looks: number[] = [];
  let version: unknown;
  const signs = new WriteSigns({
    path: options.log ?? path,
    paceMs: options.paceMs ?? 20,
    calmMs: 5,
    wroteAtMs: () => -Infinity,
    look: () => {
      const before = version;
      version = reader.pragma("data_version", { simple: true });
      if (before !== version) looks.push(performance.now());
      return { isNew: before !== version };
    },
  });
  context.after(() => {
    signs.stop();
    reader.close();
    writer.close();
  });
  return { path, signs, looks, write: () => writer.exec("INSERT INTO t VALUES (1)") };
}

test("a write is found long before the next look at rest, each time anew", async (context) => {
  const { signs, looks, write } = await sharedFile(context);
  signs.start();
  const delays: number[] = [];
  for (let round = 1; round <= 9; round += 1) {
    // At rest the looks are half a second apart, so a find within a fraction of that is the sign's.
    await new Promise((resolve) => setTimeout(resolve, 50));
    const found = looks.length;
    const writtenAt = performance.now();
    write();
    await eventually(() => looks.length > found, { intervalMs: 1 });
    delays.push((looks.at(-1) ?? Infinity) - writtenAt);
  }
  const median = delays.sort((a, b) => a - b)[4] ?? Infinity;
  assert.ok(median < 50, `${median.toFixed(1)} ms`);
});

test("where nobody writes there are few looks", async (context) => {
  const path = join(await temporaryFolder(), "quiet.sqlite");
  const quiet = new Database(path);
  quiet.pragma("journal_mode = WAL");
  quiet.exec("CREATE TABLE t (n)");
  let looks = 0;
  const signs = new WriteSigns({
    path,
    paceMs: 1,
    calmMs: 1,
    wroteAtMs: () => -Infinity,
    look: () => {
      looks += 1;
      return { isNew: false };
    },
  });
  context.after(() => {
    signs.stop();
    quiet.close();
  });
  const startedAt = performance.now();
  signs.start();
  await eventually(() => performance.now() - startedAt > 1500, { describe: "a second and a half to pass" });
  // Some fifteen in the first half second, where a write may still be to come; then one every half second.
  assert.ok(looks <= 22, `${String(looks)} looks`);
});

test("a write that was found, or was this process's own, is followed by few looks", async (context) => {
  const path = join(await temporaryFolder(), "few.sqlite");
  const [writer, reader] = [new Database(path), new Database(path)];
  writer.pragma("journal_mode = WAL");
  writer.exec("CREATE TABLE t (n)");
  const wrote = { atMs: -Infinity };
  const looks: number[] = [];
  let version: unknown;
  const signs = new WriteSigns({
    path,
    paceMs: 20,
    calmMs: 1,
    wroteAtMs: () => wrote.atMs,
    look: () => {
      looks.push(performance.now());
      const before = version;
      version = reader.pragma("data_version", { simple: true });
      return { isNew: before !== version };
    },
  });
  context.after(() => {
    signs.stop();
    for (const connection of [reader, writer]) connection.close();
  });
  signs.start();
  const isAtRest = (): boolean => (looks.at(-1) ?? Infinity) - (looks.at(-2) ?? Infinity) > 400;
  for (const by of [writer, reader]) {
    let fewest = Infinity;
    // A notice that a busy machine brings late counts as one of another write, and is followed by more looks.
    for (let round = 0; round < 5 && fewest > FEW_LOOKS; round += 1) {
      await eventually(isAtRest, { describe: "the looks to be at rest" });
      const before = looks.length;
      by.exec("INSERT INTO t VALUES (1)");
      if (by === reader) wrote.atMs = performance.now();
      await eventually(() => looks.length > before + 1 && isAtRest(), { intervalMs: 5, describe: "rest again" });
      fewest = Math.min(fewest, looks.length - before);
    }
    assert.ok(fewest <= FEW_LOOKS, `${String(fewest)} looks`);
  }
});

test("where the log cannot be watched a write is found at the steady pace", async (context) => {
  const { signs, looks, write } = await sharedFile(context, { log: "/nowhere/at/all" });
  signs.start();
  for (let found = 1; found <= 5; found += 1) {
    write();
    await eventually(() => looks.length > found, { timeoutMs: 400, intervalMs: 5, describe: "the write to be found" });
  }
});

test("where notices never come they are given up for the steady pace", async (context) => {
  const { path: other } = await sharedFile(context);
  // The log that is watched is another file's.
  const { signs, looks, write } = await sharedFile(context, { log: other, paceMs: 5 });
  signs.start();
  for (let found = 1; found <= 4; found += 1) {
    write();
    await eventually(() => looks.length > found, { intervalMs: 5 });
  }
  const writtenAt = performance.now();
  const before = looks.length;
  for (let found = before; found < before + 5; found += 1) {
    write();
    await eventually(() => looks.length > found, { intervalMs: 1 });
  }
  assert.ok(performance.now() - writtenAt < 5 * 250, "five writes take less than five looks at rest");
});

test("what is due by time is looked at then, and nothing is looked at after the stop", async () => {
  let looks = 0;
  const signs = new WriteSigns({
    path: "/nowhere/at/all",
    paceMs: 60_000,
    calmMs: 1,
    wroteAtMs: () => -Infinity,
    look: () => {
      looks += 1;
      return { isNew: false, dueMs: 10 };
    },
  });
  signs.start();
  await eventually(() => looks > 10, { describe: "looks every ten milliseconds" });
  signs.stop();
  const atStop = looks;
  signs.lookNow();
  assert.equal(looks, atStop);
});
