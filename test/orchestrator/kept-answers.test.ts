import assert from "node:assert/strict";
import { readdir, stat, utimes } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { systemClock } from "../../lib/clock.ts";
import { AppError } from "../../lib/errors.ts";
import { createLogger } from "../../lib/telemetry/logger.ts";
import { KeptAnswers, type KeptAnswer } from "../../orchestrator/kept-answers.ts";
import { eventually } from "../support/eventually.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const logger = createLogger("test", {}, "silent");
const LIMITS = { maxBytes: 1000, maxTotalBytes: 100_000, keepMs: 60_000, maxRunning: 2 };
const open = (folder: string, changes = {}) =>
  KeptAnswers.open({ folder, ...LIMITS, clock: systemClock, logger, ...changes });
const named = (requestId: string, { userName = "ada", fingerprint = "f" } = {}) => ({
  userName,
  requestId,
  fingerprint,
});

async function* pieces(...texts: readonly string[]): AsyncGenerator<string> {
  yield* texts;
}

async function* failing(error: AppError): AsyncGenerator<string> {
  yield "{";
  throw error;
}

/** Runs until it is aborted. */
async function* endless(signal: AbortSignal): AsyncGenerator<string> {
  yield "{";
  signal.throwIfAborted();
  await new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason as Error)));
}

async function ended(
  answers: KeptAnswers,
  id: string,
  user = "ada",
): Promise<Exclude<KeptAnswer, { state: "running" }>> {
  return eventually(async () => {
    const answer = await answers.find(user, id);
    return answer?.state === "running" ? undefined : answer;
  });
}

async function textOf(answers: KeptAnswers, id: string, user = "ada"): Promise<string> {
  const found = await ended(answers, id, user);
  assert.equal(found.state, "done");
  let text = "";
  for await (const piece of found.body as AsyncIterable<Buffer>) text += piece.toString("utf8");
  assert.equal(Buffer.byteLength(text), found.bytes);
  return text;
}

async function codeOf(answers: KeptAnswers, id: string): Promise<string> {
  const found = await ended(answers, id);
  if (found.state === "done") found.body.destroy();
  return found.state === "failed" ? found.error.code : found.state;
}

async function isThere(answers: KeptAnswers, id: string): Promise<boolean> {
  const found = await answers.find("ada", id);
  if (found?.state === "done") found.body.destroy();
  return found !== undefined;
}

test("an answer is kept for its user alone, also for a replica on the same folder, and nothing in the folder names the user", async () => {
  const folder = await temporaryFolder();
  const answers = await open(folder);
  await answers.start(named("1", { userName: "ada@example.org" }), () => pieces("{", "}"));
  assert.equal(await textOf(answers, "1", "ada@example.org"), "{}");
  assert.equal(await textOf(await open(folder), "1", "ada@example.org"), "{}");
  assert.equal(await answers.find("eve@example.org", "1"), undefined);
  assert.ok((await readdir(folder)).every((name) => !name.includes("ada")));
});

test("one that grows beyond the limit becomes a failure that names the setting, and no part of it is kept", async () => {
  const folder = await temporaryFolder();
  const answers = await open(folder);
  await answers.start(named("1"), () => pieces("x".repeat(600), "x".repeat(600)));
  const found = await ended(answers, "1");
  assert.ok(found.state === "failed");
  assert.equal(found.error.code, "result_too_large");
  assert.match(found.error.message, /DYNAMOS_MAX_KEPT_ANSWER_BYTES/);
  assert.deepEqual(
    (await readdir(folder)).filter((name) => !name.endsWith(".failure")),
    [],
  );
});

test("more than the limit at once are refused, and removing one ends it", async () => {
  const answers = await open(await temporaryFolder());
  await answers.start(named("1"), endless);
  await answers.start(named("2"), endless);
  await assert.rejects(answers.start(named("3"), endless), { code: "rate_limited" });
  assert.equal(await answers.remove("ada", "1", new AppError("cancelled", "No more.")), true);
  assert.equal(await answers.find("ada", "1"), undefined);
  await answers.start(named("3"), endless);
  await answers.close();
  assert.equal(await codeOf(answers, "2"), "unavailable");
});

test("what is too old goes", async () => {
  const folder = await temporaryFolder();
  const answers = await open(folder);
  await answers.start(named("1"), () => pieces("{}"));
  await textOf(answers, "1");
  const longAgo = new Date(systemClock.now() - 61_000);
  for (const name of await readdir(folder)) await utimes(join(folder, name), longAgo, longAgo);
  await open(folder);
  assert.deepEqual(await readdir(folder), []);
});

test("a repeat after a failure that may pass tries again; after one that stays it is answered with that", async () => {
  const answers = await open(await temporaryFolder());
  await answers.start(named("passing"), () => failing(new AppError("agent_offline", "Not now.")));
  assert.equal(await codeOf(answers, "passing"), "agent_offline");
  await answers.start(named("passing"), () => pieces("{}"));
  assert.equal(await textOf(answers, "passing"), "{}");

  await answers.start(named("lasting"), () => failing(new AppError("query_invalid", "No.")));
  assert.equal(await codeOf(answers, "lasting"), "query_invalid");
  await answers.start(named("lasting"), () => pieces("{}"));
  assert.equal(await codeOf(answers, "lasting"), "query_invalid");
});

test("of repeats at the same moment one runs, and one after the end runs nothing", async () => {
  const answers = await open(await temporaryFolder());
  let runs = 0;
  const produce = () => {
    runs++;
    return pieces("{}");
  };
  await Promise.all([1, 2, 3].map(() => answers.start(named("1"), produce)));
  await textOf(answers, "1");
  await answers.start(named("1"), produce);
  assert.equal(runs, 1);
});

test("another question under the name of one that runs, or is kept, is refused", async () => {
  const answers = await open(await temporaryFolder());
  const reused = { code: "idempotency_key_reused" };
  await answers.start(named("running"), endless);
  await assert.rejects(answers.start(named("running", { fingerprint: "other" }), endless), reused);
  await answers.start(named("done"), () => pieces("{}"));
  await textOf(answers, "done");
  await assert.rejects(answers.start(named("done", { fingerprint: "other" }), endless), reused);
  await answers.start(named("failed"), () => failing(new AppError("agent_offline", "Not now.")));
  await codeOf(answers, "failed");
  await assert.rejects(answers.start(named("failed", { fingerprint: "other" }), endless), reused);
  await answers.close();
});

test("all together stay below their limit: the ones that ended first make room, and what has none says so", async () => {
  const folder = await temporaryFolder();
  const maxTotalBytes = 3000;
  const answers = await open(folder, { maxTotalBytes });
  const sizes = async () =>
    Promise.all((await readdir(folder)).map(async (name) => (await stat(join(folder, name))).size));
  for (let index = 1; index <= 6; index++) {
    await answers.start(named(String(index)), () => pieces("x".repeat(450), "x".repeat(450)));
    assert.equal(await codeOf(answers, String(index)), "done");
    assert.ok((await sizes()).reduce((sum, size) => sum + size) <= maxTotalBytes);
    // The order of their ends is told by the files' times, which this makes sure of.
    for (const name of await readdir(folder)) {
      const { mtimeMs } = await stat(join(folder, name));
      await utimes(join(folder, name), new Date(mtimeMs - 1000), new Date(mtimeMs - 1000));
    }
  }
  const left = await Promise.all([1, 2, 3, 4, 5, 6].map((index) => isThere(answers, String(index))));
  assert.deepEqual(left, [false, false, false, true, true, true]);

  const narrow = await open(await temporaryFolder(), { maxTotalBytes: 500 });
  await narrow.start(named("1"), () => pieces("x".repeat(900)));
  const failed = await ended(narrow, "1");
  assert.ok(failed.state === "failed");
  assert.match(failed.error.message, /DYNAMOS_KEPT_ANSWERS_TOTAL_BYTES/);
});
