/** RUG joins a system that runs: a Secret, a release, an agreement. Nothing is restarted, and RUG is asked with the others at once. */
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { after, test } from "node:test";
import { averageSalaryBySex } from "../../cli/demo/known-answer.ts";
import { writeSampleData } from "../../cli/generate-sample-data.ts";
import type { Agreement } from "../../lib/model/agreement.ts";
import { packageRoot } from "../../lib/package-root.ts";
import { clusterInstallation } from "../support/cluster-installation.ts";
import { makeNamespaces, removeNamespaces } from "../support/cluster-namespaces.ts";
import { podsOf } from "../support/cluster-pods.ts";
import { askUntilAnswered, salaryRequest } from "../support/cluster-questions.ts";
import { addSteward, installAgent, removeSteward, valuesFile } from "../support/cluster-releases.ts";
import { helm, kubectl, noCluster } from "../support/cluster-tools.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

/** Small enough for a ConfigMap. */
const PAIRS = 60;
const skip = await noCluster();

if (skip !== false) test("a fourth steward", { skip });
else {
  const installation = await clusterInstallation();
  const { client, adminKey: token, core, namespaceOf, site } = installation;
  const data = await temporaryFolder();
  after(() => removeNamespaces(site.suffix, "rug"));

  test("RUG joins with a Secret, a release and an agreement, and its CSV files from a ConfigMap are asked at once", async () => {
    const before = await podsBefore();
    for (const steward of ["VU", "UVA"] as const) await writeSampleData(join(data, steward), steward);
    const files = await writeSampleData(join(data, "RUG"), "RUG", { pairs: PAIRS });
    await makeNamespaces(site.suffix, "rug");
    const RUG = namespaceOf("RUG");
    await kubectl([
      "create",
      "configmap",
      "people",
      "-n",
      RUG,
      ...Object.values(files).map((file) => `--from-file=${file}`),
    ]);
    await addSteward(site, "RUG", "dataProvider");
    await installAgent(site, "RUG", "-f", valuesFile("rug"), "--set", "data.sample=false");
    await client.put("policyEnforcer", await agreementLikeVus(), { token });
    const { answer } = await askUntilAnswered(client, salaryRequest({ providers: ["VU", "UVA", "RUG"] }));
    const known = await averageSalaryBySex(data, ["VU", "UVA", "RUG"]);
    const rows = answer.pooled?.rows ?? [];
    assert.deepEqual(
      rows.map(({ Geslacht }) => Geslacht),
      [...known.keys()].sort(),
    );
    for (const row of rows) {
      const right = known.get(String(row["Geslacht"])) ?? Number.NaN;
      assert.ok(Math.abs(Number(row["average_Aanst_22"]) - right) <= 1e-9 * right, JSON.stringify(row));
    }
    assert.deepEqual(await podsBefore(), before, "pods, or their counts of restarts, have changed");
  });

  test("RUG leaves: its agreement is withdrawn, its release removed, its credentials revoked, and the others go on", async () => {
    await fetch(`${client.url}/api/v1/policyEnforcer/RUG`, {
      method: "DELETE",
      headers: { authorization: `Bearer ${token}` },
    });
    await helm(["uninstall", "rug", "-n", namespaceOf("RUG"), "--wait"]);
    await removeSteward(site, "RUG");
    const { answer } = await askUntilAnswered(client, salaryRequest());
    assert.equal(answer.status, "ok");
  });

  /** All pods but those of chains: who they are, and how often they were restarted. */
  async function podsBefore(): Promise<Record<string, string>> {
    const selector = "app.kubernetes.io/name!=dynamos-chain";
    const pods: Record<string, string> = {};
    for (const namespace of [core, ...["VU", "UVA", "SURF"].map(namespaceOf)]) {
      for (const { name, uid, restarts } of await podsOf(namespace, selector)) {
        pods[`${namespace}/${name}`] = `${uid} restarted ${String(restarts)} times`;
      }
    }
    return pods;
  }

  async function agreementLikeVus(): Promise<Agreement> {
    const text = await readFile(join(packageRoot, "configuration", "agreements", "VU.json"), "utf8");
    return { ...(JSON.parse(text) as Agreement), name: "RUG" };
  }
}
