/**
 * The commands of docs/kubernetes.md as they stand, in the namespaces that they name: from a cluster without the system to a right
 * answer. Only what is the reader's own differs: where the images are, and the port of this machine.
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { chmod, writeFile } from "node:fs/promises";
import { createServer, type AddressInfo } from "node:net";
import { delimiter, join } from "node:path";
import { after, test } from "node:test";
import type { GatheredAnswer } from "../../cli/client.ts";
import { writeSampleData } from "../../cli/generate-sample-data.ts";
import { packageRoot } from "../../lib/package-root.ts";
import { imageValues, valuesFile } from "../support/cluster-releases.ts";
import { ETCD_IMAGE, RABBITMQ_IMAGE, TEST_IMAGE, kubectl, noCluster, runProgram } from "../support/cluster-tools.ts";
import { readPackageFile, sectionsOf } from "../support/markdown.ts";
import { averageSalaries } from "../support/sample-salaries.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const NAMESPACES = ["dynamos", "vu", "uva", "surf"];
const RELEASES = { core: "dynamos", orchestrator: "dynamos", vu: "vu", uva: "uva", surf: "surf" };
const TIMEOUT_MS = 300_000;

const skip = await noCluster();

if (skip !== false) test("the commands of docs/kubernetes.md", { skip });
else {
  const section = sectionsOf(await readPackageFile("docs/kubernetes.md")).find(
    ({ title }) => title === "From an empty cluster to an answer",
  );
  const [install, ask] = (section?.code ?? []).filter(({ language }) => language === "sh");
  const folder = await temporaryFolder();
  let isOurs = false;
  after(async () => {
    if (!isOurs) return;
    for (const [release, namespace] of Object.entries(RELEASES)) {
      await runProgram("helm", ["uninstall", release, "-n", namespace, "--ignore-not-found"]);
    }
    await kubectl(["delete", "namespace", ...NAMESPACES, "--ignore-not-found", "--wait", "--timeout=120s"], {
      timeoutMs: 130_000,
    });
  });

  test("install the sample's exchange on a cluster that has none", async () => {
    const there = await kubectl(["get", "namespaces", ...NAMESPACES, "--ignore-not-found", "-o", "name"]);
    assert.equal(there, "", "the document's namespaces are in use on this cluster, and left alone");
    isOurs = true;
    await writeFile(join(folder, "helm"), await helmWithImages());
    await chmod(join(folder, "helm"), 0o755);
    await runShell(install?.text ?? "", folder);
  });

  test("ask it, and get the averages that the files give", async () => {
    const port = String(await freePort());
    const script = (ask?.text ?? "")
      .replaceAll("localhost:8080", `localhost:${port}`)
      .replace("8080:8080", `${port}:8080`);
    const printed = await runShell(`trap 'kill $!' EXIT\n${script}`, folder);
    const answer = JSON.parse(printed.slice(printed.indexOf("{"))) as GatheredAnswer;
    assert.equal(answer.status, "ok");
    const found = answer.pooled?.rows?.map(({ Geslacht, average_Aanst_22: average }) => [
      Geslacht,
      Number(average).toFixed(2),
    ]);
    for (const steward of ["VU", "UVA"] as const) await writeSampleData(join(folder, steward), steward);
    assert.deepEqual(found, [...(await averageSalaries(["VU", "UVA"], folder))].sort());
  });
}

/** A `helm` that installs this repository's charts with the images of the tests. */
async function helmWithImages(): Promise<string> {
  const { stdout } = await runProgram("sh", ["-c", "command -v helm"]);
  const values = (chart: "core" | "orchestrator" | "agent", ...more: readonly string[]): string =>
    `exec ${stdout.trim()} "$@" -f ${valuesFile(chart === "core" ? "core-debian" : chart)} --set-string ${[imageValues("", TEST_IMAGE), ...more].join(",")}`;
  return [
    "#!/bin/sh",
    'case "$3" in',
    `  charts/core) ${values("core", imageValues("etcd.", ETCD_IMAGE), imageValues("rabbitmq.", RABBITMQ_IMAGE))} ;;`,
    `  charts/orchestrator) ${values("orchestrator")} ;;`,
    `  charts/agent) ${values("agent")} ;;`,
    "esac",
    'echo "helm $* is not expected here" >&2; exit 2',
    "",
  ].join("\n");
}

/** Runs commands of the document as the reader's shell would, in a checkout; resolves with what they printed. */
function runShell(script: string, programs: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn("bash", ["-euo", "pipefail", "-c", script], {
      cwd: packageRoot,
      env: { ...process.env, PATH: `${programs}${delimiter}${process.env["PATH"] ?? ""}` },
      stdio: ["ignore", "pipe", "pipe"],
      timeout: TIMEOUT_MS,
    });
    let [stdout, stderr] = ["", ""];
    child.stdout.setEncoding("utf8").on("data", (text: string) => (stdout += text));
    child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text));
    child.once("error", reject);
    child.once("close", (code) => {
      if (code === 0) resolve(stdout);
      else reject(new Error(`ended with ${String(code)}: ${stderr}${stdout}`));
    });
  });
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer().once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address() as AddressInfo;
      server.close(() => resolve(port));
    });
  });
}
