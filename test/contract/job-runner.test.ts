/** Runs the job runners' contract for local processes. */
import assert from "node:assert/strict";
import { after } from "node:test";
import { systemClock } from "../../lib/clock.ts";
import type { AppError } from "../../lib/errors.ts";
import { openLocalJobRunner } from "../../lib/jobs/local.ts";
import { assertNoProcessLeft, processesWith } from "../support/leaks.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { jobRunnerContract } from "./job-runner.contract.ts";

const stateFolder = await temporaryFolder();
const reported: AppError[] = [];
after(async () => {
  await assertNoProcessLeft(stateFolder);
  assert.deepEqual(reported, []);
});

jobRunnerContract("local processes", async () => ({
  steward: "VU",
  open: () =>
    openLocalJobRunner({
      stateFolder,
      steward: "VU",
      clock: systemClock,
      environment: process.env,
      report: (error) => void reported.push(error),
    }),
  container: (name, program) => ({
    name,
    command: [process.execPath, "--input-type=module", "-e", program],
    environment: {},
    memoryLimitBytes: 512 * 1024 ** 2,
  }),
  missing: (name) => ({ name, command: ["/no/such/program"], environment: {}, memoryLimitBytes: 1 }),
  isRunning: async (jobName) => (await processesWith(`/VU/${jobName}/`)).length > 0,
}));
