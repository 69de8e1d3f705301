/** What charts/orchestrator renders: the front door and its policy enforcer. */
import assert from "node:assert/strict";
import { createPrivateKey } from "node:crypto";
import { before, describe, test } from "node:test";
import type {
  V1Deployment,
  V1NetworkPolicy,
  V1PodDisruptionBudget,
  V1Secret,
  V1Service,
  V1StatefulSet,
} from "@kubernetes/client-node";
import {
  container,
  environmentOf,
  find,
  mountFaults,
  namesOf,
  NO_HELM,
  openings,
  podsOf,
  refusal,
  render,
  securityFaults,
  type Rendered,
  type Values,
} from "./chart.ts";

const EVERYTHING = {
  replicas: 3,
  seed: "configMaps",
  seedConfigMaps: { agreements: "our-agreements", requestTypes: "our-types" },
  answers: { persistence: true, size: "5Gi", storageClass: "fast" },
  tls: { enabled: true, secret: "certificate" },
  ingress: { enabled: true, host: "dynamos.example.org", tlsSecret: "public" },
  gateway: { enabled: true, parentRefs: [{ name: "public" }] },
  metrics: { serviceMonitor: { enabled: true }, dashboard: { enabled: true } },
  networkPolicy: {
    clients: [{ ipBlock: { cidr: "192.0.2.0/24" } }],
    store: { to: [{ ipBlock: { cidr: "192.0.2.3/32" } }], ports: [2380] },
  },
  otel: { endpoint: "https://collector.example.org" },
  keys: { existingSecret: "our-keys" },
  test: {
    user: { id: "analyst-1", userName: "analyst@example.org" },
    providers: ["VU", "UVA"],
    query: "SELECT Geslacht, Aanst_22 FROM Aanstellingen",
    algorithm: "average",
    algorithmColumns: { Geslacht: "Aanst_22" },
    options: { aggregate: true },
  },
};
const VALUES: Readonly<Record<string, Values>> = {
  defaults: {},
  "the sample's documents": { seed: "sample" },
  "no seed": { seed: "none", metrics: { enabled: false } },
  everything: EVERYTHING,
};

describe("the orchestrator's chart", { skip: NO_HELM }, () => {
  const rendered = new Map<string, readonly Rendered[]>();
  before(async () => {
    for (const [name, values] of Object.entries(VALUES)) rendered.set(name, await render("orchestrator", values));
  });
  const objectsOf = (values: keyof typeof VALUES): readonly Rendered[] => rendered.get(values) ?? assert.fail();
  const podOf = (values: keyof typeof VALUES) =>
    find<V1StatefulSet>(objectsOf(values), "StatefulSet", "it").spec?.template.spec ?? assert.fail();

  for (const name of Object.keys(VALUES)) {
    test(`every pod with ${name} is one that "restricted" takes, and mounts what there is`, () => {
      const pods = podsOf(objectsOf(name));
      assert.deepEqual(
        pods.map((pod) => pod.name),
        ["Deployment/it-policy-enforcer", "StatefulSet/it", "Pod/it-test"],
      );
      const claimed = name === "everything" ? ["StatefulSet/it: there is no volume answers"] : [];
      assert.deepEqual(pods.flatMap(securityFaults), []);
      assert.deepEqual(pods.flatMap(mountFaults), claimed);
    });
  }

  test("nothing of it may talk to the Kubernetes API: no rights, no token", () => {
    const objects = Object.keys(VALUES).flatMap(objectsOf);
    assert.deepEqual(
      namesOf(objects).filter((name) => /Role/.test(name)),
      [],
    );
    const text = JSON.stringify(objects);
    assert.doesNotMatch(text, /serviceAccountToken"/);
  });

  test("networks are closed but for what each part needs", () => {
    const policy = (name: string, values = "defaults"): string[] =>
      openings(find<V1NetworkPolicy>(objectsOf(values), "NetworkPolicy", name));
    const core = [
      "to all pods of kube-system namespaces on udp 53,53",
      "to dynamos-agent pods of all namespaces on 8080",
      "to dynamos-etcd pods on 2379",
      "to dynamos-orchestrator+it pods on 8080",
      "to dynamos-rabbitmq pods on 5671,5672",
    ];
    assert.deepEqual(policy("it"), [
      "from all pods of all namespaces on http",
      "from dynamos-agent pods of all namespaces on http",
      "from dynamos-orchestrator+it pods on http",
      "from dynamos-orchestrator-test+it pods on http",
      ...core,
    ]);
    assert.deepEqual(
      policy("it-policy-enforcer"),
      core.filter((line) => !/agent|orchestrator/.test(line)),
    );
    assert.deepEqual(policy("it-test"), [core[0], "to dynamos-orchestrator+it pods on 8080"]);
    assert.deepEqual(policy("it-policy-enforcer", "everything"), [
      "to 192.0.2.3/32 on 2380",
      "to all pods of all namespaces on 443",
      "to all pods of kube-system namespaces on udp 53,53",
      "to dynamos-rabbitmq pods on 5671,5672",
    ]);
  });

  test("each seed is a folder that the orchestrator is told of", () => {
    const folder = (values: string): string | undefined =>
      environmentOf(container(podOf(values), "orchestrator"))["DYNAMOS_SEED_FOLDER"];
    assert.equal(folder("defaults"), "/etc/dynamos/seed");
    assert.equal(folder("the sample's documents"), "/app/configuration");
    assert.equal(folder("no seed"), undefined);
    const mounted = container(podOf("everything"), "orchestrator").volumeMounts?.map(({ mountPath }) => mountPath);
    assert.equal(folder("everything"), "/etc/dynamos/seed");
    assert.deepEqual(
      mounted?.filter((path) => path.startsWith("/etc/dynamos/seed")),
      ["/etc/dynamos/seed/agreements", "/etc/dynamos/seed/requestTypes"],
    );
    assert.match(container(podOf("defaults"), "seed").command?.join(" ") ?? "", /archetypes.*requestTypes.*microserv/);
  });

  test("keys are made: an Ed25519 key that Node.js reads, and an admin key of 48 characters; or those that are there are taken", () => {
    const { data = {} } = find<V1Secret>(objectsOf("defaults"), "Secret", "it-keys");
    const text = (key: string): string => Buffer.from(data[key] ?? "", "base64").toString();
    assert.equal(createPrivateKey(text("signing-key.pem")).asymmetricKeyType, "ed25519");
    assert.match(text("admin-key"), /^[A-Za-z0-9]{48}$/);
    const keys = (values: string): string | undefined =>
      podOf(values).volumes?.find(({ name }) => name === "keys")?.secret?.secretName;
    assert.deepEqual([keys("defaults"), keys("everything")], ["it-keys", "our-keys"]);
    assert.equal(
      namesOf(objectsOf("everything")).some((name) => name.startsWith("Secret/")),
      false,
    );
  });

  test("orchestrators keep their names, and reach each other under them also while they stop", () => {
    const service = find<V1Service>(objectsOf("defaults"), "Service", "it-instances").spec;
    assert.deepEqual([service?.clusterIP, service?.publishNotReadyAddresses], ["None", true]);
    const statefulSet = find<V1StatefulSet>(objectsOf("defaults"), "StatefulSet", "it").spec;
    assert.equal(statefulSet?.serviceName, "it-instances");
    const orchestrator = container(podOf("defaults"), "orchestrator");
    assert.equal(environmentOf(orchestrator)["DYNAMOS_INSTANCE_URL"], "http://$(POD_NAME).it-instances.here.svc:8080");
    assert.equal(orchestrator.lifecycle?.preStop?.sleep?.seconds, 5);
  });

  test("upgrades take one at a time away, and a drain too", () => {
    const enforcer = find<V1Deployment>(objectsOf("defaults"), "Deployment", "it-policy-enforcer").spec;
    const { maxUnavailable, maxSurge } = enforcer?.strategy?.rollingUpdate ?? {};
    assert.deepEqual([maxUnavailable, maxSurge], [0, 1]);
    for (const name of ["it", "it-policy-enforcer"]) {
      const budget = find<V1PodDisruptionBudget>(objectsOf("defaults"), "PodDisruptionBudget", name).spec;
      assert.equal(budget?.maxUnavailable, 1);
      const pods = podsOf(objectsOf("defaults")).filter(({ labels }) =>
        Object.entries(budget?.selector?.matchLabels ?? {}).every(([label, value]) => labels[label] === value),
      );
      assert.deepEqual(pods.length, 1, name);
    }
  });

  test("with TLS the front door is asked by HTTPS, the policy enforcer by HTTP, which only probes call", () => {
    const scheme = (spec: Parameters<typeof container>[0], name: string): string | undefined =>
      container(spec, name).readinessProbe?.httpGet?.scheme;
    assert.equal(scheme(podOf("everything"), "orchestrator"), "HTTPS");
    const enforcer = find<V1Deployment>(objectsOf("everything"), "Deployment", "it-policy-enforcer");
    assert.equal(scheme(enforcer.spec?.template.spec ?? assert.fail(), "policy-enforcer"), "HTTP");
    assert.equal(
      environmentOf(container(podOf("everything"), "orchestrator"))["DYNAMOS_TLS_CA_FILE"],
      "/etc/dynamos/tls/ca.crt",
    );
    assert.equal(environmentOf(container(podOf("defaults"), "orchestrator"))["DYNAMOS_TLS_CA_FILE"], undefined);
  });

  test("what helm test asks is the request that the values say", () => {
    const request = find<{ data: Record<string, string> }>(objectsOf("everything"), "ConfigMap", "it-test").data;
    assert.deepEqual(JSON.parse(request["request.json"] ?? ""), {
      type: "sqlDataRequest",
      user: { id: "analyst-1", userName: "analyst@example.org" },
      dataProviders: ["VU", "UVA"],
      options: { aggregate: true },
      data_request: {
        type: "sqlDataRequest",
        query: "SELECT Geslacht, Aanst_22 FROM Aanstellingen",
        algorithm: "average",
        algorithmColumns: { Geslacht: "Aanst_22" },
        options: { aggregate: true },
      },
    });
  });

  test("Ingress, HTTPRoute, ServiceMonitors and dashboard are there when they are asked for; routes lead to the API alone", () => {
    const flagged = /^(Ingress|HTTPRoute|ServiceMonitor|ConfigMap\/it-dashboard)/;
    const some = (name: string): string[] => namesOf(objectsOf(name)).filter((one) => flagged.test(one));
    assert.deepEqual(some("defaults"), []);
    assert.deepEqual(some("everything"), [
      "ConfigMap/it-dashboard",
      "HTTPRoute/it",
      "Ingress/it",
      "ServiceMonitor/it",
      "ServiceMonitor/it-policy-enforcer",
    ]);
    for (const route of objectsOf("everything").filter(({ kind }) => kind === "Ingress" || kind === "HTTPRoute")) {
      assert.match(JSON.stringify(route), /"\/api".*"\/\.well-known"/);
      assert.doesNotMatch(JSON.stringify(route), /metrics|"\/"/);
    }
  });

  test("what cannot be is refused, with what to change", async () => {
    assert.match(await refusal("orchestrator", { seed: "configMaps" }), /seedConfigMaps: name at least one/);
    assert.match(await refusal("orchestrator", { tls: { enabled: true } }), /tls\.secret: name the Secret/);
    assert.match(await refusal("orchestrator", { ingress: { enabled: true } }), /ingress\.host: the name/);
    assert.match(await refusal("orchestrator", { gateway: { enabled: true } }), /gateway\.parentRefs: name/);
    assert.match(await refusal("orchestrator", { test: { query: "SELECT 1" } }), /test\.query needs test\.user/);
  });
});
