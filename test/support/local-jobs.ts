/** Opens local job runners for tests, and makes their jobs from small JavaScript programs. */
import { randomUUID } from "node:crypto";
import type { TestContext } from "node:test";
import { systemClock } from "../../lib/clock.ts";
import type { AppError } from "../../lib/errors.ts";
import type { ContainerSpec, JobRunner, JobSpec, JobStatus } from "../../lib/jobs/job-runner.ts";
import { openLocalJobRunner, type LocalJobRunnerOptions } from "../../lib/jobs/local.ts";
import { assertNoProcessLeft } from "./leaks.ts";
import { temporaryFolder } from "./temporary-folder.ts";

/** A runner for one test, the folder of its state, and what it reported. */
export interface LocalJobsUnderTest {
  readonly runner: JobRunner;
  readonly stateFolder: string;
  readonly reported: readonly AppError[];
}

/** Opens a runner for steward VU; after the test it is closed, and no process of it may be left. */
export async function openForTest(
  context: TestContext,
  options: Partial<LocalJobRunnerOptions> = {},
): Promise<LocalJobsUnderTest> {
  const stateFolder = options.stateFolder ?? (await temporaryFolder());
  const reported: AppError[] = [];
  const runner = await openLocalJobRunner({
    stateFolder,
    steward: "VU",
    clock: systemClock,
    environment: { PATH: process.env["PATH"] },
    report: (error) => void reported.push(error),
    ...options,
  });
  context.after(async () => {
    await runner.close();
    await assertNoProcessLeft(stateFolder);
  });
  return { runner, stateFolder, reported };
}

/** A JavaScript program as a container with a generous memory limit. */
export function nodeContainer(name: string, program: string): ContainerSpec {
  return {
    name,
    command: [process.execPath, "--input-type=module", "-e", program],
    environment: {},
    memoryLimitBytes: 512 * 1024 ** 2,
  };
}

/** A job of steward VU, one microservice `service-<i>` per program. */
export function jobOf(sidecar: string, microservices: readonly string[], changes: Partial<JobSpec> = {}): JobSpec {
  return {
    name: `job-${randomUUID().slice(0, 13)}`,
    steward: "VU",
    microservices: microservices.map((program, index) => nodeContainer(`service-${String(index)}`, program)),
    sidecar: nodeContainer("sidecar", sidecar),
    deadlineMs: Date.now() + 120_000,
    labels: {},
    chain: { jobName: "jan-0a1b2c3d", role: "all", dataProviderCount: 2 },
    ...changes,
  };
}

/** Waits for a job's end. */
export async function untilEnd(runner: JobRunner, name: string): Promise<JobStatus> {
  let last: JobStatus = { name, phase: "starting" };
  for await (const status of runner.watch(name)) last = status;
  return last;
}
