/** `dynamos doctor --kubernetes` on a real cluster: on a system that is well, and on releases that were broken for the purpose. */
import assert from "node:assert/strict";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { after, describe, test } from "node:test";
import type { Finding } from "../../cli/doctor/findings.ts";
import { packageRoot } from "../../lib/package-root.ts";
import { clusterInstallation } from "../support/cluster-installation.ts";
import { makeNamespaces, namespaceName, newSuffix, removeNamespaces } from "../support/cluster-namespaces.ts";
import { chart, valuesFile } from "../support/cluster-releases.ts";
import { apply, helm, kubectl, kubectlJson, noCluster, runProgram } from "../support/cluster-tools.ts";
import { eventually } from "../support/eventually.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

/** Pulls that fail, and pods that are refused, are told by events within seconds. */
const TOLD_MS = 60_000;
const STORE_PASSWORD = "a-password-that-nobody-may-see";
const skip = await noCluster();

/** What the doctor finds that is not ok. */
async function doctor(
  namespaces: readonly string[],
  environment: Record<string, string> = {},
  ...more: readonly string[]
) {
  const where = namespaces.flatMap((name) => ["--namespace", name]);
  const parameters = [join(packageRoot, "dist/cli/main.js"), "doctor", "--kubernetes", "--json", ...where, ...more];
  const { code, stdout, stderr } = await runProgram(process.execPath, parameters, { environment });
  assert.equal(stderr, "");
  assert.ok(!stdout.includes(STORE_PASSWORD), "the report has a password");
  const { findings } = JSON.parse(stdout) as { readonly findings: readonly Finding[] };
  return { code, findings };
}

/** Asks until a finding has these words, and gives it. */
async function doctorFinds(namespace: string, id: Finding["id"], words: RegExp): Promise<Finding> {
  return eventually(
    async () => {
      const { code, findings } = await doctor([namespace]);
      const found = findings.find((each) => each.id === id && each.level !== "ok" && words.test(each.found));
      assert.ok(found, JSON.stringify(findings.filter(({ level }) => level !== "ok")));
      assert.equal(code, findings.some(({ level }) => level === "fail") ? 1 : 0);
      return found;
    },
    { timeoutMs: TOLD_MS, intervalMs: 1_000, describe: `the doctor to find ${id} ${String(words)}` },
  );
}

if (skip !== false) test("the doctor of a cluster", { skip });
else {
  const suffix = process.env["DYNAMOS_TEST_RUN"] || newSuffix();
  const purposes = ["doctor-poor", "doctor-open"];
  const [poor, open] = purposes.map((purpose) => namespaceName(suffix, purpose)) as [string, string];
  after(() => removeNamespaces(suffix, ...purposes));
  await makeNamespaces(suffix, ...purposes);

  describe("the doctor of a cluster, where a release lacks what it needs", async () => {
    await apply({
      apiVersion: "v1",
      kind: "ResourceQuota",
      metadata: { name: "nothing", namespace: poor },
      spec: { hard: { pods: "0" } },
    });
    await installBroken(poor, "data.sample=true,state.storageClass=nowhere");

    test("names the Secret that is missing, and how it is made", async () => {
      const { fix = "" } = await doctorFinds(poor, "cluster.secret", /dynamos-credentials .*vu names, is not there/);
      assert.match(fix, /dynamos steward add/);
    });

    test("names the keys that a Secret lacks", async () => {
      await giveCredentials(poor, ["DYNAMOS_STORE", "store-password"]);
      await doctorFinds(poor, "cluster.secret", /dynamos-credentials .* has no .*bus-password/);
    });

    test("names the claim that has no volume, and its storage class", async () => {
      const { fix = "" } = await doctorFinds(poor, "cluster.volume", /vu-state.*storage class nowhere/);
      assert.match(fix, /kubectl get storageclass/);
    });

    test("names the quota, and the pods that were not made for it", async () => {
      await doctorFinds(poor, "cluster.quota", /nothing .* no pods left/);
      const { fix = "" } = await doctorFinds(poor, "cluster.pod", /StatefulSet vu .* 0 of 1 pods: .*exceeded quota/);
      assert.match(fix, /ResourceQuota/);
    });
  });

  describe("the doctor of a cluster, where a release is open or cannot run", async () => {
    await giveCredentials(open, [
      ...["DYNAMOS_STEWARD", "DYNAMOS_STORE", "DYNAMOS_BUS", "DYNAMOS_CHAIN_BUS"],
      ...["store-password", "bus-password", "chain-bus-password"],
    ]);
    await installBroken(open, "image.repository=localhost/dynamos-nowhere,networkPolicy.enabled=false");

    test("names the image that cannot be had", async () => {
      const { level, fix = "" } = await doctorFinds(open, "cluster.image", /localhost\/dynamos-nowhere.*vu-0/);
      assert.equal(level, "fail");
      assert.match(fix, /registry|image\.repository/);
    });

    test("names pods that no NetworkPolicy closes", async () => {
      await doctorFinds(open, "cluster.network", /vu-0 \(ingress, egress\).*the pods of chains/);
    });

    test("names a namespace that lets any pod in", async () => {
      await kubectl(["label", "namespace", open, "pod-security.kubernetes.io/enforce-"]);
      const { fix = "" } = await doctorFinds(open, "cluster.namespace", /no Pod Security level/);
      await runFix(fix);
      const { findings } = await doctor([open]);
      assert.equal(findings.find(({ id }) => id === "cluster.namespace")?.level, "ok");
    });

    test("names rights that an agent lacks, and those that it has too many", async () => {
      const { findings } = await doctor([open]);
      assert.equal(findings.find(({ id }) => id === "cluster.rights")?.level, "ok");
      await kubectl(["delete", "role", "vu", "-n", open]);
      const { found } = await doctorFinds(open, "cluster.rights", /service account vu .* may not: /);
      for (const right of ["create jobs.batch", "delete pods", "get pods/log", "create events"])
        assert.ok(found.includes(right), `${right} in: ${found}`);
      const account = `--serviceaccount=${open}:vu`;
      await kubectl(["create", "rolebinding", "too-much", "-n", open, "--clusterrole=admin", account]);
      await doctorFinds(open, "cluster.rights", /may more than it needs: .*get secrets.*create pods\/exec/);
    });

    test("skips by name what the one who asks may not see", async () => {
      const { code, findings } = await doctor([open], { KUBECONFIG: await kubeconfigOfViewer(open) });
      const skipped = findings.filter(({ level }) => level === "skip").map(({ id }) => id);
      assert.deepEqual([...new Set(skipped)].sort(), ["cluster.rights", "cluster.secret"]);
      assert.ok(findings.some(({ id, level }) => id === "cluster.image" && level === "fail"));
      assert.equal(code, 1);
    });
  });

  test("the doctor of a cluster finds no fault with a system that is well, whose policies are enforced", async () => {
    const { core, namespaceOf } = await clusterInstallation();
    const namespaces = [core, ...["VU", "UVA", "SURF"].map(namespaceOf)];
    // Other files of the run have just broken it on purpose.
    const findings = await eventually(
      async () => {
        const report = await doctor(namespaces, {}, "--try-network");
        const faults = report.findings.filter(({ level }) => level === "fail" || level === "skip");
        assert.deepEqual(faults, []);
        return report.findings;
      },
      { timeoutMs: TOLD_MS, intervalMs: 2_000, describe: "the doctor to find no fault" },
    );
    for (const id of ["cluster.rights", "cluster.secret", "cluster.pod", "cluster.enforcement", "cluster.clock"])
      assert.ok(
        findings.some((each) => each.id === id && each.level === "ok"),
        id,
      );
  });
}

test("the doctor of a cluster that does not answer says so", { skip }, async () => {
  const file = join(await temporaryFolder(), "kubeconfig");
  await writeFile(file, kubeconfig("https://127.0.0.1:9", { token: "none" }));
  const { code, findings } = await doctor([], { KUBECONFIG: file });
  assert.deepEqual(
    findings.map(({ id, level }) => [id, level]),
    [["cluster.reachable", "fail"]],
  );
  assert.equal(code, 1);
});

/** Without waiting: it never becomes ready. */
async function installBroken(namespace: string, values: string): Promise<void> {
  const small = "resources.requests.cpu=1m,messaging.resources.requests.cpu=1m";
  const parameters = ["-n", namespace, "-f", valuesFile("agent"), "--set", `steward=VU,${small},${values}`];
  await helm(["upgrade", "--install", "vu", chart("agent"), ...parameters]);
}

async function giveCredentials(namespace: string, keys: readonly string[]): Promise<void> {
  const stringData = Object.fromEntries(keys.map((key) => [key, STORE_PASSWORD]));
  await apply({ apiVersion: "v1", kind: "Secret", metadata: { name: "dynamos-credentials", namespace }, stringData });
}

/** A command of `kubectl`, as the doctor writes it. */
async function runFix(fix: string): Promise<void> {
  const [program, ...parameters] = fix.split(" ");
  assert.equal(program, "kubectl");
  await kubectl(parameters);
}

/** A kubeconfig of somebody who may view the namespace, and neither its Secrets nor what others may do. */
async function kubeconfigOfViewer(namespace: string): Promise<string> {
  await kubectl(["create", "serviceaccount", "viewer", "-n", namespace]);
  const account = `--serviceaccount=${namespace}:viewer`;
  await kubectl(["create", "rolebinding", "viewer", "-n", namespace, "--clusterrole=view", account]);
  const token = (await kubectl(["create", "token", "viewer", "-n", namespace])).trim();
  const { clusters } = await kubectlJson<{
    readonly clusters: readonly {
      readonly cluster: { readonly server: string; readonly "certificate-authority-data"?: string };
    }[];
  }>(["config", "view", "--minify", "--raw", "--flatten"]);
  const [current] = clusters;
  const file = join(await temporaryFolder(), "kubeconfig");
  await writeFile(
    file,
    kubeconfig(current!.cluster.server, { token }, current!.cluster["certificate-authority-data"]),
    { mode: 0o600 },
  );
  return file;
}

function kubeconfig(server: string, user: object, ca?: string): string {
  return JSON.stringify({
    apiVersion: "v1",
    kind: "Config",
    clusters: [{ name: "c", cluster: { server, ...(ca === undefined ? {} : { "certificate-authority-data": ca }) } }],
    users: [{ name: "u", user }],
    contexts: [{ name: "x", context: { cluster: "c", user: "u" } }],
    "current-context": "x",
  });
}
