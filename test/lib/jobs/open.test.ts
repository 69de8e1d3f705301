import assert from "node:assert/strict";
import { test } from "node:test";
import { systemClock } from "../../../lib/clock.ts";
import { openJobRunner, parseJobRunnerSetting, type JobRunnerContext } from "../../../lib/jobs/open.ts";
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

test("kubernetes is understood, and said not to be there yet", async () => {
  const setting = parseJobRunnerSetting("kubernetes");
  await assert.rejects(openJobRunner(setting, context), { code: "configuration_invalid", message: /Kubernetes/ });
});

test("another setting is refused with the ones that exist", () => {
  for (const text of ["", "local", "local:", "docker:here"]) {
    assert.throws(() => parseJobRunnerSetting(text), { code: "configuration_invalid", message: /local:<folder>/ });
  }
});
