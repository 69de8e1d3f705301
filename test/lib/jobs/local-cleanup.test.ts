/** Nothing is left of a local job, whatever is killed. */
import assert from "node:assert/strict";
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdir, readdir, readlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import type { JobRunner } from "../../../lib/jobs/job-runner.ts";
import { identityOf, readProcessTable } from "../../../lib/jobs/local-processes.ts";
import { eventually } from "../../support/eventually.ts";
import { assertNoProcessLeft, processesWith } from "../../support/leaks.ts";
import { FOREVER } from "../../support/job-programs.ts";
import { jobOf, openForTest, untilEnd } from "../../support/local-jobs.ts";
import { pauseProcess } from "../../support/pause-process.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

/** Starts a child of its own, as sql-query does, and prints both process ids. `detached` leaves group and session. */
function parentOf(child: string, detached: boolean): string {
  return `
    import { spawn } from "node:child_process";
    const child = spawn(process.execPath, ["-e", ${JSON.stringify(child)}], { stdio: "ignore", detached: ${String(detached)} });
    console.log("pids " + process.pid + " " + child.pid);
    setInterval(() => {}, 1000);`;
}

async function pidsOf(runner: JobRunner, name: string, container: string): Promise<readonly number[]> {
  return eventually(async () => {
    const logs = await runner.logs(name, 100);
    const printed = logs.find((log) => log.container === container && log.line.startsWith("pids "));
    return printed?.line.split(" ").slice(1).map(Number);
  });
}

async function living(pids: readonly number[]): Promise<readonly number[]> {
  const table = await readProcessTable();
  return pids.filter((pid) => table.get(pid) !== undefined);
}

test("kill -9 of a microservice fails its job at once with the signal, and its children die too", async (t) => {
  const { runner } = await openForTest(t);
  const spec = jobOf(FOREVER, [parentOf(FOREVER, false), FOREVER]);
  await runner.start(spec);
  const pids = await pidsOf(runner, spec.name, "service-0");
  process.kill(pids[0] ?? 0, "SIGKILL");
  const { failure } = await untilEnd(runner, spec.name);
  assert.equal(failure?.code, "job_failed");
  assert.equal(failure.retryable, true);
  assert.equal(failure.details?.["container"], "service-0");
  assert.equal(failure.details["signal"], "SIGKILL");
  assert.deepEqual(await living(pids), []);
});

test("kill -9 of the sidecar fails its job too", async (t) => {
  const { runner } = await openForTest(t);
  const spec = jobOf(parentOf(FOREVER, false), [FOREVER]);
  await runner.start(spec);
  const pids = await pidsOf(runner, spec.name, "sidecar");
  process.kill(pids[0] ?? 0, "SIGKILL");
  assert.equal((await untilEnd(runner, spec.name)).failure?.details?.["container"], "sidecar");
  assert.deepEqual(await living(pids), []);
});

test("a microservice that ends early takes its children with it, while the job goes on", async (t) => {
  const { runner } = await openForTest(t);
  const spec = jobOf(FOREVER, [`${parentOf(FOREVER, false)} process.exit(0);`]);
  await runner.start(spec);
  const pids = await pidsOf(runner, spec.name, "service-0");
  await eventually(async () => (await living(pids)).length === 0);
  assert.equal((await runner.status(spec.name))?.phase, "running");
});

for (const [what, detached] of [
  ["in its process group", false],
  ["that left its process group", true],
] as const) {
  test(`a container's children ${what} die with its job`, async (t) => {
    const { runner } = await openForTest(t);
    const spec = jobOf(FOREVER, [parentOf(FOREVER, detached)]);
    await runner.start(spec);
    const pids = await pidsOf(runner, spec.name, "service-0");
    assert.equal((await living(pids)).length, 2);
    await runner.stop(spec.name);
    assert.deepEqual(await living(pids), []);
  });
}

test("an orphan that left its process group dies with its job", async (t) => {
  const { runner } = await openForTest(t);
  const spec = jobOf(FOREVER, [`${parentOf(FOREVER, true)} process.exit(0);`]);
  await runner.start(spec);
  const [parentPid = 0, orphanPid = 0] = await pidsOf(runner, spec.name, "service-0");
  await eventually(async () => (await living([parentPid])).length === 0);
  assert.deepEqual(await living([orphanPid]), process.platform === "linux" ? [orphanPid] : []);
  await runner.stop(spec.name);
  assert.deepEqual(await living([orphanPid]), []);
});

test("a microservice that ignores SIGTERM is killed when the sidecar is done, and the job has succeeded", async (t) => {
  const { runner } = await openForTest(t, { stopGraceMs: 50 });
  const stubborn = `process.on("SIGTERM", () => console.log("asked to end")); ${parentOf(FOREVER, false)}`;
  const sidecar = `
    import { existsSync } from "node:fs";
    setInterval(() => existsSync("done") && process.exit(0), 10);`;
  const spec = jobOf(sidecar, [stubborn]);
  await runner.start(spec);
  const pids = await pidsOf(runner, spec.name, "service-0");
  await writeFile(join((await jobFolderOf(pids)) ?? "", "done"), "");
  assert.equal((await untilEnd(runner, spec.name)).phase, "succeeded");
  assert.ok((await runner.logs(spec.name, 5)).some(({ line }) => line === "asked to end"));
  assert.deepEqual(await living(pids), []);
});

test("ports, temporary files and, after the retention, folders of ended jobs are gone", async (t) => {
  const { runner, stateFolder, reported } = await openForTest(t, { retentionMs: 300 });
  const writer = `import { writeFileSync } from "node:fs"; writeFileSync(process.env.TMPDIR + "/spill", "rows");`;
  const spec = jobOf(`setTimeout(() => {}, 300);`, [writer]);
  await runner.start(spec);
  await eventually(async () => (await portsIn(stateFolder)).length === 2);
  await untilEnd(runner, spec.name);
  assert.deepEqual(await portsIn(stateFolder), []);
  assert.ok(!(await readdir(join(stateFolder, "jobs/VU", spec.name))).includes("tmp"));
  await eventually(async () => (await readdir(join(stateFolder, "jobs/VU"))).length === 0);
  assert.equal(await runner.status(spec.name), undefined);
  assert.deepEqual(reported, []);
});

test("of ended jobs only the newest are kept", async (t) => {
  const { runner } = await openForTest(t, { maxEndedJobs: 2 });
  const names: string[] = [];
  for (let count = 0; count < 4; count++) {
    const spec = jobOf("", [""]);
    names.push(spec.name);
    await runner.start(spec);
    await untilEnd(runner, spec.name);
  }
  await eventually(async () => (await runner.list()).length === 2);
  assert.deepEqual((await runner.list()).map((status) => status.name).sort(), names.slice(2).sort());
});

test("a hundred jobs started at once all succeed, on ports of their own, and leave no file open", async (t) => {
  const { runner, stateFolder, reported } = await openForTest(t);
  const report = 'echo "$SIDECAR_PORT $DESIGNATED_GRPC_PORT"';
  const shell = (name: string, program: string) => ({
    name,
    command: ["sh", "-c", program],
    environment: {},
    memoryLimitBytes: 1e8,
  });
  const specs = Array.from({ length: 100 }, () => {
    const microservices = ["one", "two"].map((name) => shell(name, report));
    return {
      ...jobOf("", []),
      microservices,
      sidecar: shell("sidecar", `${report}; while [ ! -e ../../../../go ]; do sleep 0.2; done`),
    };
  });
  const openBefore = (await readdir("/proc/self/fd").catch(() => [])).length;
  await Promise.all(specs.map((spec) => runner.start(spec)));
  const running = async (): Promise<boolean> => (await runner.list()).every((status) => status.phase === "running");
  await eventually(running, { timeoutMs: 60_000 });
  const ports = await portsIn(stateFolder);
  assert.equal(ports.length, 300);
  await writeFile(join(stateFolder, "go"), "");
  const ends = await Promise.all(specs.map((spec) => untilEnd(runner, spec.name)));
  assert.deepEqual(new Set(ends.map((end) => end.phase)), new Set(["succeeded"]));
  const printed = new Set<string>();
  for (const spec of specs) {
    for (const { container, line } of await runner.logs(spec.name, 5)) {
      const [sidecarPort = "", ownPort = ""] = line.split(" ");
      printed.add(container === "sidecar" ? sidecarPort : ownPort);
    }
  }
  assert.deepEqual([...printed].sort(), [...ports].sort(), "no port was given twice");
  assert.deepEqual(await portsIn(stateFolder), []);
  const openAfter = (await readdir("/proc/self/fd").catch(() => [])).length;
  assert.ok(openAfter <= openBefore + 3, `${openBefore} open files before, ${openAfter} after`);
  assert.deepEqual(reported, []);
});

test("kill -9 of the agent leaves no container behind, not even a child of one", async () => {
  const agent = await startAgent([parentOf(FOREVER, false)]);
  assert.ok((await processesWith(agent.stateFolder)).length >= 4);
  agent.process.kill("SIGKILL");
  await assertNoProcessLeft(agent.stateFolder);
});

test("kill -9 of the agent in the middle of starting many jobs leaves no container behind", async () => {
  for (const waitMs of [0, 10, 30]) {
    const agent = await startAgent([FOREVER, FOREVER], { jobs: 8, whenAccepted: true });
    await new Promise((resolve) => setTimeout(resolve, waitMs));
    agent.process.kill("SIGKILL");
    await assertNoProcessLeft(agent.stateFolder);
  }
});

test("a guard that is killed is replaced, and still no container outlives the agent", async () => {
  const agent = await startAgent([FOREVER]);
  const [guard] = await guardsOf(agent.process);
  process.kill(guard ?? 0, "SIGKILL");
  await eventually(async () => {
    const [other] = await guardsOf(agent.process);
    return other !== undefined && other !== guard;
  });
  agent.process.kill("SIGKILL");
  await assertNoProcessLeft(agent.stateFolder);
});

test("what outlives agent and guard is killed by the next agent, which lists the jobs as failed", async (t) => {
  const agent = await startAgent([parentOf(FOREVER, false)]);
  await killWithGuard(agent.process);
  assert.ok((await processesWith(agent.stateFolder)).length >= 3, "without its guard the job lives on");
  const { runner } = await openForTest(t, { stateFolder: agent.stateFolder });
  assert.deepEqual(await processesWith(agent.stateFolder), []);
  const [left, ...others] = await runner.list();
  assert.deepEqual(others, []);
  assert.equal(left?.phase, "failed");
  assert.equal(left.failure?.code, "job_failed");
  assert.equal(left.failure.retryable, true);
  assert.ok((await runner.logs(left.name, 5)).length > 0, "its logs are still there");
  const again = jobOf("", [""]);
  await runner.start(again);
  assert.equal((await untilEnd(runner, again.name)).phase, "succeeded");
  await runner.stop(left.name);
  assert.equal(await runner.status(left.name), undefined);
});

test("what outlives agent and guard is found by a second agent of the steward that runs already", async (t) => {
  const stateFolder = await temporaryFolder();
  const { runner } = await openForTest(t, { stateFolder });
  const agent = await startAgent([FOREVER], { stateFolder });
  assert.equal((await runner.list())[0]?.phase, "running");
  await killWithGuard(agent.process);
  assert.equal((await runner.list())[0]?.phase, "failed");
  assert.deepEqual(await processesWith(stateFolder), []);
});

test("a process that got the id of an earlier container is not killed", async (t) => {
  const stranger = spawn("sleep", ["60"], { detached: true });
  t.after(() => stranger.kill("SIGKILL"));
  const stateFolder = await temporaryFolder();
  const reused = { pid: stranger.pid, startedAt: "an earlier time" };
  await mkdir(join(stateFolder, "jobs/VU/old-job"), { recursive: true });
  const record = {
    owner: reused,
    containers: ["sidecar"],
    processes: [reused],
    status: { name: "old-job", phase: "running" },
  };
  await writeFile(join(stateFolder, "jobs/VU/old-job/job.json"), JSON.stringify(record));
  const { runner } = await openForTest(t, { stateFolder });
  assert.equal((await runner.status("old-job"))?.phase, "failed");
  await runner.stop("old-job");
  assert.ok(await identityOf(stranger.pid ?? 0), "the stranger lives");
});

/** Names of the reserved ports. */
async function portsIn(stateFolder: string): Promise<readonly string[]> {
  return (await readdir(join(stateFolder, "ports"))).filter((name) => /^\d+$/.test(name));
}

/** The folder that a job's processes work in, on Linux from the first of them, elsewhere unknown. */
async function jobFolderOf(pids: readonly number[]): Promise<string | undefined> {
  return readlink(`/proc/${String(pids[0])}/cwd`);
}

interface Agent {
  readonly process: ChildProcess;
  readonly stateFolder: string;
}

/** An agent's process that owns a runner with running (or just accepted) jobs, and then waits. */
async function startAgent(
  microservices: readonly string[],
  options: { readonly jobs?: number; readonly whenAccepted?: boolean; readonly stateFolder?: string } = {},
): Promise<Agent> {
  const stateFolder = options.stateFolder ?? (await temporaryFolder());
  const specs = Array.from({ length: options.jobs ?? 1 }, () => jobOf(FOREVER, microservices));
  const program = `
    import { openLocalJobRunner } from ${JSON.stringify(new URL("../../../lib/jobs/local.js", import.meta.url).href)};
    import { systemClock } from ${JSON.stringify(new URL("../../../lib/clock.js", import.meta.url).href)};
    const runner = await openLocalJobRunner({
      stateFolder: ${JSON.stringify(stateFolder)}, steward: "VU", clock: systemClock, environment: process.env, report: () => {},
    });
    const specs = ${JSON.stringify(specs)};
    await Promise.all(specs.map((spec) => runner.start(spec)));
    if (${String(options.whenAccepted ?? false)}) console.log("up");
    for (const spec of specs) for await (const { phase } of runner.watch(spec.name)) if (phase === "running") break;
    const hasPrinted = async () => (await runner.logs(specs[0].name, 1)).length > 0;
    if (${String(microservices.some((each) => each.includes("pids")))}) while (!(await hasPrinted())) await systemClock.sleep(20);
    console.log("up");`;
  const process_ = spawn(process.execPath, ["--input-type=module", "-e", program], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  await once(process_.stdout, "data");
  return { process: process_, stateFolder };
}

async function guardsOf(agent: ChildProcess): Promise<readonly number[]> {
  const children = [...(await readProcessTable()).rows].filter((row) => row.parentPid === agent.pid);
  const guards = await processesWith("dynamos-guard");
  return children.map((row) => row.pid).filter((pid) => guards.some((guard) => guard.pid === pid));
}

/** Kills both in such an order that neither can do anything about it. */
async function killWithGuard(agent: ChildProcess): Promise<void> {
  await pauseProcess(agent.pid!);
  for (const guard of await guardsOf(agent)) process.kill(guard, "SIGKILL");
  agent.kill("SIGKILL");
  await once(agent, "exit");
}
