/**
 * Runs the tests: `npm test` all of them, `npm test -- contract system/cancel` those whose path has one of the words. First the
 * parts, then the system tests and the documentation, of which each starts whole exchanges; as many files at a time as the machine has
 * cores: with more, what is fast enough by itself comes too late for its neighbours' waits.
 *
 * The system tests run on what `STORE`, `BUS` and `SIDECAR` choose (`backends.ts`), embedded without them; real servers are
 * started once for all. `npm run test:services` chooses the real ones, and runs of the parts only those that need servers.
 *
 * The tests under `test/cluster` run on the Kubernetes cluster that `KUBECONFIG` names: one after the other on one installation that
 * the first of them makes (`cluster-installation.ts`), and beside them, two at a time, those that need none or make their own: most
 * of what they wait for is no work of the machine's.
 * `npm run test:cluster` runs them alone. `DYNAMOS_TEST_CLUSTER=later` leaves them out and says so: for continuous integration, where
 * they are a step of their own.
 *
 * What cannot run is skipped by name; with `CI=true` that is a failure: there, everything that a test needs is installed.
 */
import { once } from "node:events";
import { readdirSync } from "node:fs";
import { availableParallelism, cpus } from "node:os";
import { join, relative } from "node:path";
import { PassThrough } from "node:stream";
import { run } from "node:test";
import { spec } from "node:test/reporters";
import { inspect } from "node:util";
import { packageRoot } from "../../lib/package-root.ts";
import { chosenBackends, describeBackends, missingBackends } from "./backends.ts";
import { beginClusterRun, noCluster, type ClusterRun } from "./cluster-run.ts";
import { startSharedServers } from "./shared-servers.ts";

const TEST_FOLDER = join(packageRoot, "dist", "test");
/** No single test file may take longer. */
const FILE_TIMEOUT_MS = 600_000;
/** A step that had nothing to do is not told of. */
const LEAST_SHOWN_MS = 1000;
const CORES = availableParallelism();
const SLOWEST_SHOWN = 12;
/** Of what a failed test threw. */
const CAUSE_LINES_SHOWN = 25;
const CAUSE_LINE_LENGTH = 200;
const SERVICES_FLAG = "--services";
const CLUSTER_FLAG = "--cluster";
/** Files beside the system's that real servers are needed for. */
const NEEDS_SERVERS = /^contract[/\\](?:knowledge-store|message-bus)|etcd|rabbitmq|readme-services/;
/** Tests of a cluster that use no installation of others. */
const ALONE_ON_CLUSTER = /backup|docs|job-runner|steward-admin|tls/;
/** Takes the installation of a cluster run away. */
const LAST_ON_CLUSTER = /uninstall/;

/** What the runner tells of a failed test (node:test, event `test:fail`). */
type TestFailure = Error & { readonly failureType?: string };

const words = process.argv.slice(2).filter((word) => word !== SERVICES_FLAG && word !== CLUSTER_FLAG);
const onServices = process.argv.includes(SERVICES_FLAG);
const onCluster = process.argv.includes(CLUSTER_FLAG);
if (onServices) {
  process.env["STORE"] ??= "etcd";
  process.env["BUS"] ??= "rabbitmq";
  process.env["SIDECAR"] ??= "separate";
}
const choice = chosenBackends();
const files = readdirSync(TEST_FOLDER, { recursive: true, encoding: "utf8" })
  .filter((file) => file.endsWith(".test.js"))
  .filter((file) => words.length === 0 || words.some((word) => file.includes(word)))
  .sort();
if (files.length === 0) {
  console.error(`No test file has ${words.map((word) => `"${word}"`).join(" or ")} in its path.`);
  process.exit(1);
}

const isWholeSystem = (file: string): boolean => /^(system|docs)[/\\]/.test(file);
const isOfCluster = (file: string): boolean => /^cluster[/\\]/.test(file);
const failed: string[] = [];
const skipped: string[] = [];
const passed = new Map<string, number>();
const seconds = new Map<string, number>();
const steps: string[] = [];

const here = onCluster ? [] : files.filter((file) => !isOfCluster(file));
const parts = here.filter((file) => !isWholeSystem(file) && (!onServices || NEEDS_SERVERS.test(file)));
await timed("tests of parts", () => runFiles(parts, CORES));
const whole = here.filter(
  (file) => isWholeSystem(file) && (!onServices || !file.startsWith("docs") || NEEDS_SERVERS.test(file)),
);
const missing = whole.length === 0 ? false : await missingBackends(choice);
if (missing === false) {
  const servers = await startSharedServers(whole.length === 0 ? {} : choice);
  Object.assign(process.env, servers.environment);
  try {
    await timed("tests of the whole", () => runFiles(whole, CORES));
  } finally {
    await servers.stop();
  }
} else {
  for (const file of whole) skipped.push(`${file}: all its tests (${missing})`);
}
const ofCluster = onServices ? [] : files.filter(isOfCluster);
await timed("tests on the cluster", runOnCluster);
report();

/** Runs a step, for the report to say how long it took, and how busy it kept the machine: an idle one could run more at a time. */
async function timed(what: string, step: () => Promise<void>): Promise<void> {
  const [fromMs, before] = [performance.now(), processorMs()];
  await step();
  const tookMs = performance.now() - fromMs;
  if (tookMs < LEAST_SHOWN_MS) return;
  const after = processorMs();
  const busy = 1 - (after.idle - before.idle) / (after.all - before.all);
  steps.push(`${what}: ${(tookMs / 1000).toFixed(0)} s, the machine ${(100 * busy).toFixed(0)} % busy`);
}

/** What all processors have spent since the machine started. */
function processorMs(): { readonly idle: number; readonly all: number } {
  const times = cpus().map((cpu) => cpu.times);
  const idle = times.reduce((sum, each) => sum + each.idle, 0);
  return { idle, all: times.reduce((sum, { user, nice, sys, idle, irq }) => sum + user + nice + sys + idle + irq, 0) };
}

/** The tests of the cluster, or why they cannot run. */
async function runOnCluster(): Promise<void> {
  if (ofCluster.length === 0) return;
  if (!onCluster && process.env["DYNAMOS_TEST_CLUSTER"] === "later") {
    console.log(`cluster tests: ${String(ofCluster.length)} files are run by their own step, npm run test:cluster`);
    return;
  }
  const missing = await noCluster();
  if (missing !== false) {
    for (const file of ofCluster) skipped.push(`${file}: all its tests (${missing})`);
    return;
  }
  const cluster = beginClusterRun();
  Object.assign(process.env, cluster.environment);
  try {
    const last = ofCluster.filter((file) => LAST_ON_CLUSTER.test(file));
    const others = ofCluster.filter((file) => !last.includes(file));
    // Whoever is free takes the next; the longest come last by their names, and so are begun first.
    const alone = others.filter((file) => ALONE_ON_CLUSTER.test(file)).reverse();
    const runAlone = async (): Promise<void> => {
      for (let file = alone.shift(); file !== undefined; file = alone.shift()) await runOneByOne(cluster, [file]);
    };
    const runShared = runOneByOne(
      cluster,
      others.filter((file) => !ALONE_ON_CLUSTER.test(file)),
    );
    await Promise.all([runShared.then(runAlone), runAlone(), runAlone()]);
    await runOneByOne(cluster, last);
  } finally {
    failed.push(...(await cluster.end()));
  }
}

async function runOneByOne(cluster: ClusterRun, some: readonly string[]): Promise<void> {
  for (const file of some) {
    const failedBefore = failed.length;
    // What it prints comes out in one piece: others run beside it.
    const printed = new PassThrough();
    const text = printed.toArray() as Promise<Buffer[]>;
    await runFiles([file], 1, printed);
    printed.end();
    process.stdout.write(Buffer.concat(await text));
    if (failed.length > failedBefore) console.log(await cluster.report());
  }
}

async function runFiles(
  some: readonly string[],
  concurrency: number,
  output: NodeJS.WritableStream = process.stdout,
): Promise<void> {
  if (some.length === 0) return;
  const stream = run({ files: some.map((file) => join(TEST_FOLDER, file)), concurrency, timeout: FILE_TIMEOUT_MS });
  let lastMs = performance.now();
  stream.on("test:fail", ({ name, file, details: { error } }) =>
    failed.push(`${describe(name, file)}${causeOf(error)}`),
  );
  stream.on("test:pass", ({ name, file, skip, details }) => {
    const path = relative(TEST_FOLDER, file ?? "");
    if (skip !== undefined && skip !== false) skipped.push(`${describe(name, file)} (${String(skip)})`);
    else if (details.type !== "suite") passed.set(path, (passed.get(path) ?? 0) + 1);
    const nowMs = performance.now();
    // One after the other, a file took what has passed since the one before; side by side, that is only about right.
    seconds.set(path, (seconds.get(path) ?? 0) + (nowMs - lastMs) / 1000);
    lastMs = nowMs;
  });
  const finished = new Promise<void>((resolve, reject) => stream.on("end", resolve).on("error", reject));
  const lines = stream.pipe(new spec());
  lines.pipe(output, { end: false });
  await Promise.all([finished, once(lines, "end")]);
}

/** Says what ran on what, what took long, what was skipped and what failed; ends the process. */
function report(): never {
  const count = (of: readonly string[]): number => of.reduce((sum, file) => sum + (passed.get(file) ?? 0), 0);
  console.log(`passed: ${String(count(parts))} tests of parts`);
  if (whole.length > 0) console.log(`passed: ${String(count(whole))} tests on ${describeBackends(choice)}`);
  if (ofCluster.length > 0) console.log(`passed: ${String(count(ofCluster))} tests on the cluster`);
  for (const step of steps) console.log(step);
  const slowest = [...seconds].sort(([, a], [, b]) => b - a).slice(0, SLOWEST_SHOWN);
  for (const [file, took] of slowest) console.log(`  ${took.toFixed(1).padStart(6)} s  ${file}`);
  for (const name of skipped) console.log(`skipped: ${name}`);
  for (const name of failed) console.log(`failed: ${name}`);
  const skipFails = process.env["CI"] === "true" && skipped.length > 0;
  if (skipFails) console.log("A skipped test is a failure in CI.");
  process.exit(failed.length > 0 || skipFails ? 1 : 0);
}

/** Why a test failed, below its name: where only the end of a long output is kept, it is there. */
function causeOf(error: TestFailure): string {
  // A suite has failed by its tests, which are told of themselves.
  if (error.failureType === "subtestsFailed") return "";
  const lines = inspect(error.cause ?? error).split("\n");
  const shown = lines
    .slice(0, CAUSE_LINES_SHOWN)
    .map((line) => (line.length > CAUSE_LINE_LENGTH ? `${line.slice(0, CAUSE_LINE_LENGTH)}…` : line));
  if (lines.length > shown.length) shown.push("…");
  return shown.map((line) => `\n    ${line}`).join("");
}

function describe(name: string, file: string | undefined): string {
  return file === undefined ? name : `${relative(TEST_FOLDER, file)}: ${name}`;
}
