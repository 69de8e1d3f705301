import assert from "node:assert/strict";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { systemClock } from "../../../lib/clock.ts";
import {
  DEFAULT_JOBS_FILE,
  openJobRunner,
  parseJobRunnerSetting,
  type JobRunnerContext,
} from "../../../lib/jobs/open.ts";
import { DONE } from "../../support/job-programs.ts";
import { jobOf, untilEnd } from "../../support/local-jobs.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

const context: JobRunnerContext = {
  steward: "VU",
  clock: systemClock,
  environment: { PATH: process.env["PATH"] },
  report: (error) => assert.fail(error),
};

test("local:<folder> opens the runner of this machine", async () => {
  const setting = parseJobRunnerSetting(`local:${await temporaryFolder()}`);
  const runner = await openJobRunner(setting, context);
  const spec = jobOf(DONE, [DONE]);
  await runner.start(spec);
  assert.equal((await untilEnd(runner, spec.name)).phase, "succeeded");
  await runner.close();
});

test("kubernetes:<file> is the cluster's runner; without a file, it is where the agent's chart puts it", () => {
  assert.deepEqual(parseJobRunnerSetting("kubernetes:/etc/jobs.json"), { kind: "kubernetes", file: "/etc/jobs.json" });
  assert.deepEqual(parseJobRunnerSetting("kubernetes"), { kind: "kubernetes", file: DEFAULT_JOBS_FILE });
});

test("kubernetes needs its jobs file, and says which setting of it is wrong", async () => {
  const file = join(await temporaryFolder(), "jobs.json");
  const setting = parseJobRunnerSetting(`kubernetes:${file}`);
  const isRefused = { code: "configuration_invalid", message: /jobs\.json/ };
  await assert.rejects(openJobRunner(setting, context), isRefused);
  await writeFile(file, JSON.stringify({ image: "dynamos", scratch: "much", mount: {} }));
  await assert.rejects(openJobRunner(setting, context), {
    ...isRefused,
    message: /\/scratch.*\/mount|\/mount.*\/scratch/,
  });
});

test("another setting is refused with the ones that exist", () => {
  for (const text of ["", "local", "local:", "docker:here"]) {
    assert.throws(() => parseJobRunnerSetting(text), { code: "configuration_invalid", message: /local:<folder>/ });
  }
});
