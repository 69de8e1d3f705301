/** What charts/agent renders: a third party with nothing but its name, stewards with each kind of data. */
import assert from "node:assert/strict";
import { createPrivateKey } from "node:crypto";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import type {
  V1ConfigMap,
  V1NetworkPolicy,
  V1PersistentVolumeClaim,
  V1Role,
  V1Secret,
  V1ServiceAccount,
  V1StatefulSet,
  V1Volume,
  V1VolumeMount,
} from "@kubernetes/client-node";
import { readDataPods } from "../../agent/data/data-pods.ts";
import { serviceFlags } from "../../cli/exchange/service-process.ts";
import { CHAIN_LABELS } from "../../lib/jobs/kubernetes-manifest.ts";
import { checkKubernetesSettings } from "../../lib/jobs/kubernetes-settings.ts";
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

/** The job settings that matter here (lib/jobs). */
interface Jobs {
  readonly image: string;
  readonly limits: Readonly<Record<string, unknown>>;
  readonly affinity: object;
  readonly labels: Readonly<Record<string, string>>;
  readonly volumes: readonly V1Volume[];
  readonly mounts: Readonly<Record<"data" | "anonymizationKey" | "sidecar", readonly V1VolumeMount[]>>;
}

const SAMPLE = { steward: "VU", data: { sample: true } };
const CSV = {
  steward: "HVA",
  data: { configMap: "salaries" },
  dataSets: { wageGap: { engine: "csv", files: { Personen: "p.csv", Aanstellingen: ["2023.csv", "/data/2024.csv"] } } },
};
const SQLITE = {
  steward: "HVA",
  data: { existingClaim: "archive", subPath: "current" },
  dataSets: { archive: { engine: "sqlite", path: "a.db" } },
  dataSecrets: ["warehouse"],
};
const EVERYTHING = {
  ...SQLITE,
  replicas: 2,
  state: { accessMode: "ReadWriteMany", storageClass: "shared" },
  tls: { enabled: true, secret: "certificate" },
  ingress: { enabled: true, host: "hva.example.org", tlsSecret: "public" },
  gateway: { enabled: true, parentRefs: [{ name: "public" }], hostnames: ["hva.example.org"] },
  metrics: { serviceMonitor: { enabled: true }, dashboard: { enabled: true } },
  networkPolicy: {
    clients: [{ ipBlock: { cidr: "192.0.2.0/24" } }],
    scrapers: [{ namespaceSelector: { matchLabels: { name: "monitoring" } } }],
    kubernetesApi: { cidrs: ["192.0.2.1/32"] },
  },
  otel: { endpoint: "http://collector.monitoring.svc:4318" },
  image: { repository: "registry.example.org/dynamos", tag: "1.2.3", pullSecrets: ["registry"] },
  extraEnv: [{ name: "NODE_OPTIONS", value: "--max-old-space-size=512" }],
};
const VALUES: Readonly<Record<string, Values>> = {
  "a third party": { steward: "SURF" },
  "sample data": SAMPLE,
  "CSV files of a ConfigMap": CSV,
  "SQLite on a volume": SQLITE,
  everything: EVERYTHING,
};

describe("the agent's chart", { skip: NO_HELM }, () => {
  const rendered = new Map<string, readonly Rendered[]>();
  let folder = "";

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), "dynamos-party-"));
    for (const [name, values] of Object.entries(VALUES)) rendered.set(name, await render("agent", values));
  });
  after(() => rm(folder, { recursive: true, force: true }));

  const objectsOf = (values: keyof typeof VALUES): readonly Rendered[] => rendered.get(values) ?? assert.fail();
  const agentOf = (values: keyof typeof VALUES): V1StatefulSet => find(objectsOf(values), "StatefulSet", "it");
  const jobsOf = (values: keyof typeof VALUES): Jobs =>
    JSON.parse(find<V1ConfigMap>(objectsOf(values), "ConfigMap", "it-jobs").data?.["jobs.json"] ?? "") as Jobs;

  for (const name of Object.keys(VALUES)) {
    test(`every pod of ${name} is one that "restricted" takes, and mounts what there is`, () => {
      const pods = podsOf(objectsOf(name));
      assert.deepEqual(
        pods.map((pod) => pod.name),
        ["StatefulSet/it", "Pod/it-test"],
      );
      assert.deepEqual(pods.flatMap(securityFaults), []);
      assert.deepEqual(pods.flatMap(mountFaults), []);
    });

    test(`the agent of ${name} finds its data files, at absolute paths`, async () => {
      const party = find<V1ConfigMap>(objectsOf(name), "ConfigMap", "it-party").data?.["party.json"] ?? "";
      await writeFile(join(folder, "party.json"), party);
      const { dataSets } = await readDataPods(join(folder, "party.json"));
      const paths = Object.values(dataSets).flatMap((pod) =>
        pod.engine === "sqlite" ? [pod.path] : Object.values(pod.files).flat(),
      );
      assert.deepEqual(
        paths.filter((path) => !path.startsWith("/data/")),
        [],
      );
      assert.equal(Object.keys(dataSets).length > 0, name !== "a third party");
    });

    test(`the agent of ${name} has the flags under which its program was compiled`, () => {
      const { command } = container(agentOf(name).spec?.template.spec ?? assert.fail(), "agent");
      assert.deepEqual(command?.slice(1, -1), serviceFlags("agent/main"));
    });

    test(`the agent of ${name} takes the job settings that the chart writes`, () => {
      checkKubernetesSettings(jobsOf(name), "jobs.json");
    });

    test(`chains of ${name} find what they need where the agent has it`, () => {
      const { volumes, mounts } = jobsOf(name);
      const named = volumes.map((volume) => volume.name);
      const mounted = Object.values(mounts).flatMap((some) => some.map((mount) => mount.name));
      assert.deepEqual([...new Set(mounted)].sort(), [...named].sort());
      const agent = container(agentOf(name).spec?.template.spec ?? assert.fail(), "agent");
      const at = (some: readonly V1VolumeMount[]): string[] =>
        some.map(({ mountPath, subPath = "" }) => `${mountPath} ${subPath}`);
      const inAgent = at(agent.volumeMounts ?? []);
      assert.deepEqual(
        at(mounts.data).filter((path) => !inAgent.includes(path)),
        [],
      );
      assert.deepEqual(at(mounts.anonymizationKey), ["/var/lib/dynamos/keys "]);
      assert.deepEqual(at(mounts.sidecar), ["/etc/dynamos/credentials/chain "]);
    });
  }

  test("a third party needs no volume, and its chains get no data", () => {
    assert.deepEqual(
      namesOf(objectsOf("a third party")).filter((name) => name.startsWith("Persistent")),
      [],
    );
    assert.deepEqual(jobsOf("a third party").mounts.data, []);
  });

  test("chains get the anonymization key alone of the keys, and of the credentials those of the chains' bus", () => {
    const volumes = jobsOf("sample data").volumes;
    const keys = volumes.find(({ name }) => name === "anonymization-key")?.secret;
    assert.deepEqual(
      keys?.items?.map(({ key }) => key),
      ["anonymization-key"],
    );
    const credentials = volumes.find(({ name }) => name === "chain-bus-credentials")?.projected?.sources ?? [];
    assert.deepEqual(
      credentials.flatMap(({ secret }) => secret?.items?.map(({ key, path }) => `${key} as ${path}`)),
      ["chain-bus-password as bus-password", "bus-ca.pem as bus-ca.pem"],
    );
  });

  test("chains read source data, and cannot change them", () => {
    for (const name of ["sample data", "CSV files of a ConfigMap", "SQLite on a volume"]) {
      const source = jobsOf(name).mounts.data.find(({ mountPath }) => mountPath === "/data");
      assert.equal(source?.readOnly, true, name);
    }
  });

  test("where one node at a time may mount the volume, agents and chains keep together; else they spread", () => {
    const near = JSON.stringify(jobsOf("sample data").affinity);
    assert.match(near, /"podAffinity":\{"requiredDuringScheduling.*"app\.kubernetes\.io\/instance":"it"/);
    assert.equal(JSON.stringify(agentOf("sample data").spec?.template.spec?.affinity), near);
    assert.deepEqual(jobsOf("everything").affinity, {});
    assert.equal(agentOf("everything").spec?.template.spec?.affinity, undefined);
    const [spread] = agentOf("everything").spec?.template.spec?.topologySpreadConstraints ?? [];
    assert.equal(spread?.whenUnsatisfiable, "ScheduleAnyway");
    const claim = find<V1PersistentVolumeClaim>(objectsOf("everything"), "PersistentVolumeClaim", "it-state");
    assert.deepEqual(claim.spec?.accessModes, ["ReadWriteMany"]);
  });

  test("the agent reaches the broker by its sidecar alone, which starts before it and has only the broker's password", () => {
    const pod = agentOf("sample data").spec?.template.spec ?? assert.fail();
    const sidecar = container(pod, "messaging");
    assert.equal(sidecar.restartPolicy, "Always");
    assert.equal(environmentOf(sidecar)["DYNAMOS_BUS"], "secret:dynamos-credentials/DYNAMOS_BUS");
    assert.equal(environmentOf(container(pod, "agent"))["DYNAMOS_BUS"], "sidecar:127.0.0.1:50051");
    const passwords = (name: string): unknown =>
      pod.volumes
        ?.find((volume) => volume.name === name)
        ?.projected?.sources?.flatMap(({ secret }) => secret?.items?.map(({ key }) => key));
    assert.deepEqual(passwords("bus-credentials"), ["bus-password", "bus-ca.pem"]);
    assert.deepEqual(passwords("store-credentials"), ["store-password", "store-ca.pem"]);
    const tokens = (name: string): boolean =>
      (container(pod, name).volumeMounts ?? []).some(({ mountPath }) => mountPath.includes("serviceaccount"));
    assert.deepEqual([tokens("agent"), tokens("messaging")], [true, false]);
  });

  test("the agent may touch Jobs, Pods, their logs and events of its namespace, and nothing else", () => {
    const objects = objectsOf("everything");
    assert.deepEqual(
      namesOf(objects).filter((name) => /Role|Account/.test(name)),
      ["Role/it", "RoleBinding/it", "ServiceAccount/it"],
    );
    const { rules } = find<V1Role>(objects, "Role", "it");
    assert.deepEqual(
      rules?.map(({ apiGroups, resources, verbs }) => [...(apiGroups ?? []), ...(resources ?? []), verbs.join()]),
      [
        ["batch", "jobs", "create,get,list,watch,patch,delete"],
        ["", "pods", "get,list,watch,patch,delete"],
        ["", "pods/log", "get"],
        ["", "events", "create,get,list,watch"],
      ],
    );
    assert.equal(find<V1ServiceAccount>(objects, "ServiceAccount", "it").automountServiceAccountToken, false);
  });

  test("networks are closed but for what agents need; chains reach the broker alone", () => {
    const policy = (name: string, values = "sample data"): string[] =>
      openings(find<V1NetworkPolicy>(objectsOf(values), "NetworkPolicy", name));
    const dns = "to all pods of kube-system namespaces on udp 53,53";
    assert.deepEqual(policy("it"), [
      "from all pods of all namespaces on http",
      "from dynamos-agent+it pods on http",
      "from dynamos-agent-test+it pods on http",
      "from dynamos-orchestrator pods of dynamos namespaces on http",
      dns,
      "to anywhere on 443,6443",
      "to dynamos-agent+it pods on 8080",
      "to dynamos-etcd pods of dynamos namespaces on 2379",
      "to dynamos-orchestrator pods of dynamos namespaces on 8080",
      "to dynamos-rabbitmq pods of dynamos namespaces on 5671,5672",
    ]);
    assert.deepEqual(policy("it-chains"), [dns, "to dynamos-rabbitmq pods of dynamos namespaces on 5671,5672"]);
    assert.deepEqual(policy("it-test"), [
      dns,
      "to dynamos-agent+it pods on 8080",
      "to dynamos-orchestrator pods of dynamos namespaces on 8080",
    ]);
    assert.deepEqual(policy("it-chains", "everything"), [
      "to all pods of all namespaces on 4318",
      dns,
      "to dynamos-rabbitmq pods of dynamos namespaces on 5671,5672",
    ]);
    assert.deepEqual(
      policy("it", "everything").filter((line) => /^from|192/.test(line)),
      [
        "from 192.0.2.0/24 on http",
        "from all pods of monitoring namespaces on http,bus-metrics",
        "from dynamos-agent+it pods on http",
        "from dynamos-agent-test+it pods on http",
        "from dynamos-orchestrator pods of dynamos namespaces on http",
        "to 192.0.2.1/32 on 443,6443",
      ],
    );
  });

  test("every pod, and every chain, is closed by one policy", () => {
    const objects = objectsOf("everything");
    const policies = objects.filter(({ kind }) => kind === "NetworkPolicy") as unknown as readonly V1NetworkPolicy[];
    const closed = (labels: Readonly<Record<string, string>>): (string | undefined)[] =>
      policies
        .filter(({ spec }) =>
          Object.entries(spec?.podSelector?.matchLabels ?? {}).every(([label, value]) => labels[label] === value),
        )
        .map(({ metadata }) => metadata?.name);
    assert.deepEqual(
      podsOf(objects).map(({ labels }) => closed(labels)),
      [["it"], ["it-test"]],
    );
    assert.deepEqual(closed({ ...jobsOf("everything").labels, ...CHAIN_LABELS }), ["it-chains"]);
  });

  test("a pod has longer to stop than its hook, the drain and the clearing up take", async () => {
    const drains: Readonly<Record<string, number>> = { "30000": 70, "90500": 131, "0": 40 };
    for (const [drainMs, seconds] of Object.entries(drains)) {
      const objects = await render("agent", { steward: "VU", settings: { drainMs: Number(drainMs) } });
      const pod = find<V1StatefulSet>(objects, "StatefulSet", "it").spec?.template.spec;
      assert.equal(pod?.terminationGracePeriodSeconds, seconds);
      assert.equal(environmentOf(container(pod ?? assert.fail(), "agent"))["DYNAMOS_DRAIN_MS"], drainMs);
    }
    assert.equal(agentOf("a third party").spec?.template.spec?.terminationGracePeriodSeconds, 70);
  });

  test("probes ask by HTTPS where that is served, for life at /health and for work at /ready", () => {
    for (const [name, scheme] of [
      ["sample data", "HTTP"],
      ["everything", "HTTPS"],
    ] as const) {
      const agent = container(agentOf(name).spec?.template.spec ?? assert.fail(), "agent");
      const { startupProbe, livenessProbe, readinessProbe } = agent;
      assert.deepEqual(
        [startupProbe, livenessProbe, readinessProbe].map((probe) => [probe?.httpGet?.path, probe?.httpGet?.scheme]),
        [
          ["/health", scheme],
          ["/health", scheme],
          ["/ready", scheme],
        ],
      );
      const environment = environmentOf(agent);
      assert.match(environment["DYNAMOS_INSTANCE_URL"] ?? "", new RegExp(`^${scheme.toLowerCase()}://`));
      assert.equal(environment["DYNAMOS_TLS_KEY_FILE"] !== undefined, scheme === "HTTPS");
    }
  });

  test("a Secret for TLS that is named without being switched on gives authorities to trust, and no certificate", async () => {
    const objects = await render("agent", { steward: "SURF", tls: { secret: "authorities" } });
    const pod = find<V1StatefulSet>(objects, "StatefulSet", "it").spec?.template.spec ?? assert.fail();
    const environment = environmentOf(container(pod, "agent"));
    assert.equal(environment["DYNAMOS_TLS_CA_FILE"], "/etc/dynamos/tls/ca.crt");
    assert.equal(environment["DYNAMOS_TLS_CERT_FILE"], undefined);
    assert.equal(environment["DYNAMOS_INSTANCE_URL"], "http://$(POD_NAME).it-instances.here.svc:8080");
    assert.deepEqual(podsOf(objects).flatMap(mountFaults), []);
  });

  test("an orchestrator on another cluster gets an address of each agent that it can reach", async () => {
    const instanceUrl = "https://$(POD_NAME).vu.example.org";
    const objects = await render("agent", { steward: "VU", instanceUrl, advertisedUrl: "https://vu.example.org" });
    const pod = find<V1StatefulSet>(objects, "StatefulSet", "it").spec?.template.spec ?? assert.fail();
    const environment = environmentOf(container(pod, "agent"));
    assert.equal(environment["DYNAMOS_INSTANCE_URL"], instanceUrl);
    assert.equal(environment["DYNAMOS_ADVERTISED_URL"], "https://vu.example.org");
    // $(POD_NAME) is only replaced by what stands before it.
    const names = Object.keys(environment);
    assert.ok(names.indexOf("POD_NAME") < names.indexOf("DYNAMOS_INSTANCE_URL"));
  });

  test("an image may be pinned by its digest", async () => {
    const tag = `1.2.3@sha256:${"0".repeat(64)}`;
    const objects = await render("agent", { steward: "SURF", image: { tag } });
    const [pod] = podsOf(objects);
    assert.equal(pod?.spec.containers[0]?.image, `localhost/dynamos:${tag}`);
    assert.equal(pod?.labels["app.kubernetes.io/version"], "1.2.3");
  });

  test("changed job settings restart agents; a changed party's file does not, since it is read again", async () => {
    const templateOf = async (values: Values): Promise<string> =>
      JSON.stringify(find<V1StatefulSet>(await render("agent", values), "StatefulSet", "it").spec?.template);
    const before = await templateOf(CSV);
    assert.notEqual(await templateOf({ ...CSV, jobs: { scratch: "2Gi" } }), before);
    const [wageGap] = Object.values(CSV.dataSets);
    assert.equal(await templateOf({ ...CSV, dataSets: { ...CSV.dataSets, more: wageGap } }), before);
  });

  test("keys are made: an Ed25519 key that Node.js reads, and 32 bytes in hexadecimal", () => {
    const { data = {} } = find<V1Secret>(objectsOf("sample data"), "Secret", "it-keys");
    const text = (key: string): string => Buffer.from(data[key] ?? "", "base64").toString();
    assert.equal(createPrivateKey(text("grant-key.pem")).asymmetricKeyType, "ed25519");
    assert.match(text("anonymization-key"), /^[0-9a-f]{64}$/);
    const own = ["Secret/it-keys"];
    assert.deepEqual(
      namesOf(objectsOf("sample data")).filter((name) => name.startsWith("Secret")),
      own,
    );
  });

  test("what quantities --set gives as numbers reaches the agent as text", async () => {
    const objects = await render("agent", { ...SAMPLE, jobs: { limits: { cpu: 3 } } });
    const jobs = find<V1ConfigMap>(objects, "ConfigMap", "it-jobs").data?.["jobs.json"] ?? "";
    assert.deepEqual((JSON.parse(jobs) as Jobs).limits, { cpu: "3" });
  });

  test("data without data sets, two places of data, and a steward without sample data are refused, with what to change", async () => {
    assert.match(await refusal("agent", { steward: "VU", data: { configMap: "x" } }), /data needs dataSets/);
    assert.match(await refusal("agent", { ...CSV, data: {} }), /dataSets needs data: say by data\.existingClaim/);
    assert.match(
      await refusal("agent", { ...CSV, data: { configMap: "x", sample: true } }),
      /set one of existingClaim/,
    );
    assert.match(await refusal("agent", { ...SAMPLE, steward: "HVA" }), /no sample data of HVA; set data\.sampleOf/);
    assert.match(await refusal("agent", { ...SAMPLE, test: { query: "SELECT 1" } }), /test\.user\.id/);
  });

  test("Ingress, HTTPRoute, ServiceMonitor and dashboard are there when they are asked for; routes lead to /agent alone", () => {
    const flagged = /^(Ingress|HTTPRoute|ServiceMonitor|ConfigMap\/it-dashboard)/;
    const some = (name: string): string[] => namesOf(objectsOf(name)).filter((one) => flagged.test(one));
    assert.deepEqual(some("sample data"), []);
    assert.deepEqual(some("everything"), ["ConfigMap/it-dashboard", "HTTPRoute/it", "Ingress/it", "ServiceMonitor/it"]);
    const routes = objectsOf("everything").filter(({ kind }) => kind === "Ingress" || kind === "HTTPRoute");
    for (const route of routes) {
      const text = JSON.stringify(route);
      assert.match(text, /"\/agent"/);
      assert.doesNotMatch(text, /metrics|"\/"/);
    }
  });
});
