/** The charts: valid for Helm and for the API server, installed and ready, tested by Helm's own tests, and found whole by the doctor. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { clusterInstallation } from "../support/cluster-installation.ts";
import { podsOf } from "../support/cluster-pods.ts";
import { chart, installCore, type Chart } from "../support/cluster-releases.ts";
import { helm, kubectl, kubectlJson, noCluster, runProgram } from "../support/cluster-tools.ts";

/** What a steward or an operator would set, beyond the defaults; every part that is behind a flag is on, but other people's kinds. */
const EVERYTHING = {
  core: [[], ["--set", "tls.enabled=true,tls.secret=core-tls,tls.ca=PEM"]],
  orchestrator: [
    [],
    ["--set", "tls.enabled=true,tls.secret=front-door-tls,ingress.enabled=true,ingress.host=dynamos.example.org"],
  ],
  agent: [
    ["--set", "steward=SURF"],
    ["--set", "steward=VU,data.sample=true,replicas=2"],
    [
      "--set",
      "steward=VU,data.existingClaim=mine,dataSets.people.engine=sqlite,dataSets.people.path=people.db,tls.enabled=true,tls.secret=vu-tls,ingress.enabled=true,ingress.host=vu.example.org",
    ],
  ],
} as const;

const skip = await noCluster();

if (skip !== false) test("the charts", { skip });
else {
  const { core, namespaceOf, client, site } = await clusterInstallation();
  const releases = [
    ["core", core],
    ["orchestrator", core],
    ["vu", namespaceOf("VU")],
    ["uva", namespaceOf("UVA")],
    ["surf", namespaceOf("SURF")],
  ] as const;

  for (const [name, variants] of Object.entries(EVERYTHING)) {
    const folder = chart(name as Chart);
    describe(`charts/${name}`, () => {
      for (const values of variants) {
        const what = values.length === 0 ? "its defaults" : values.slice(1).join(" ");
        test(`passes helm lint, and the API server takes what it makes, with ${what}`, async () => {
          await helm(["lint", "--strict", "--quiet", folder, ...values]);
          const manifests = await helm(["template", "tried", folder, "-n", core, "--no-hooks", ...values]);
          await kubectl(["apply", "--dry-run=server", "-n", core, "-f", "-"], { input: manifests });
        });
      }

      test("refuses a value that it does not know, by name", async () => {
        const result = await runProgram("helm", ["template", "tried", folder, "--set", "steward=VU,noSuchValue=1"]);
        assert.notEqual(result.code, 0);
        assert.match(result.stderr, /noSuchValue/);
      });
    });
  }

  test("a data steward's chart without a name is refused", async () => {
    const result = await runProgram("helm", ["template", "tried", chart("agent")]);
    assert.notEqual(result.code, 0);
    assert.match(result.stderr, /steward/);
  });

  test("every pod of ours is ready", async () => {
    for (const [, namespace] of releases) {
      const pods = await podsOf(namespace, "app.kubernetes.io/name!=dynamos-chain");
      assert.ok(pods.length > 0, namespace);
      assert.deepEqual(
        pods.filter(({ isReady }) => !isReady).map(({ name }) => name),
        [],
        namespace,
      );
    }
  });

  test("two orchestrators and two agents of VU are there, and everybody knows both", async () => {
    assert.equal((await podsOf(core, "app.kubernetes.io/name=dynamos-orchestrator")).length, 2);
    assert.equal((await podsOf(namespaceOf("VU"), "app.kubernetes.io/name=dynamos-agent")).length, 2);
    const online = (await client.get("getAvailableProviders")) as Readonly<Record<string, unknown>>;
    assert.deepEqual(Object.keys(online).sort(), ["SURF", "UVA", "VU"]);
  });

  test("no chart has a password of its own: each release's are made for it, and kept", async () => {
    const read = async (namespace: string): Promise<string> => {
      const { items } = await kubectlJson<{ readonly items: readonly { readonly data?: object }[] }>([
        ...["get", "secrets", "-n", namespace, "--field-selector", "type=Opaque"],
      ]);
      return JSON.stringify(items.map(({ data }) => data));
    };
    const before = await read(core);
    await installCore(site);
    assert.equal(await read(core), before);
  });

  for (const [release, namespace] of releases) {
    test(`helm test ${release} passes`, async () => {
      await helm(["test", release, "-n", namespace, "--timeout", "120s"]);
    });
  }
}
