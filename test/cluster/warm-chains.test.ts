/** Warm chains on a cluster: Jobs that wait for a request, serve one, and are gone. UVA has one, for as long as this file runs. */
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { CHAIN_SELECTOR } from "../support/cluster-chains.ts";
import { clusterInstallation, waitUntilWhole, type Installation } from "../support/cluster-installation.ts";
import { rowsOf, salaryRequest } from "../support/cluster-questions.ts";
import { installAgent } from "../support/cluster-releases.ts";
import { kubectlJson, noCluster } from "../support/cluster-tools.ts";
import { eventually } from "../support/eventually.ts";

const skip = await noCluster();

interface ChainJob {
  readonly metadata: { readonly name: string; readonly labels: Readonly<Record<string, string>> };
  readonly status: { readonly active?: number; readonly ready?: number };
}

/** UVA's chains that wait, each with all containers running. */
async function waiting(installation: Installation): Promise<string[]> {
  const { items } = await kubectlJson<{ readonly items: readonly ChainJob[] }>([
    ...["get", "jobs", "-n", installation.namespaceOf("UVA")],
    ...["-l", `${CHAIN_SELECTOR},dynamos.lifetime=warm`],
  ]);
  return items.filter(({ status }) => (status.ready ?? 0) > 0).map(({ metadata }) => metadata.name);
}

if (skip !== false) test("warm chains on a cluster", { skip });
else {
  const installation = await clusterInstallation();
  await installAgent(installation.site, "UVA", "--set", "settings.warmChains=1");
  await waitUntilWhole(installation);
  let isWarm = true;
  after(() => (isWarm ? installAgent(installation.site, "UVA") : undefined));
  const { client } = installation;
  const request = salaryRequest({ providers: ["UVA"] });

  test("a chain that waits serves one request, with the same answer as a cold one, and another takes its place", async () => {
    const cold = rowsOf(await client.ask(request));
    const ready = { timeoutMs: 60_000, intervalMs: 250, describe: "a chain of UVA to wait" };
    const first = await eventually(async () => (await waiting(installation))[0], ready);
    assert.deepEqual(rowsOf(await client.ask(request)), cold);
    const second = await eventually(async () => (await waiting(installation)).find((name) => name !== first), ready);
    assert.notEqual(second, first);
  });

  test("none is left once the agent has none any more", async () => {
    await installAgent(installation.site, "UVA");
    isWarm = false;
    await eventually(async () => (await waiting(installation)).length === 0, {
      timeoutMs: 60_000,
      describe: "the chains that wait to be gone",
    });
  });
}
