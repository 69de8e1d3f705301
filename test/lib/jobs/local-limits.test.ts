/** What a local job may use, and what it gets to see. */
import assert from "node:assert/strict";
import { chmod, readdir, stat, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { once } from "node:events";
import { join } from "node:path";
import { test } from "node:test";
import { eventually } from "../../support/eventually.ts";
import { FOREVER, sidecarAwaiting, tellingSidecar } from "../../support/job-programs.ts";
import { jobOf, nodeContainer, openForTest, untilEnd } from "../../support/local-jobs.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

const MIB = 1024 ** 2;
const PRINT_ENVIRONMENT = "console.log(JSON.stringify(process.env));";

test("a container's environment is what the contract and its job say, and holds nothing else of the agent's", async (t) => {
  const environment = {
    PATH: process.env["PATH"],
    TZ: "UTC",
    LANG: "C.UTF-8",
    HOME: "/root",
    DYNAMOS_STORE_PASSWORD: "canary-secret",
    NODE_OPTIONS: "--title=canary",
    AWS_SECRET_ACCESS_KEY: "canary",
    AGENT_ROLE: "wrong",
  };
  const { runner } = await openForTest(t, { environment });
  const own = { OWN: "value", JOB_NAME: "another", LAST: "9" };
  const microservice = { ...nodeContainer("only", tellingSidecar(PRINT_ENVIRONMENT)), environment: own };
  const spec = { ...jobOf(sidecarAwaiting(1, PRINT_ENVIRONMENT), []), microservices: [microservice] };
  await runner.start(spec);
  assert.equal((await untilEnd(runner, spec.name)).phase, "succeeded");
  const logs = new Map((await runner.logs(spec.name, 5)).map(({ container, line }) => [container, line]));
  const { PATH, HOME, TMPDIR, DESIGNATED_GRPC_PORT, SIDECAR_PORT, ...rest } = JSON.parse(
    logs.get("only") ?? "{}",
  ) as Record<string, string>;
  assert.equal(PATH, environment.PATH);
  assert.equal(HOME, TMPDIR);
  assert.equal(Number(DESIGNATED_GRPC_PORT), Number(SIDECAR_PORT) + 1);
  // bash and macOS add these whatever we do.
  for (const name of ["_", "__CF_USER_TEXT_ENCODING"]) delete rest[name];
  assert.deepEqual(rest, {
    TZ: "UTC",
    LANG: "C.UTF-8",
    OWN: "value",
    DATA_STEWARD_NAME: "VU",
    JOB_NAME: "jan-0a1b2c3d",
    AGENT_ROLE: "all",
    NR_OF_DATA_PROVIDERS: "2",
    FIRST: "1",
    LAST: "1",
  });
  for (const line of logs.values()) assert.doesNotMatch(line, /canary/);
});

test("memory of a container's children counts as its own, also when they left its process group", async (t) => {
  const { runner } = await openForTest(t);
  const child = `
    const kept = [];
    setInterval(() => kept.length < 60 && kept.push(Buffer.alloc(4 * ${String(MIB)}, 1)), 10);`;
  const parent = `
    import { spawn } from "node:child_process";
    spawn(process.execPath, ["-e", ${JSON.stringify(child)}], { stdio: "ignore", detached: true });
    setInterval(() => {}, 1000);`;
  const limit = 250 * MIB;
  const spec = jobOf(FOREVER, []);
  await runner.start({ ...spec, microservices: [{ ...nodeContainer("parent", parent), memoryLimitBytes: limit }] });
  const { failure } = await untilEnd(runner, spec.name);
  assert.equal(failure?.code, "memory_limit_exceeded");
  assert.equal(failure.details?.["container"], "parent");
  assert.ok(Number(failure.details["residentBytes"]) > limit);
});

test("a container that floods its output is slowed, its log stays bounded, and its last lines are there", async (t) => {
  const { runner, stateFolder } = await openForTest(t, { maxLogBytes: 64 * 1024 });
  const flood = `
    const { writeSync } = await import("node:fs");
    for (let i = 0; i < 50_000; i++) writeSync(1, "line " + i + " " + "x".repeat(90) + "\\n");
    writeSync(1, "last line without an end");`;
  const spec = jobOf(FOREVER, [flood]);
  await runner.start(spec);
  await eventually(async () =>
    (await runner.logs(spec.name, 1)).some(({ line }) => line === "last line without an end"),
  );
  const lines = (await runner.logs(spec.name, 3)).map(({ line }) => line.split(" ").slice(0, 2).join(" "));
  assert.deepEqual(lines, ["line 49998", "line 49999", "last line"]);
  const folder = join(stateFolder, "jobs/VU", spec.name);
  const names = (await readdir(folder)).filter((name) => name.includes(".log"));
  let bytes = 0;
  for (const name of names) bytes += (await stat(join(folder, name))).size;
  // A chunk of a pipe (64 KiB) may go beyond each half.
  assert.ok(bytes <= 64 * 1024 + 2 * 64 * 1024, `${String(bytes)} bytes of logs`);
});

test("a container whose port somebody else took fails its job with a retryable job_start_failed", async (t) => {
  const { runner } = await openForTest(t);
  const taken = createServer().listen(0, "127.0.0.1");
  await once(taken, "listening");
  t.after(() => taken.close());
  const { port } = taken.address() as { port: number };
  const server = `import { createServer } from "node:net"; createServer().listen(${String(port)}, "127.0.0.1");`;
  const spec = jobOf(FOREVER, [server]);
  await runner.start(spec);
  const { failure } = await untilEnd(runner, spec.name);
  assert.equal(failure?.code, "job_start_failed");
  assert.equal(failure.retryable, true);
  assert.equal(failure.details?.["container"], "service-0");
});

test("a program that is there but cannot be executed fails its job with job_start_failed, not to be retried", async (t) => {
  const { runner } = await openForTest(t);
  const program = join(await temporaryFolder(), "program");
  await writeFile(program, "#!/no/such/interpreter\n");
  await chmod(program, 0o755);
  const spec = jobOf(FOREVER, []);
  await runner.start({ ...spec, microservices: [{ ...nodeContainer("broken", ""), command: [program] }] });
  const { failure } = await untilEnd(runner, spec.name);
  assert.equal(failure?.code, "job_start_failed");
  assert.equal(failure.retryable, false);
  assert.equal(failure.details?.["container"], "broken");
});

test("a container without a command is refused, since local processes have no image", async (t) => {
  const { runner } = await openForTest(t);
  const spec = jobOf(FOREVER, []);
  const image = { name: "image-only", image: "example.org/image", environment: {}, memoryLimitBytes: MIB };
  await assert.rejects(runner.start({ ...spec, microservices: [image] }), { code: "invalid_argument" });
});

test("a job that finds no ports fails with a retryable job_start_failed that names the range", async (t) => {
  const { runner } = await openForTest(t, { portRange: { first: 24_000, last: 24_001 } });
  const spec = jobOf(FOREVER, [FOREVER, FOREVER]);
  await runner.start(spec);
  const { failure } = await untilEnd(runner, spec.name);
  assert.equal(failure?.code, "job_start_failed");
  assert.equal(failure.retryable, true);
  assert.match(failure.detail, /24000 and 24001.*portRange/);
});
