/**
 * Persistent chains on a cluster: Jobs that serve many requests, and are gone after disuse. UVA has some for as long as this file
 * runs; its agent has the rights of its chart's Role, and no others.
 */
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { CHAIN_SELECTOR } from "../support/cluster-chains.ts";
import { clusterInstallation, waitUntilWhole } from "../support/cluster-installation.ts";
import { rowsOf, salaryRequest } from "../support/cluster-questions.ts";
import { installAgent } from "../support/cluster-releases.ts";
import { kubectlJson, noCluster } from "../support/cluster-tools.ts";
import { eventually } from "../support/eventually.ts";

const MOST_CHAINS = 2;
const AT_ONCE = 6;
const IDLE_MS = 6_000;

const skip = await noCluster();

interface ChainJob {
  readonly metadata: { readonly name: string };
  readonly status: { readonly active?: number };
}

if (skip !== false) test("persistent chains on a cluster", { skip });
else {
  const installation = await clusterInstallation();
  const { client } = installation;
  const request = salaryRequest({ providers: ["UVA"] });
  // Before there is any other kind of chain.
  const cold = rowsOf(await client.ask(request));
  const settings = `chainLifetime=persistent,persistentChainsMax=${String(MOST_CHAINS)},chainIdleMs=${String(IDLE_MS)}`;
  await installAgent(installation.site, "UVA", "--set", settings.replace(/(^|,)/g, "$1settings."));
  await waitUntilWhole(installation);
  let isPersistent = true;
  after(() => (isPersistent ? installAgent(installation.site, "UVA") : undefined));

  const chains = async (): Promise<readonly ChainJob[]> => {
    const which = ["-l", `${CHAIN_SELECTOR},dynamos.lifetime=persistent`];
    const namespace = installation.namespaceOf("UVA");
    return (await kubectlJson<{ readonly items: readonly ChainJob[] }>(["get", "jobs", "-n", namespace, ...which]))
      .items;
  };
  const living = async (): Promise<string[]> =>
    (await chains()).filter(({ status }) => (status.active ?? 0) > 0).map(({ metadata }) => metadata.name);

  test("one chain serves one request after the other, with the same answer as a cold one", async () => {
    assert.equal(cold.length, 2);
    for (let time = 0; time < 2; time += 1) assert.deepEqual(rowsOf(await client.ask(request)), cold);
    assert.equal((await chains()).length, 1);
  });

  test("several requests at once get the same answer, by no more chains than allowed", async () => {
    const answers = await Promise.all(Array.from({ length: AT_ONCE }, () => client.ask(request)));
    for (const answer of answers) assert.deepEqual(rowsOf(answer), cold);
    const served = (await chains()).length;
    assert.ok(served >= 1 && served <= MOST_CHAINS, `${String(served)} chains`);
  });

  test("chains that nobody uses end by themselves, and the next request gets another", async () => {
    const before = await living();
    const gone = { timeoutMs: 60_000, describe: "the chains to be gone" };
    await eventually(async () => (await living()).length === 0, gone);
    assert.deepEqual(rowsOf(await client.ask(request)), cold);
    assert.ok((await chains()).some(({ metadata }) => !before.includes(metadata.name)));
  });

  test("none is left once the agent starts none any more", async () => {
    await installAgent(installation.site, "UVA");
    isPersistent = false;
    await eventually(async () => (await living()).length === 0, {
      timeoutMs: 60_000,
      describe: "the chains to be gone",
    });
    assert.deepEqual(rowsOf(await client.ask(request)), cold);
  });
}
