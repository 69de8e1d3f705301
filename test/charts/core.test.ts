/** What charts/core renders: etcd, RabbitMQ, and the console that makes credentials. */
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { before, describe, test } from "node:test";
import {
  loadYaml,
  type V1ConfigMap,
  type V1Container,
  type V1Deployment,
  type V1NetworkPolicy,
  type V1PodDisruptionBudget,
  type V1Secret,
  type V1Service,
  type V1StatefulSet,
} from "@kubernetes/client-node";
import { parseRabbitMqUrl } from "../../lib/bus/rabbitmq-address.ts";
import { parseEtcdUrl } from "../../lib/knowledge/etcd-url.ts";
import { packageRoot } from "../../lib/package-root.ts";
import { runProgram } from "../support/cluster-tools.ts";
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
  etcd: { replicas: 3, restore: { file: "etcd-20260101T000000Z.db" }, service: { type: "LoadBalancer" } },
  rabbitmq: { replicas: 3, resources: { limits: { memory: "1.5Gi" } }, service: { type: "LoadBalancer" } },
  tls: { enabled: true, secret: "certificate", ca: "-----BEGIN CERTIFICATE-----\n" },
  console: { partyAddresses: { store: "etcd.example.org:2379", broker: "mq.example.org:5671" } },
  backup: { enabled: true },
  keepDataOnUninstall: false,
  networkPolicy: {
    clientNamespaces: { matchLabels: { "example.org/exchange": "dynamos" } },
    extraClients: [{ ipBlock: { cidr: "192.0.2.0/24" } }],
    scrapers: [{ namespaceSelector: {} }],
  },
  otel: { endpoint: "http://collector.example.org:4318", grpcEndpoint: "collector.example.org:4317" },
  metrics: { serviceMonitor: { enabled: true } },
};
const OWN_SERVERS = {
  etcd: {
    enabled: false,
    external: { addresses: "etcd.example.org:2379", prefix: "/ours", adminSecret: "etcd-root", tls: true },
  },
  rabbitmq: {
    enabled: false,
    external: {
      addresses: "mq.example.org:5671",
      tls: true,
      virtualHost: "/",
      managementUrl: "https://mq.example.org:15671",
      adminUser: "us@here",
      adminSecret: "mq-admin",
    },
  },
  tls: { ca: "-----BEGIN CERTIFICATE-----\n" },
};
const VALUES: Readonly<Record<string, Values>> = {
  defaults: {},
  everything: EVERYTHING,
  "servers that are there": OWN_SERVERS,
};

describe("the core's chart", { skip: NO_HELM }, () => {
  const rendered = new Map<string, readonly Rendered[]>();
  before(async () => {
    for (const [name, values] of Object.entries(VALUES)) rendered.set(name, await render("core", values));
  });
  const objectsOf = (values: keyof typeof VALUES): readonly Rendered[] => rendered.get(values) ?? assert.fail();
  const containerOf = (values: keyof typeof VALUES, workload: string, name: string): V1Container => {
    const pod = podsOf(objectsOf(values)).find((one) => one.name === workload) ?? assert.fail(workload);
    return container(pod.spec, name);
  };

  for (const [name, workloads] of Object.entries({
    defaults: ["Deployment/it-console", "StatefulSet/it-etcd", "StatefulSet/it-rabbitmq"],
    everything: ["CronJob/it-backup", "Deployment/it-console", "StatefulSet/it-etcd", "StatefulSet/it-rabbitmq"],
    "servers that are there": ["Deployment/it-console"],
  })) {
    test(`every pod with ${name} is one that "restricted" takes, and mounts what there is`, () => {
      const pods = podsOf(objectsOf(name));
      assert.deepEqual(pods.map((pod) => pod.name).sort(), workloads);
      assert.deepEqual(pods.flatMap(securityFaults), []);
      assert.deepEqual(
        pods.flatMap(mountFaults).filter((fault) => !/StatefulSet.*no volume data$/.test(fault)),
        [],
      );
    });
  }

  test("nothing of it may talk to the Kubernetes API: no rights, no token", () => {
    const objects = Object.keys(VALUES).flatMap(objectsOf);
    assert.deepEqual(
      namesOf(objects).filter((name) => /Role/.test(name)),
      [],
    );
    assert.doesNotMatch(JSON.stringify(objects), /serviceAccountToken"/);
  });

  test("passwords are made, each its own, and stand in Secrets alone", async () => {
    const secretsOf = (objects: readonly Rendered[]): readonly string[] => {
      const root = find<V1Secret>(objects, "Secret", "it-root").stringData ?? {};
      const core = find<V1Secret>(objects, "Secret", "dynamos-core").stringData ?? {};
      assert.deepEqual(Object.keys(root).sort(), ["erlang-cookie", "etcd-password", "rabbitmq-password"]);
      return [...Object.values(root), core["store-password"] ?? "", core["bus-password"] ?? ""];
    };
    const objects = objectsOf("defaults");
    const made = secretsOf(objects);
    for (const password of made) assert.match(password, /^[A-Za-z0-9]{40}$/);
    assert.equal(new Set([...made, ...secretsOf(await render("core", {}))]).size, 2 * made.length);
    const elsewhere = JSON.stringify(objects.filter(({ kind }) => kind !== "Secret"));
    for (const password of made) assert.ok(!elsewhere.includes(password));
  });

  test("the core's Secret has the keys that dynamos steward gives it, and URLs that the programs understand", () => {
    for (const [values, keys] of Object.entries({
      defaults: ["DYNAMOS_BUS", "DYNAMOS_STORE", "bus-password", "store-password"],
      everything: ["DYNAMOS_BUS", "DYNAMOS_STORE", "bus-ca.pem", "bus-password", "store-ca.pem", "store-password"],
    })) {
      const { stringData = {} } = find<V1Secret>(objectsOf(values), "Secret", "dynamos-core");
      assert.deepEqual(Object.keys(stringData).sort(), keys);
      const isTls = values === "everything";
      const store = parseEtcdUrl(stringData["DYNAMOS_STORE"] ?? "");
      const bus = parseRabbitMqUrl(stringData["DYNAMOS_BUS"] ?? "");
      const file = (name: string): string => `/etc/dynamos/credentials/${name}`;
      assert.deepEqual([store.isTls, store.user, store.endpoints], [isTls, "dynamos-core", ["it-etcd.here.svc:2379"]]);
      assert.deepEqual(store.files, {
        passwordFile: file("store-password"),
        ...(isTls ? { caFile: file("store-ca.pem") } : {}),
      });
      assert.deepEqual([bus.isTls, bus.user, bus.vhost], [isTls, "dynamos-core", "dynamos"]);
      assert.deepEqual(bus.hosts, [{ hostname: "it-rabbitmq.here.svc", port: isTls ? 5671 : 5672 }]);
      assert.equal(bus.files.passwordFile, file("bus-password"));
    }
  });

  test("the console has the administrators' passwords as files, and nobody else has them but the servers' own", () => {
    const has = podsOf(objectsOf("everything")).filter(({ spec }) => JSON.stringify(spec).includes("it-root"));
    assert.deepEqual(has.map(({ name }) => name).sort(), [
      "CronJob/it-backup",
      "Deployment/it-console",
      "StatefulSet/it-rabbitmq",
    ]);
    const console = environmentOf(containerOf("everything", "Deployment/it-console", "console"));
    assert.equal(parseEtcdUrl(console["DYNAMOS_ADMIN_STORE"] ?? "").user, "root");
    assert.equal(
      console["DYNAMOS_ADMIN_BROKER_MANAGEMENT"],
      "https://admin@it-rabbitmq.here.svc:15671?passwordFile=/etc/dynamos/root/rabbitmq-password",
    );
    assert.equal(console["DYNAMOS_PARTY_STORE_ADDRESS"], "etcd.example.org:2379");
    assert.equal(console["DYNAMOS_PARTY_BROKER_ADDRESS"], "mq.example.org:5671");
  });

  test("the set-up switches users on at the chart's own etcd, and at another only when told", async () => {
    const setUp = (values: keyof typeof VALUES): readonly string[] =>
      containerOf(values, "Deployment/it-console", "setup").command ?? [];
    assert.ok(setUp("defaults").includes("--enable-auth"));
    assert.ok(!setUp("servers that are there").includes("--enable-auth"));
    const external = { ...OWN_SERVERS.etcd.external, enableAuth: true };
    const objects = await render("core", { ...OWN_SERVERS, etcd: { enabled: false, external } });
    const { spec } = find<V1Deployment>(objects, "Deployment", "it-console");
    assert.ok(container(spec?.template.spec ?? assert.fail(), "setup").command?.includes("--enable-auth"));
  });

  test("servers that are there are used as the values say, and none are made", () => {
    const objects = objectsOf("servers that are there");
    assert.deepEqual(
      namesOf(objects).filter((name) => /etcd|rabbitmq|root/.test(name)),
      [],
    );
    const environment = environmentOf(containerOf("servers that are there", "Deployment/it-console", "console"));
    const store = parseEtcdUrl(environment["DYNAMOS_ADMIN_STORE"] ?? "");
    assert.deepEqual([store.isTls, store.prefix, store.endpoints], [true, "/ours", ["etcd.example.org:2379"]]);
    const broker = parseRabbitMqUrl(environment["DYNAMOS_ADMIN_BROKER"] ?? "");
    assert.deepEqual([broker.vhost, broker.hosts[0]?.hostname], ["/", "mq.example.org"]);
    const management = new URL(environment["DYNAMOS_ADMIN_BROKER_MANAGEMENT"] ?? "");
    assert.deepEqual([management.host, decodeURIComponent(management.username)], ["mq.example.org:15671", "us@here"]);
  });

  test("networks are closed but for what each part needs", () => {
    const policy = (name: string, values = "defaults"): string[] =>
      openings(find<V1NetworkPolicy>(objectsOf(values), "NetworkPolicy", name));
    const dns = "to all pods of kube-system namespaces on udp 53,53";
    const parts = ["agent", "orchestrator", "policy-enforcer"].map((part) => `dynamos-${part} pods of all namespaces`);
    assert.deepEqual(policy("it-etcd"), [
      `from ${parts[0]} on client`,
      "from dynamos-backup+it pods on client",
      "from dynamos-console+it pods on client",
      "from dynamos-etcd+it pods on client,peer",
      ...parts.slice(1).map((part) => `from ${part} on client`),
      dns,
      "to dynamos-etcd+it pods on 2379,2380",
    ]);
    assert.deepEqual(policy("it-rabbitmq"), [
      `from ${parts[0]} on amqp`,
      "from dynamos-chain pods of all namespaces on amqp",
      "from dynamos-console+it pods on amqp,management",
      ...parts.slice(1).map((part) => `from ${part} on amqp`),
      "from dynamos-rabbitmq+it pods on epmd,distribution",
      dns,
      "to dynamos-rabbitmq+it pods on 4369,25672",
    ]);
    assert.deepEqual(policy("it-console"), [
      dns,
      `to ${parts[0]} on 8080`,
      "to dynamos-etcd+it pods on 2379",
      ...parts.slice(1).map((part) => `to ${part} on 8080`),
      "to dynamos-rabbitmq+it pods on 5672,15672",
    ]);
    assert.deepEqual(policy("it-backup", "everything"), [dns, "to dynamos-etcd+it pods on 2379"]);
    assert.ok(policy("it-etcd", "everything").includes("from 192.0.2.0/24 on client"));
    assert.ok(policy("it-rabbitmq", "everything").includes("from dynamos-chain pods of dynamos namespaces on amqp"));
    assert.ok(policy("it-etcd", "everything").includes("to all pods of all namespaces on 4317"));
    assert.deepEqual(
      policy("it-console", "servers that are there").filter((line) => line.includes("anywhere")),
      ["to anywhere on 2379", "to anywhere on 5671,15671"],
    );
  });

  test("what is open to the outside are etcd's and RabbitMQ's ports for clients, and not the management", () => {
    const open = objectsOf("everything").flatMap((object) => {
      const { spec } = object as unknown as V1Service;
      if (object.kind !== "Service" || spec?.type !== "LoadBalancer") return [];
      return [`${object.metadata.name} ${spec.ports?.map(({ name, port }) => `${name ?? ""} ${port}`).join() ?? ""}`];
    });
    assert.deepEqual(open, ["it-etcd-external client 2379", "it-rabbitmq-external amqp 5671"]);
    const inside = find<V1Service>(objectsOf("everything"), "Service", "it-rabbitmq").spec;
    assert.deepEqual([inside?.type, inside?.ports?.map(({ name }) => name)], [undefined, ["amqp", "management"]]);
    assert.ok(namesOf(objectsOf("defaults")).every((name) => !name.endsWith("-external")));
  });

  test("three members know each other, and are spread over nodes", () => {
    const { args = [] } = containerOf("everything", "StatefulSet/it-etcd", "etcd");
    const member = (index: number): string => `it-etcd-${index}.it-etcd-members.here.svc.cluster.local:2380`;
    assert.ok(
      args.includes(`--initial-cluster=${[0, 1, 2].map((n) => `it-etcd-${n}=https://${member(n)}`).join(",")}`),
    );
    const { data = {} } = find<V1ConfigMap>(objectsOf("everything"), "ConfigMap", "it-rabbitmq");
    const nodes = [...(data["10-dynamos.conf"] ?? "").matchAll(/classic_config\.nodes\.\d = (\S+)/g)].map(([, n]) => n);
    const node = (index: number): string => `rabbit@it-rabbitmq-${index}.it-rabbitmq-nodes.here.svc.cluster.local`;
    assert.deepEqual(nodes, [0, 1, 2].map(node));
    for (const name of ["it-etcd", "it-rabbitmq"]) {
      const { spec } = find<V1StatefulSet>(objectsOf("everything"), "StatefulSet", name);
      assert.equal(spec?.podManagementPolicy, "Parallel");
      assert.equal(spec.template.spec?.topologySpreadConstraints?.length, 1);
      const budget = find<V1PodDisruptionBudget>(objectsOf("everything"), "PodDisruptionBudget", name).spec;
      assert.equal(budget?.maxUnavailable, 1);
    }
  });

  test("RabbitMQ's own limit of memory follows from the container's", () => {
    const limit = (values: keyof typeof VALUES): number => {
      const { data = {} } = find<V1ConfigMap>(objectsOf(values), "ConfigMap", "it-rabbitmq");
      return Number(/high_watermark\.absolute = (\d+)/.exec(data["10-dynamos.conf"] ?? "")?.[1]);
    };
    assert.equal(limit("defaults"), Math.floor(2 ** 30 * 0.6));
    assert.equal(limit("everything"), Math.floor(1.5 * 2 ** 30 * 0.6));
  });

  test("with TLS there is no listener without it", () => {
    const { data = {} } = find<V1ConfigMap>(objectsOf("everything"), "ConfigMap", "it-rabbitmq");
    const configuration = data["10-dynamos.conf"] ?? "";
    assert.match(configuration, /^listeners\.tcp = none$/m);
    assert.match(configuration, /^management\.ssl\.port/m);
    assert.doesNotMatch(configuration, /^(listeners|management)\.tcp\./m);
    const { args = [] } = containerOf("everything", "StatefulSet/it-etcd", "etcd");
    const urls = args.filter((arg) => /-urls?=/.test(arg) && !arg.startsWith("--listen-metrics-urls="));
    assert.equal(urls.length, 4);
    for (const url of urls) assert.match(url, /=https:/);
  });

  test("what uninstalling leaves is what the values say: the data and what opens them, or nothing", () => {
    const kept = (values: keyof typeof VALUES): readonly string[] =>
      namesOf(objectsOf(values).filter(({ metadata }) => metadata.annotations?.["helm.sh/resource-policy"] === "keep"));
    const retention = (values: keyof typeof VALUES): readonly (string | undefined)[] =>
      ["it-etcd", "it-rabbitmq"].map(
        (name) =>
          find<V1StatefulSet>(objectsOf(values), "StatefulSet", name).spec?.persistentVolumeClaimRetentionPolicy
            ?.whenDeleted,
      );
    assert.deepEqual([kept("defaults"), retention("defaults")], [["Secret/it-root"], ["Retain", "Retain"]]);
    assert.deepEqual([kept("everything"), retention("everything")], [[], ["Delete", "Delete"]]);
  });

  test("what cannot be is refused, with what to change", async () => {
    const external = { addresses: "etcd.example.org:2379" };
    assert.match(await refusal("core", { tls: { enabled: true } }), /tls\.secret: name the Secret/);
    assert.match(await refusal("core", { etcd: { enabled: false } }), /etcd\.external\.addresses: HOST:PORT/);
    assert.match(await refusal("core", { etcd: { enabled: false, external } }), /etcd\.external\.adminSecret/);
    assert.match(await refusal("core", { rabbitmq: { resources: { limits: { memory: "1Ti" } } } }), /in Mi or Gi/);
    assert.match(await refusal("core", { etcd: { replicas: 2 } }), /'\/etcd\/replicas'/);
    assert.match(await refusal("core", { rabbitmq: { password: "x" } }), /'password' not allowed/);
  });

  test("helm finds nothing to complain of", async () => {
    const { code, stdout, stderr } = await runProgram("helm", [
      "lint",
      "--strict",
      join(packageRoot, "charts", "core"),
    ]);
    assert.equal(code, 0, stdout + stderr);
  });
});

interface Schema {
  readonly description?: string;
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly additionalProperties?: unknown;
}

/** A path for each value; what takes any name ends one. */
function* paths(schema: Schema, path = ""): Generator<readonly [string, Schema]> {
  if (path !== "") yield [path, schema];
  for (const [name, one] of Object.entries(schema.properties ?? {})) yield* paths(one, `${path}/${name}`);
}

test("values.yaml has every value that the core's schema knows, and each is described", async () => {
  const read = (file: string): Promise<string> => readFile(join(packageRoot, "charts/core", file), "utf8");
  const schema = JSON.parse(await read("values.schema.json")) as Schema;
  const values = loadYaml<Record<string, unknown>>(await read("values.yaml"));
  const at = (path: string): unknown =>
    path
      .split("/")
      .slice(1)
      .reduce<unknown>((value, name) => (value as Record<string, unknown> | undefined)?.[name], values);
  const faults = [...paths(schema)].flatMap(([path, one]) => [
    ...(at(path) === undefined && path !== "/global" ? [`${path} is not in values.yaml`] : []),
    ...(one.description ? [] : [`${path} has no description`]),
    ...(one.properties !== undefined && one.additionalProperties !== false ? [`${path} takes any name`] : []),
  ]);
  assert.deepEqual(faults, []);
});
