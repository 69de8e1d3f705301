/**
 * `kubectl` and `helm` as child processes, and whether there is a cluster to use them on. The cluster is the one that `KUBECONFIG`
 * names, and no other: tests never touch a cluster only because somebody's default configuration happens to know it.
 */
import { spawn } from "node:child_process";
import { setTimeout as sleep } from "node:timers/promises";

/** The image of all programs of ours; `DYNAMOS_TEST_IMAGE` names another. */
export const TEST_IMAGE = process.env["DYNAMOS_TEST_IMAGE"] || "localhost/dynamos:test";
/** etcd's image; `DYNAMOS_TEST_ETCD_IMAGE` names another. */
export const ETCD_IMAGE = process.env["DYNAMOS_TEST_ETCD_IMAGE"] || "localhost/etcd:3";
/** RabbitMQ's image; `DYNAMOS_TEST_RABBITMQ_IMAGE` names another. */
export const RABBITMQ_IMAGE = process.env["DYNAMOS_TEST_RABBITMQ_IMAGE"] || "localhost/rabbitmq:3";

/** What a program wrote. */
export interface ProgramResult {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** What a program gets. */
export interface ProgramOptions {
  readonly input?: string;
  /** Milliseconds after which it is killed; default two minutes. */
  readonly timeoutMs?: number;
  readonly environment?: Readonly<Record<string, string>>;
}

const TIMEOUT_MS = 120_000;
/** Kubelets tell of new images within ten seconds or so. */
const IMAGES_MS = 20_000;

/** Runs a program and resolves with what it wrote, whatever its exit code; rejects if it cannot be started. */
export function runProgram(
  program: string,
  parameters: readonly string[],
  { input, timeoutMs = TIMEOUT_MS, environment = {} }: ProgramOptions = {},
): Promise<ProgramResult> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, parameters, {
      stdio: ["pipe", "pipe", "pipe"],
      env: { ...process.env, ...environment },
    });
    // Not spawn's own: that one would keep this process until its end where the program is not there at all.
    const limit = setTimeout(() => child.kill("SIGKILL"), timeoutMs);
    let [stdout, stderr] = ["", ""];
    child.stdout.setEncoding("utf8").on("data", (text: string) => (stdout += text));
    child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text));
    child.once("error", (error) => {
      clearTimeout(limit);
      reject(error);
    });
    child.once("close", (code, signal) => {
      clearTimeout(limit);
      resolve({ code, stdout, stderr: signal === null ? stderr : `${stderr}\n${program} was ended by ${signal}` });
    });
    // A program that has ended already does not read: its exit code says why.
    child.stdin.once("error", () => undefined);
    child.stdin.end(input);
  });
}

/** Runs `kubectl`; fails unless it exits with 0. */
export async function kubectl(parameters: readonly string[], options: ProgramOptions = {}): Promise<string> {
  return succeeded("kubectl", parameters, await runProgram("kubectl", parameters, options));
}

/** Runs `kubectl … -o json`. */
export async function kubectlJson<Answer>(parameters: readonly string[]): Promise<Answer> {
  return JSON.parse(await kubectl([...parameters, "-o", "json"])) as Answer;
}

/** Applies objects, as the cluster's administrator. */
export async function apply(...objects: readonly object[]): Promise<void> {
  const list = { apiVersion: "v1", kind: "List", items: objects };
  await kubectl(["apply", "-f", "-"], { input: JSON.stringify(list) });
}

/** Runs `helm`; fails unless it exits with 0. */
export async function helm(parameters: readonly string[], options: ProgramOptions = {}): Promise<string> {
  return succeeded("helm", parameters, await runProgram("helm", parameters, { timeoutMs: 300_000, ...options }));
}

function succeeded(program: string, parameters: readonly string[], { code, stdout, stderr }: ProgramResult): string {
  if (code === 0) return stdout;
  throw new Error(`${program} ${parameters.join(" ")} ended with ${String(code)}: ${stderr}${stdout}`.trim());
}

/** Why cluster tests cannot run here; false when they can. For a test's `skip`. */
export async function noCluster(): Promise<string | false> {
  // Whoever started this file has looked already (run-tests.ts).
  if (process.env["DYNAMOS_TEST_CLUSTER"] === "ready") return false;
  if (!process.env["KUBECONFIG"]) return "no cluster is reachable: set KUBECONFIG";
  const versions = { kubectl: ["version", "--client"], helm: ["version"] };
  for (const [program, parameters] of Object.entries(versions)) {
    const isThere = await runProgram(program, parameters).catch(() => undefined);
    if (isThere?.code !== 0) return `${program} is not installed, or does not work`;
  }
  const giveUpAt = performance.now() + IMAGES_MS;
  for (;;) {
    const nodes = await runProgram("kubectl", ["get", "nodes", "-o", "json", "--request-timeout=8s"]);
    if (nodes.code !== 0) {
      const reason = nodes.stderr.trim().split("\n").at(-1) ?? "";
      return `no cluster is reachable: set KUBECONFIG to one that is (${reason})`;
    }
    const missing = missingImages(nodes.stdout);
    if (missing.length === 0) return false;
    if (performance.now() > giveUpAt) return `the cluster lacks the image ${missing.join(", ")} (CONTRIBUTING.md)`;
    await sleep(1_000);
  }
}

interface NodeList {
  readonly items: readonly {
    readonly status: { readonly images?: readonly { readonly names?: readonly string[] }[] };
  }[];
}

/** Images of this machine alone must be there already; others are pulled. */
function missingImages(nodes: string): string[] {
  const { items } = JSON.parse(nodes) as NodeList;
  const there = new Set(items.flatMap(({ status }) => status.images ?? []).flatMap(({ names }) => names ?? []));
  return [TEST_IMAGE, ETCD_IMAGE, RABBITMQ_IMAGE].filter(
    (image) => image.startsWith("localhost/") && !there.has(image),
  );
}
