/** Connections: what is needed works, and what is not is refused by the network, whoever holds which credentials. */
import { after, describe, test } from "node:test";
import { clusterInstallation } from "../support/cluster-installation.ts";
import { makeNamespaces, namespaceName, removeNamespaces } from "../support/cluster-namespaces.ts";
import { podsOf } from "../support/cluster-pods.ts";
import { assertConnects, placeIn, removeProbe, startProbe, type Address } from "../support/cluster-probes.ts";
import { noCluster } from "../support/cluster-tools.ts";

const skip = await noCluster();

if (skip !== false) test("NetworkPolicies", { skip });
else {
  const { core, namespaceOf, site } = await clusterInstallation();
  const { suffix } = site;
  const VU = namespaceOf("VU");
  const elsewhere = namespaceName(suffix, "elsewhere");
  await makeNamespaces(suffix, "elsewhere");
  after(() => removeNamespaces(suffix, "elsewhere"));
  const chainLabels = { "app.kubernetes.io/name": "dynamos-chain", "dynamos.steward": "VU" };
  const [stranger, other, chain] = await Promise.all([
    startProbe(elsewhere, "stranger"),
    startProbe(elsewhere, "other"),
    startProbe(VU, "as-chain", { ...chainLabels, "app.kubernetes.io/managed-by": "dynamos-agent" }),
  ]);
  after(() => removeProbe(chain));
  const agent = await placeIn(VU, (await podsOf(VU, "app.kubernetes.io/name=dynamos-agent"))[0]?.name ?? "", "agent");

  const places: Readonly<Record<string, Address>> = {
    RabbitMQ: { host: `core-rabbitmq.${core}.svc`, port: 5672 },
    etcd: { host: `core-etcd.${core}.svc`, port: 2379 },
    "the orchestrator": { host: `orchestrator.${core}.svc`, port: 8080 },
    "its own agent": { host: `vu.${VU}.svc`, port: 8080 },
    "another steward's agent": { host: `uva.${namespaceOf("UVA")}.svc`, port: 8080 },
    "the API server": { host: "kubernetes.default.svc", port: 443 },
    "a place elsewhere": { host: other.ip, port: 8080 },
  };

  describe("a chain", () => {
    const allowed = ["RabbitMQ"];
    for (const [name, place] of Object.entries(places)) {
      const may = allowed.includes(name);
      test(`${may ? "reaches" : "does not reach"} ${name}`, () => assertConnects(chain, place, may));
    }
  });

  describe("an agent", () => {
    const allowed = ["RabbitMQ", "etcd", "the orchestrator", "the API server"];
    for (const [name, place] of Object.entries(places)) {
      if (name === "its own agent" || name === "another steward's agent") continue;
      const may = allowed.includes(name);
      test(`${may ? "reaches" : "does not reach"} ${name}`, () => assertConnects(agent, place, may));
    }
  });

  describe("a pod of none of us", () => {
    const allowed = [
      "the orchestrator",
      "another steward's agent",
      "its own agent",
      "the API server",
      "a place elsewhere",
    ];
    for (const [name, place] of Object.entries(places)) {
      const may = allowed.includes(name);
      test(`${may ? "reaches" : "does not reach"} ${name}`, () => assertConnects(stranger, place, may));
    }

    test("does not reach a chain", () => assertConnects(stranger, { host: chain.ip, port: 8080 }, false));
  });
}
