/** What a look at a run's namespaces shows when a test has failed: pods, events, and the last lines of every container. */
import { namespacesOf } from "./cluster-namespaces.ts";
import { runProgram } from "./cluster-tools.ts";

const LOG_LINES = "40";

/** Pods, Jobs, events and logs of all namespaces of a run, as text. Never fails: it is asked when something has failed already. */
export async function clusterReport(suffix: string): Promise<string> {
  const parts: string[] = [];
  for (const namespace of await namespacesOf(suffix).catch(() => [])) {
    parts.push(`\n==== namespace ${namespace}`);
    parts.push(await said("get", "pods,jobs,statefulsets,deployments,pvc", "-n", namespace, "-o", "wide"));
    parts.push(await said("get", "events", "-n", namespace, "--sort-by=.lastTimestamp"));
    const pods = (await said("get", "pods", "-n", namespace, "-o", "name"))
      .split("\n")
      .filter((line) => line.startsWith("pod/"));
    for (const pod of pods) {
      parts.push(`---- ${namespace} ${pod}`);
      const logs = ["logs", "-n", namespace, pod, "--all-containers", "--prefix", "--tail", LOG_LINES];
      parts.push(await said(...logs));
      const before = await said(...logs, "--previous");
      if (!/previous terminated container .* not found/.test(before)) parts.push("before its restart:", before);
    }
  }
  return parts.join("\n");
}

async function said(...parameters: readonly string[]): Promise<string> {
  const result = await runProgram("kubectl", parameters, { timeoutMs: 20_000 }).catch((error: unknown) => ({
    stdout: "",
    stderr: String(error),
  }));
  return `${result.stdout}${result.stderr}`.trim();
}
