import assert from "node:assert/strict";
import { readdir, utimes } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { systemClock } from "../../lib/clock.ts";
import { AppError } from "../../lib/errors.ts";
import { createLogger } from "../../lib/telemetry/logger.ts";
import { KeptAnswers } from "../../orchestrator/kept-answers.ts";
import { eventually } from "../support/eventually.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const logger = createLogger("test", {}, "silent");
const open = (folder: string, changes = {}) =>
  KeptAnswers.open({ folder, maxBytes: 1000, keepMs: 60_000, maxRunning: 2, clock: systemClock, logger, ...changes });

async function* pieces(...texts: readonly string[]): AsyncGenerator<string> {
  yield* texts;
}

/** Runs until it is aborted. */
async function* endless(signal: AbortSignal): AsyncGenerator<string> {
  yield "{";
  signal.throwIfAborted();
  await new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason as Error)));
}

async function textOf(answers: KeptAnswers, user: string, id: string): Promise<string> {
  const found = await eventually(async () => {
    const answer = await answers.find(user, id);
    return answer?.state === "done" ? answer : undefined;
  });
  let text = "";
  for await (const piece of found.body as AsyncIterable<Buffer>) text += piece.toString("utf8");
  return text;
}

test("an answer is kept for its user alone, also for a replica on the same folder, and nothing in the folder names the user", async () => {
  const folder = await temporaryFolder();
  const answers = await open(folder);
  answers.start("ada@example.org", "1", () => pieces("{", "}"));
  assert.equal(await textOf(answers, "ada@example.org", "1"), "{}");
  assert.equal(await textOf(await open(folder), "ada@example.org", "1"), "{}");
  assert.equal(await answers.find("eve@example.org", "1"), undefined);
  assert.ok((await readdir(folder)).every((name) => !name.includes("ada")));
});

test("one that grows beyond the limit becomes a failure that names the setting, and no part of it is kept", async () => {
  const folder = await temporaryFolder();
  const answers = await open(folder);
  answers.start("ada", "1", () => pieces("x".repeat(600), "x".repeat(600)));
  const found = await eventually(async () => {
    const answer = await answers.find("ada", "1");
    return answer?.state === "failed" ? answer : undefined;
  });
  assert.equal(found.error.code, "result_too_large");
  assert.match(found.error.message, /DYNAMOS_MAX_KEPT_ANSWER_BYTES/);
  assert.deepEqual(
    (await readdir(folder)).filter((name) => !name.endsWith(".failure")),
    [],
  );
});

test("more than the limit at once are refused, and removing one ends it", async () => {
  const answers = await open(await temporaryFolder());
  answers.start("ada", "1", endless);
  answers.start("ada", "2", endless);
  assert.throws(() => answers.start("ada", "3", endless), { code: "rate_limited" });
  assert.equal(await answers.remove("ada", "1", new AppError("cancelled", "No more.")), true);
  assert.equal(await answers.find("ada", "1"), undefined);
  answers.start("ada", "3", endless);
  await answers.close();
  const stopped = await answers.find("ada", "2");
  assert.equal(stopped?.state === "failed" && stopped.error.code, "unavailable");
});

test("what is too old goes", async () => {
  const folder = await temporaryFolder();
  const answers = await open(folder);
  answers.start("ada", "1", () => pieces("{}"));
  await textOf(answers, "ada", "1");
  const longAgo = new Date(systemClock.now() - 61_000);
  for (const name of await readdir(folder)) await utimes(join(folder, name), longAgo, longAgo);
  await open(folder);
  assert.deepEqual(await readdir(folder), []);
});
