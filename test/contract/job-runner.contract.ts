/**
 * What every job runner does: each sentence of `lib/jobs/job-runner.ts`, and the awkward cases.
 *
 * Containers are small JavaScript programs: a local runner spawns Node with them, a cluster runs them in an image that
 * has Node. What a container was given it tells by its output, which comes back through `logs`.
 */
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { isErrorCode, type ErrorCode, AppError } from "../../lib/errors.ts";
import type { ContainerSpec, JobRunner, JobSpec, JobStatus } from "../../lib/jobs/job-runner.ts";
import { eventually } from "../support/eventually.ts";
import { DONE, FOREVER, sidecarAwaiting, tellingSidecar } from "../support/job-programs.ts";

/** How one kind of runner is tried. */
export interface JobRunnerFixture {
  /** The steward that the runners work for. */
  readonly steward: string;
  /** Opens a runner on the one state that all of this fixture share: a second one is the agent's later life. */
  readonly open: () => Promise<JobRunner>;
  /** A JavaScript program (an ES module's text) as a container. */
  readonly container: (name: string, program: string) => ContainerSpec;
  /** A container whose program or image does not exist. */
  readonly missing: (name: string) => ContainerSpec;
  /** Whether anything of the job still runs. */
  readonly isRunning: (jobName: string) => Promise<boolean>;
}

const MIB = 1024 ** 2;
const PRINT_ENVIRONMENT = "console.log(JSON.stringify(process.env));";

/** Registers the suite. `setUp` is called once; what it opens it must close by itself when the process ends. */
export function jobRunnerContract(kind: string, setUp: () => Promise<JobRunnerFixture>): void {
  const fixture = setUp();

  /** A job of the given programs; `changes` replaces what a test is about. */
  async function jobOf(
    sidecar: string,
    microservices: readonly string[],
    changes: Partial<JobSpec> = {},
  ): Promise<JobSpec> {
    const { container, steward } = await fixture;
    return {
      name: `job-${randomUUID().slice(0, 13)}`,
      steward,
      microservices: microservices.map((program, index) => container(`service-${String(index)}`, program)),
      sidecar: container("sidecar", sidecar),
      deadlineMs: Date.now() + 120_000,
      labels: { test: "contract" },
      chain: { jobName: "jan-0a1b2c3d", role: "all", dataProviderCount: 2 },
      ...changes,
    };
  }

  async function withRunner(use: (runner: JobRunner) => Promise<void>): Promise<void> {
    const runner = await (await fixture).open();
    try {
      await use(runner);
    } finally {
      await runner.close();
    }
  }

  /** Starts it and waits for its end. */
  async function runToEnd(runner: JobRunner, spec: JobSpec): Promise<readonly JobStatus[]> {
    await runner.start(spec);
    return collect(runner.watch(spec.name));
  }

  async function failureOf(runner: JobRunner, spec: JobSpec): Promise<NonNullable<JobStatus["failure"]>> {
    const last = (await runToEnd(runner, spec)).at(-1);
    assert.equal(last?.phase, "failed");
    assert.ok(last.failure && isErrorCode(last.failure.code));
    return last.failure;
  }

  async function untilPrinted(runner: JobRunner, name: string, text: string): Promise<void> {
    await eventually(async () => (await runner.logs(name, 100)).some(({ line }) => line.includes(text)), {
      timeoutMs: 60_000,
      describe: `${name} to print ${text}`,
    });
  }

  describe(`job runner: ${kind}`, () => {
    test("a job whose containers do their work goes from starting over running to succeeded, each once", async () => {
      await withRunner(async (runner) => {
        const spec = await jobOf("setTimeout(() => {}, 300);", [DONE, DONE]);
        const phases = (await runToEnd(runner, spec)).map((status) => status.phase);
        assert.equal(phases.at(-1), "succeeded");
        assert.deepEqual(phases, ["starting", "running", "succeeded"].slice(-phases.length));
        assert.deepEqual(await runner.status(spec.name), { name: spec.name, phase: "succeeded" });
      });
    });

    test("the sidecar may end last: its work counts after all microservices are done", async () => {
      await withRunner(async (runner) => {
        // A cluster tells a sidecar by SIGTERM that the others are done.
        const sidecar = `process.on("SIGTERM", () => {}); setTimeout(() => console.log("published"), 700);`;
        const spec = await jobOf(sidecar, [DONE]);
        assert.equal((await runToEnd(runner, spec)).at(-1)?.phase, "succeeded");
        assert.deepEqual(
          (await runner.logs(spec.name, 5)).filter(({ container }) => container === "sidecar"),
          [{ container: "sidecar", line: "published" }],
        );
      });
    });

    test("every container gets the environment of the contract and its own, and nothing runs it twice", async () => {
      await withRunner(async (runner) => {
        const plain = await jobOf(
          sidecarAwaiting(3, PRINT_ENVIRONMENT),
          Array(3).fill(tellingSidecar(PRINT_ENVIRONMENT)) as string[],
        );
        const spec = {
          ...plain,
          microservices: plain.microservices.map((container) => ({
            ...container,
            environment: { ...container.environment, OWN: container.name },
          })),
        };
        assert.equal((await runToEnd(runner, spec)).at(-1)?.phase, "succeeded");
        const logs = await runner.logs(spec.name, 10);
        assert.equal(logs.length, 4, "one line per container");
        const environments = new Map(
          logs.map(({ container, line }) => [container, JSON.parse(line) as Record<string, string>]),
        );
        const of = (container: string): Record<string, string> => environments.get(container) ?? {};
        const sidecar = of("sidecar");
        const { steward } = await fixture;
        for (const environment of environments.values()) {
          assert.equal(environment["DATA_STEWARD_NAME"], steward);
          assert.equal(environment["JOB_NAME"], "jan-0a1b2c3d");
          assert.equal(environment["AGENT_ROLE"], "all");
          assert.equal(environment["NR_OF_DATA_PROVIDERS"], "2");
          assert.equal(environment["SIDECAR_PORT"], sidecar["SIDECAR_PORT"]);
        }
        const first = Number(sidecar["FIRST_MICROSERVICE_PORT"]);
        const services = ["service-0", "service-1", "service-2"].map(of);
        assert.deepEqual(
          services.map((each) => [each["DESIGNATED_GRPC_PORT"], each["FIRST"], each["LAST"], each["OWN"]]),
          [
            [String(first), "1", "0", "service-0"],
            [String(first + 1), "0", "0", "service-1"],
            [String(first + 2), "0", "1", "service-2"],
          ],
        );
      });
    });

    test("the containers of a job reach each other on localhost at the ports that they were given", async () => {
      await withRunner(async (runner) => {
        const service = `
          import { createServer } from "node:net";
          const server = createServer((socket) => void (socket.end("hello from the first"), server.close()));
          server.listen(Number(process.env.DESIGNATED_GRPC_PORT), "127.0.0.1");`;
        const sidecar = `
          import { connect } from "node:net";
          const attempt = () => connect(Number(process.env.FIRST_MICROSERVICE_PORT), "127.0.0.1")
            .on("error", () => setTimeout(attempt, 20))
            .on("data", (data) => { console.log(String(data)); process.exit(0); });
          attempt();`;
        const spec = await jobOf(sidecar, [service]);
        assert.equal((await runToEnd(runner, spec)).at(-1)?.phase, "succeeded");
        assert.ok((await runner.logs(spec.name, 1)).some(({ line }) => line === "hello from the first"));
      });
    });

    test("a second job of the same name is refused while the first lives, and while it is kept after its end", async () => {
      await withRunner(async (runner) => {
        const spec = await jobOf("setTimeout(() => {}, 500);", [DONE]);
        await runner.start(spec);
        await assert.rejects(runner.start(spec), withCode("already_exists"));
        await collect(runner.watch(spec.name));
        await assert.rejects(runner.start(spec), withCode("already_exists"));
        assert.equal((await runner.status(spec.name))?.phase, "succeeded", "the first one is untouched");
      });
    });

    test("of two starts of one name at the same moment one is accepted, also by two runners of one steward", async () => {
      await withRunner(async (one) =>
        withRunner(async (other) => {
          const spec = await jobOf(FOREVER, [FOREVER]);
          const outcomes = await Promise.allSettled([one.start(spec), one.start(spec), other.start(spec)]);
          assert.deepEqual(outcomes.map((outcome) => outcome.status).sort(), ["fulfilled", "rejected", "rejected"]);
          for (const outcome of outcomes) {
            if (outcome.status === "rejected") assert.ok(withCode("already_exists")(outcome.reason));
          }
        }),
      );
    });

    test("a specification that no runner could start is refused with every fault", async () => {
      await withRunner(async (runner) => {
        const spec = await jobOf(DONE, [], { name: "Not A Label", steward: "SOMEBODY" });
        await assert.rejects(runner.start(spec), (error) => {
          assert.ok(withCode("invalid_argument")(error));
          return (
            (error as AppError).details["faults"] instanceof Array && (error as AppError).message.includes("SOMEBODY")
          );
        });
        assert.equal(await runner.status(spec.name), undefined);
      });
    });

    test("a program that does not exist fails the job with job_start_failed, and leaves nothing running", async () => {
      await withRunner(async (runner) => {
        const { missing, isRunning } = await fixture;
        const plain = await jobOf(FOREVER, [FOREVER]);
        const spec = { ...plain, microservices: [...plain.microservices, missing("nowhere")] };
        const failure = await failureOf(runner, spec);
        assert.equal(failure.code, "job_start_failed");
        assert.equal(failure.details?.["container"], "nowhere");
        assert.equal(await isRunning(spec.name), false);
      });
    });

    test("a microservice that fails ends the job at once, with its name, exit code and last lines", async () => {
      await withRunner(async (runner) => {
        const crash = `for (let i = 0; i < 50; i++) console.error("line " + i + " " + "x".repeat(1000)); process.exitCode = 3;`;
        const spec = await jobOf(FOREVER, [FOREVER, crash]);
        const failure = await failureOf(runner, spec);
        assert.equal(failure.code, "job_failed");
        assert.equal(failure.retryable, true);
        assert.equal(failure.party, (await fixture).steward);
        assert.equal(failure.details?.["container"], "service-1");
        assert.equal(failure.details["exitCode"], 3);
        const log = failure.details["log"] as readonly string[];
        assert.equal(log.length, 20);
        assert.ok(log.at(-1)?.startsWith("line 49 "));
        assert.ok(log.every((line) => line.length <= 300));
        assert.equal(await (await fixture).isRunning(spec.name), false);
      });
    });

    test("a sidecar that fails fails the job", async () => {
      await withRunner(async (runner) => {
        const failure = await failureOf(runner, await jobOf("process.exit(4);", [FOREVER]));
        assert.equal(failure.code, "job_failed");
        assert.equal(failure.details?.["container"], "sidecar");
        assert.equal(failure.details["exitCode"], 4);
      });
    });

    test("a job that is not done at its deadline is killed and fails with deadline_exceeded", async () => {
      await withRunner(async (runner) => {
        const stubborn = `process.on("SIGTERM", () => {}); ${FOREVER}`;
        const spec = await jobOf(stubborn, [stubborn], { deadlineMs: Date.now() + 1_500 });
        assert.equal((await failureOf(runner, spec)).code, "deadline_exceeded");
        assert.equal(await (await fixture).isRunning(spec.name), false);
      });
    });

    test("a job whose deadline has passed when it is started fails with deadline_exceeded", async () => {
      await withRunner(async (runner) => {
        const spec = await jobOf(FOREVER, [FOREVER], { deadlineMs: Date.now() - 1 });
        assert.equal((await failureOf(runner, spec)).code, "deadline_exceeded");
        assert.equal(await (await fixture).isRunning(spec.name), false);
      });
    });

    test("a container above its memory limit is killed and fails the job with memory_limit_exceeded", async () => {
      await withRunner(async (runner) => {
        const greedy = `
          const kept = [];
          setInterval(() => kept.push(Buffer.alloc(8 * ${String(MIB)}, 1)), 20);`;
        const plain = await jobOf(FOREVER, [FOREVER]);
        const limit = 160 * MIB;
        const greedyOne = { ...(await fixture).container("greedy", greedy), memoryLimitBytes: limit };
        const failure = await failureOf(runner, { ...plain, microservices: [...plain.microservices, greedyOne] });
        assert.equal(failure.code, "memory_limit_exceeded");
        assert.equal(failure.retryable, false);
        assert.equal(failure.details?.["container"], "greedy");
        assert.equal(failure.details["limitBytes"], limit);
        assert.match(failure.detail, /greedy .* 160 MiB.*memoryLimitMiB/);
      });
    });

    test("watch tells the phases that are still to come, to each of several watchers, and ends", async () => {
      await withRunner(async (runner) => {
        const spec = await jobOf("setTimeout(() => {}, 600);", [DONE]);
        await runner.start(spec);
        const early = collect(runner.watch(spec.name));
        await eventually(async () => (await runner.status(spec.name))?.phase === "running", { timeoutMs: 60_000 });
        const later = collect(runner.watch(spec.name));
        assert.deepEqual(phasesOf(await later), ["running", "succeeded"]);
        assert.deepEqual(phasesOf(await early).slice(-2), ["running", "succeeded"]);
        assert.deepEqual(phasesOf(await collect(runner.watch(spec.name))), ["succeeded"], "after the end");
      });
    });

    test("watch ends with the signal's reason when its signal is aborted, and the job goes on", async () => {
      await withRunner(async (runner) => {
        const spec = await jobOf(FOREVER, [FOREVER]);
        await runner.start(spec);
        const reason = new Error("not interested any more");
        const abort = new AbortController();
        const watched = collect(runner.watch(spec.name, abort.signal));
        await eventually(async () => (await runner.status(spec.name))?.phase === "running", { timeoutMs: 60_000 });
        abort.abort(reason);
        await assert.rejects(watched, reason);
        assert.equal((await runner.status(spec.name))?.phase, "running");
      });
    });

    test("a job that nobody knows: no status, no logs, not_found to a watcher, and harmless to stop", async () => {
      await withRunner(async (runner) => {
        for (const name of ["nobody-knows-me", "../escape", ""]) {
          assert.equal(await runner.status(name), undefined);
          assert.deepEqual(await runner.logs(name, 5), []);
          await assert.rejects(collect(runner.watch(name)), withCode("not_found"));
          await runner.stop(name);
        }
      });
    });

    test("stop kills what lives and removes it; watchers hear cancelled; the name is free again", async () => {
      await withRunner(async (runner) => {
        const stubborn = `process.on("SIGTERM", () => {}); console.log("up"); ${FOREVER}`;
        const spec = await jobOf(stubborn, [stubborn]);
        await runner.start(spec);
        const watched = collect(runner.watch(spec.name));
        await untilPrinted(runner, spec.name, "up");
        await Promise.all([runner.stop(spec.name), runner.stop(spec.name)]);
        assert.equal(await (await fixture).isRunning(spec.name), false);
        assert.equal((await watched).at(-1)?.failure?.code, "cancelled");
        assert.equal(await runner.status(spec.name), undefined);
        assert.deepEqual(await runner.logs(spec.name, 5), []);
        assert.equal(
          (await runToEnd(runner, { ...spec, sidecar: (await jobOf(DONE, [DONE])).sidecar })).at(-1)?.phase,
          "succeeded",
        );
      });
    });

    test("end kills what lives, and keeps its state and logs", async () => {
      await withRunner(async (runner) => {
        const stubborn = `process.on("SIGTERM", () => {}); console.log("up"); ${FOREVER}`;
        const spec = await jobOf(stubborn, [stubborn]);
        await runner.start(spec);
        await untilPrinted(runner, spec.name, "up");
        await runner.end(spec.name);
        assert.equal(await (await fixture).isRunning(spec.name), false);
        assert.equal((await runner.status(spec.name))?.phase, "failed");
        assert.ok((await runner.logs(spec.name, 5)).some(({ line }) => line === "up"));
        await runner.end(spec.name);
        await runner.end("nobody-knows-me");
      });
    });

    test("stop works at every moment of a start", async () => {
      await withRunner(async (runner) => {
        for (const waitMs of [undefined, 0, 1, 2, 4, 8, 16, 32]) {
          const spec = await jobOf(FOREVER, [FOREVER, FOREVER]);
          const started = runner.start(spec);
          if (waitMs !== undefined) await sleep(waitMs);
          await runner.stop(spec.name);
          await started;
          assert.equal(await runner.status(spec.name), undefined);
          assert.equal(await (await fixture).isRunning(spec.name), false, `stopped after ${String(waitMs)} ms`);
        }
      });
    });

    test("logs give the last lines of each container, also while it runs and after its end", async () => {
      await withRunner(async (runner) => {
        const talkative = `for (let i = 1; i <= 9; i++) console.log("line " + i);`;
        const spec = await jobOf(sidecarAwaiting(1, `console.log("ready");`), [tellingSidecar(talkative)]);
        await runner.start(spec);
        await untilPrinted(runner, spec.name, "ready");
        await collect(runner.watch(spec.name));
        assert.deepEqual(
          [...(await runner.logs(spec.name, 2))].sort((a, b) => a.container.localeCompare(b.container)),
          [
            { container: "service-0", line: "line 8" },
            { container: "service-0", line: "line 9" },
            { container: "sidecar", line: "ready" },
          ].sort((a, b) => a.container.localeCompare(b.container)),
        );
      });
    });

    test("another runner of the same steward sees the jobs, watches them, and may stop them", async () => {
      await withRunner(async (one) =>
        withRunner(async (other) => {
          const spec = await jobOf(`console.log("here"); ${FOREVER}`, [FOREVER]);
          await one.start(spec);
          await untilPrinted(other, spec.name, "here");
          await eventually(
            async () => (await other.list()).some(({ name, phase }) => name === spec.name && phase === "running"),
            { timeoutMs: 60_000, describe: "the other runner to list it as running" },
          );
          const watched = collect(other.watch(spec.name));
          await other.stop(spec.name);
          assert.equal((await watched).at(-1)?.phase, "failed");
          assert.equal(await (await fixture).isRunning(spec.name), false);
          assert.equal(await other.status(spec.name), undefined);
        }),
      );
    });

    test("list names what is not removed, in whatever phase", async () => {
      await withRunner(async (runner) => {
        const [ended, living, removed] = [
          await jobOf(DONE, [DONE]),
          await jobOf(FOREVER, [FOREVER]),
          await jobOf(DONE, [DONE]),
        ];
        for (const spec of [ended, living, removed]) await runner.start(spec);
        await collect(runner.watch(ended.name));
        await runner.stop(removed.name);
        await eventually(async () => (await runner.status(living.name))?.phase === "running", { timeoutMs: 60_000 });
        const listed = new Map((await runner.list()).map((status) => [status.name, status.phase]));
        assert.equal(listed.get(ended.name), "succeeded");
        assert.equal(listed.get(living.name), "running");
        assert.equal(listed.has(removed.name), false);
        const labels = (await runner.list()).map((job) => job.labels);
        assert.deepEqual(labels, [ended.labels, living.labels]);
      });
    });

    test("close stops every job, those that are starting too, and a closed runner starts nothing", async () => {
      const { open, isRunning } = await fixture;
      const runner = await open();
      const specs = [await jobOf(FOREVER, [FOREVER]), await jobOf(FOREVER, [FOREVER])] as const;
      await runner.start(specs[0]);
      const starting = runner.start(specs[1]);
      await runner.close();
      await starting;
      for (const spec of specs) assert.equal(await isRunning(spec.name), false);
      await assert.rejects(runner.start(await jobOf(DONE, [DONE])), withCode("unavailable"));
    });
  });
}

/** Everything that an iterable yields. */
export async function collect<Item>(items: AsyncIterable<Item>): Promise<readonly Item[]> {
  const all: Item[] = [];
  for await (const item of items) all.push(item);
  return all;
}

function phasesOf(states: readonly JobStatus[]): readonly string[] {
  return states.map((status) => status.phase);
}

function withCode(code: ErrorCode): (error: unknown) => boolean {
  return (error) => error instanceof AppError && error.code === code;
}
