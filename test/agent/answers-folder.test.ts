import assert from "node:assert/strict";
import { mkdir, readdir, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { AnswersFolder } from "../../agent/answers-folder.ts";
import { systemClock } from "../../lib/clock.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const report = (error: unknown): never => assert.fail(String(error));

test("replicas that share the folder keep each other's answers, and take away only their own", async () => {
  const shared = join(await temporaryFolder(), "answers");
  const first = await AnswersFolder.open({ shared, instance: "a", clock: systemClock, report });
  await writeFile(join(first.path, "answer"), "rows");
  const second = await AnswersFolder.open({ shared, instance: "b", clock: systemClock, report });
  assert.deepEqual(await readdir(first.path), ["answer"]);
  await second.close();
  assert.deepEqual(await readdir(shared), ["a"]);
  await first.close();
  assert.deepEqual(await readdir(shared), []);
});

test("what a process that died left behind is removed when it was not touched for long", async () => {
  const shared = join(await temporaryFolder(), "answers");
  for (const [name, minutes] of [
    ["dead", 60],
    ["resting", 5],
  ] as const) {
    await mkdir(join(shared, name), { recursive: true });
    await writeFile(join(shared, name, "answer"), "rows");
    const touched = new Date(systemClock.now() - minutes * 60_000);
    await utimes(join(shared, name), touched, touched);
  }
  const folder = await AnswersFolder.open({ shared, instance: "new", clock: systemClock, report });
  assert.deepEqual((await readdir(shared)).sort(), ["new", "resting"]);
  await folder.close();
});
