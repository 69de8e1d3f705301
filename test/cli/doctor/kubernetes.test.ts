/** The doctor's judgements of a cluster: facts in, findings out. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { FINDING_IDS, type Finding } from "../../../cli/doctor/findings.ts";
import { judgeCluster, judgeClusterNamespace, judgeTrial } from "../../../cli/doctor/kubernetes.ts";
import type {
  ContainerFacts,
  NamespaceFacts,
  PodFacts,
  Seen,
  WorkloadFacts,
} from "../../../cli/doctor/kubernetes-facts.ts";
import { selects } from "../../../cli/doctor/kubernetes-namespace.ts";
import { NEEDED_RIGHTS } from "../../../cli/doctor/kubernetes-rights.ts";
import { needsOf } from "../../../cli/doctor/pod-needs.ts";
import { readPackageFile } from "../../support/markdown.ts";

const seen = <Value>(value: Value): Seen<Value> => ({ seen: true, value });
const UNSEEN = { seen: false, why: "not for you." } as const;

const AGENT: WorkloadFacts = {
  kind: "StatefulSet",
  name: "vu",
  part: "dynamos-agent",
  serviceAccount: "vu",
  wanted: 1,
  ready: 1,
  needs: [
    { kind: "Secret", name: "dynamos-credentials", keys: ["store-password"] },
    { kind: "Secret", name: "dynamos-credentials", keys: ["bus-password"] },
    { kind: "ConfigMap", name: "vu-party", keys: [] },
  ],
  claims: ["vu-state", "answers-vu-"],
};

const CONTAINER: ContainerFacts = { name: "agent", image: "registry.example.org/dynamos:1.0", restarts: 0 };

const POD: PodFacts = {
  name: "vu-0",
  part: "dynamos-agent",
  labels: { "app.kubernetes.io/name": "dynamos-agent" },
  phase: "Running",
  isReady: true,
  isEnding: false,
  ageMs: 600_000,
  containers: [CONTAINER],
};

const WELL: NamespaceFacts = {
  name: "vu",
  labels: seen({ "pod-security.kubernetes.io/enforce": "restricted" }),
  workloads: [AGENT],
  pods: [POD],
  secrets: seen(new Map([["dynamos-credentials", ["store-password", "bus-password"]]])),
  configMaps: seen(new Map([["vu-party", ["party.json"]]])),
  claims: seen([{ name: "vu-state", phase: "Bound", storageClass: "standard", size: "5Gi" }]),
  quotas: seen([{ name: "all", resource: "pods", used: 2, hard: 20, shown: "2 of 20 are used" }]),
  policies: seen([{ name: "all", selector: {}, types: ["Ingress", "Egress"] }]),
  warnings: seen([]),
  rights: [{ serviceAccount: "vu", answers: seen({ missing: [], excess: [] }) }],
};

function faultsOf(changes: Partial<NamespaceFacts>): readonly Finding[] {
  const found = judgeClusterNamespace({ ...WELL, ...changes });
  return found.filter(({ level }) => level === "warn" || level === "fail");
}

/** The only fault, which has these words in what was found and in its fix. */
function onlyFault(changes: Partial<NamespaceFacts>, id: string, found: RegExp, fix: RegExp): Finding {
  const faults = faultsOf(changes);
  assert.deepEqual(
    faults.map((each) => each.id),
    [id],
    JSON.stringify(faults, undefined, 2),
  );
  const [fault] = faults as [Finding];
  assert.match(fault.found, found);
  assert.match(fault.fix ?? "", fix);
  return fault;
}

const waitingFor = (
  reason: string,
  message = "",
  more: Partial<ContainerFacts> = {},
): Pick<NamespaceFacts, "pods"> => ({
  pods: [{ ...POD, isReady: false, containers: [{ ...CONTAINER, waiting: { reason, message }, ...more }] }],
});

test("a cluster that is well has no faults, and everything is looked at", () => {
  const findings = [
    ...judgeCluster({ reached: { ok: true, ms: 3 }, clockOffsetMs: 0, namespaces: [WELL] }),
    ...judgeClusterNamespace(WELL),
    judgeTrial({ tried: true, from: "vu-0 in vu", to: "enforcer-x in dynamos", isOpen: false }),
  ];
  assert.deepEqual(
    findings.filter(({ level }) => level !== "ok"),
    [],
  );
  // That there is no part at all is said only then.
  assert.deepEqual(
    new Set(findings.map(({ id }) => id)),
    new Set(FINDING_IDS.filter((id) => id.startsWith("cluster.") && id !== "cluster.parts")),
  );
});

test("what may not be looked at is skipped by name, and is no fault", () => {
  const found = judgeClusterNamespace({
    ...WELL,
    labels: UNSEEN,
    secrets: UNSEEN,
    configMaps: UNSEEN,
    claims: UNSEEN,
    quotas: UNSEEN,
    policies: UNSEEN,
    warnings: UNSEEN,
    rights: [{ serviceAccount: "vu", answers: UNSEEN }],
  });
  assert.deepEqual([...new Set(found.filter(({ level }) => level !== "ok").map(({ level }) => level))], ["skip"]);
  assert.equal(found.filter(({ level }) => level === "skip").length, 7);
});

describe("an image that cannot be had", () => {
  for (const [message, fix] of [
    ["manifest unknown", /image\.repository and image\.tag/],
    ["401 Unauthorized", /image\.pullSecrets/],
    ["dial tcp: lookup registry.example.org: no such host", /nodes reach the registry/],
  ] as const) {
    test(`is told with what helps: ${message}`, () => {
      onlyFault(waitingFor("ImagePullBackOff", message), "cluster.image", /dynamos:1\.0.*vu-0/, fix);
    });
  }

  test("is told once, whichever pods wait for it", () => {
    const { pods } = waitingFor("ErrImageNeverPull");
    onlyFault({ pods: [...pods, { ...pods[0]!, name: "vu-1" }] }, "cluster.image", /vu-0, vu-1/, /pullPolicy/);
  });

  test("of a microservice is told of its chain's pod", () => {
    const chain = { ...waitingFor("ErrImagePull", "not found").pods[0]!, part: "dynamos-chain", name: "ada-1-vu" };
    onlyFault({ pods: [POD, chain] }, "cluster.image", /ada-1-vu/, /of a microservice/);
  });
});

describe("a pod", () => {
  test("that crashes is told with its last words", () => {
    const ended = { reason: "Error", exitCode: 1, said: "Settings are wrong. DYNAMOS_STORE: missing." };
    const facts = waitingFor("CrashLoopBackOff", "back-off 5m0s", { ended });
    onlyFault(facts, "cluster.pod", /container agent.*DYNAMOS_STORE: missing\.$/, /logs vu-0 -c agent --previous/);
  });

  test("that is out of memory is told as that", () => {
    const facts = waitingFor("CrashLoopBackOff", "", { ended: { reason: "OOMKilled", exitCode: 137 } });
    onlyFault(facts, "cluster.pod", /OOMKilled/, /limits\.memory/);
  });

  test("that finds no node is told with the scheduler's reason", () => {
    const pods = [
      { ...POD, isReady: false, phase: "Pending", containers: [], unschedulable: "0/1 nodes: Insufficient cpu." },
    ];
    onlyFault({ pods }, "cluster.pod", /finds no node.*Insufficient cpu/, /resources\.requests/);
  });

  test("of a chain that finds no node warns: it waits for others to end", () => {
    const chain = {
      ...POD,
      name: "ada-1-vu",
      part: "dynamos-chain",
      isReady: false,
      unschedulable: "Insufficient cpu.",
    };
    const fault = onlyFault({ pods: [POD, chain] }, "cluster.pod", /ada-1-vu.*Insufficient cpu\.$/, /maxRuns/);
    assert.equal(fault.level, "warn");
  });

  test("that is not ready tells what it lacks, and the remedy that it names itself", () => {
    const lacks = [{ name: "message bus", detail: "It has not answered.", fix: "See that it runs." }];
    onlyFault(
      { pods: [{ ...POD, isReady: false, lacks }] },
      "cluster.pod",
      /lacks the message bus/,
      /See that it runs/,
    );
  });

  test("that says nothing itself is told with the latest warning about it", () => {
    const warnings = seen([{ about: "Pod vu-0", reason: "FailedMount", message: 'secret "vu-tls" not found' }]);
    const facts = { pods: [{ ...POD, isReady: false, containers: [] }], warnings };
    onlyFault(facts, "cluster.pod", /not ready: secret "vu-tls" not found\.$/, /describe pod vu-0/);
  });

  test("that has just started has time to become ready, and one that ended well is no fault", () => {
    assert.deepEqual(faultsOf({ pods: [{ ...POD, isReady: false, ageMs: 5_000 }] }), []);
    const over = { ...POD, name: "vu-test", part: "dynamos-agent-test", phase: "Succeeded", isReady: false };
    assert.deepEqual(faultsOf({ pods: [POD, over] }), []);
  });

  for (const [message, fix] of [
    ['pods "vu-0" is forbidden: exceeded quota: all', /ResourceQuota/],
    ['pods "vu-0" is forbidden: violates PodSecurity "restricted:latest"', /Pod Security level/],
  ] as const) {
    test(`that was never made is told with the event's reason: ${message}`, () => {
      const warnings = seen([{ about: "StatefulSet vu", reason: "FailedCreate", message }]);
      const facts = { pods: [], workloads: [{ ...AGENT, ready: 0 }], warnings };
      onlyFault(facts, "cluster.pod", /StatefulSet vu.*0 of 1 pods.*forbidden/, fix);
    });
  }

  test("that was never made is told also where another workload's pods have names that begin alike", () => {
    const workloads = [
      { ...AGENT, name: "orchestrator", part: "dynamos-orchestrator", ready: 0, needs: [], claims: [] },
      {
        ...AGENT,
        kind: "Deployment",
        name: "orchestrator-policy-enforcer",
        part: "dynamos-policy-enforcer",
        needs: [],
        claims: [],
      },
    ] as const;
    const pods = [{ ...POD, name: "orchestrator-policy-enforcer-5c4-x2x", part: "dynamos-policy-enforcer" }];
    onlyFault({ workloads, pods }, "cluster.pod", /StatefulSet orchestrator .*0 of 1 pods/, /./);
  });
});

describe("Secrets", () => {
  test("that are missing are told with who names them, and how a steward's is made", () => {
    onlyFault({ secrets: seen(new Map()) }, "cluster.secret", /dynamos-credentials.*vu names/, /dynamos steward add/);
  });

  test("that lack a key are told with the key", () => {
    const secrets = seen(new Map([["dynamos-credentials", ["store-password"]]]));
    onlyFault({ secrets }, "cluster.secret", /has no bus-password/, /dynamos steward add/);
  });

  test("are all that a pod names, but what is optional", () => {
    const needs = needsOf({
      spec: {
        imagePullSecrets: [{ name: "registry" }],
        initContainers: [{ name: "i", envFrom: [{ secretRef: { name: "all" } }] }],
        containers: [
          {
            name: "c",
            env: [
              { name: "A", valueFrom: { secretKeyRef: { name: "urls", key: "DYNAMOS_STORE" } } },
              { name: "B", valueFrom: { secretKeyRef: { name: "gone", key: "x", optional: true } } },
            ],
          },
        ],
        volumes: [
          { secret: { secretName: "keys", items: [{ key: "a" }, { key: "b" }] } },
          { secret: { secretName: "gone", optional: true } },
          { projected: { sources: [{ configMap: { name: "roots", items: [{ key: "ca.crt" }] } }] } },
        ],
      },
    });
    assert.deepEqual(
      needs.map(({ kind, name, keys }) => `${kind} ${name} ${keys.join(",")}`.trim()),
      ["Secret keys a,b", "ConfigMap roots ca.crt", "Secret urls DYNAMOS_STORE", "Secret all", "Secret registry"],
    );
  });
});

describe("rights", () => {
  const of = (missing: readonly string[], excess: readonly string[]): Partial<NamespaceFacts> => ({
    rights: [{ serviceAccount: "vu", answers: seen({ missing, excess }) }],
  });

  test("that are missing fail, those too many warn, each by name", () => {
    const missing = onlyFault(of(["create jobs.batch"], []), "cluster.rights", /create jobs\.batch/, /RoleBinding vu/);
    assert.equal(missing.level, "fail");
    const excess = onlyFault(of([], ["get secrets"]), "cluster.rights", /get secrets/, /another binding/);
    assert.equal(excess.level, "warn");
  });

  test("that are asked for are exactly those that the agent's chart gives", async () => {
    const chart = await readPackageFile("charts/agent/templates/service-account.yaml");
    const given = [...chart.matchAll(/apiGroups: \[(.*?)\]\s+resources: \[(.*?)\]\s+verbs: \[(.*?)\]/g)].flatMap(
      ([, group = "", resource = "", verbs = ""]) =>
        verbs.split(", ").map((verb) => `${verb} ${resource} ${group.replaceAll('"', "")}`),
    );
    const asked = NEEDED_RIGHTS.map(({ group, resource, subresource, verb }) => {
      const path = subresource === undefined ? resource : `${resource}/${subresource}`;
      return `${verb} ${path} ${group}`;
    });
    assert.deepEqual([...asked].sort(), given.sort());
  });
});

describe("what stands around the pods", () => {
  test("Pod Security that is not enforced is told with the command that does", () => {
    const labels = seen({ "pod-security.kubernetes.io/enforce": "baseline" });
    onlyFault({ labels }, "cluster.namespace", /"baseline"/, /kubectl label namespace vu/);
    onlyFault({ labels: seen({}) }, "cluster.namespace", /no Pod Security level/, /restricted/);
  });

  test("a claim without a volume is told with the reason", () => {
    const claims = seen([{ name: "vu-state", phase: "Pending", storageClass: "fast", size: "5Gi" }]);
    const message = 'storageclass.storage.k8s.io "fast" not found';
    const warnings = seen([{ about: "PersistentVolumeClaim vu-state", reason: "ProvisioningFailed", message }]);
    onlyFault({ claims, warnings }, "cluster.volume", /vu-state.*"fast" not found/, /storage class/);
  });

  test("a claim that waits for its pod warns, one that no pod names yet does not, and one of a StatefulSet's pods counts", () => {
    const pending = (name: string): Partial<NamespaceFacts> => ({
      claims: seen([{ name, phase: "Pending", storageClass: "standard", size: "1Gi" }]),
    });
    assert.equal(onlyFault(pending("vu-state"), "cluster.volume", /vu-state/, /waits for its pod/).level, "warn");
    assert.equal(onlyFault(pending("answers-vu-1"), "cluster.volume", /answers-vu-1/, /waits for/).level, "warn");
    assert.deepEqual(faultsOf(pending("back-up")), []);
    const lost = seen([{ name: "vu-state", phase: "Lost", storageClass: "standard", size: "1Gi" }]);
    onlyFault({ claims: lost }, "cluster.volume", /is Lost/, /restore it/);
  });

  test("a quota warns before it is used up, and fails then", () => {
    const of = (used: number): Partial<NamespaceFacts> => ({
      quotas: seen([{ name: "all", resource: "pods", used, hard: 20, shown: `${String(used)} of 20 are used` }]),
    });
    assert.equal(onlyFault(of(18), "cluster.quota", /little pods left: 18 of 20/, /maxRuns/).level, "warn");
    assert.equal(onlyFault(of(20), "cluster.quota", /no pods left/, /Raise it/).level, "fail");
  });

  test("a pod that no policy closes one way is told by that, and so are the chains to come", () => {
    const ofAgents = { matchLabels: { "app.kubernetes.io/name": "dynamos-agent" } };
    const policies = seen([{ name: "vu", selector: ofAgents, types: ["Ingress"] }]);
    onlyFault(
      { policies },
      "cluster.network",
      /vu-0 \(egress\), the pods of chains \(ingress, egress\)/,
      /networkPolicy/,
    );
  });

  test("selectors select as Kubernetes has it", () => {
    const labels = { a: "1", b: "2" };
    assert.ok(selects({}, labels));
    assert.ok(
      selects({ matchLabels: { a: "1" }, matchExpressions: [{ key: "b", operator: "In", values: ["2"] }] }, labels),
    );
    assert.ok(selects({ matchExpressions: [{ key: "c", operator: "NotIn", values: ["3"] }] }, labels));
    assert.ok(selects({ matchExpressions: [{ key: "c", operator: "DoesNotExist" }] }, labels));
    assert.ok(!selects({ matchExpressions: [{ key: "c", operator: "Exists" }] }, labels));
    assert.ok(!selects({ matchLabels: { a: "2" } }, labels));
  });
});

describe("a cluster", () => {
  const reached = { ok: true, ms: 3 } as const;

  test("that does not answer is the only thing that is told of it", () => {
    const [fault, ...others] = judgeCluster({
      reached: { ok: false, code: "unavailable", message: "It broke." },
      namespaces: [],
    });
    assert.deepEqual([fault?.id, fault?.level, others.length], ["cluster.reachable", "fail", 0]);
    assert.match(fault?.fix ?? "", /KUBECONFIG/);
  });

  test("whose clock is off is told with how much", () => {
    const clockOf = (clockOffsetMs: number): Finding | undefined =>
      judgeCluster({ reached, clockOffsetMs, namespaces: [WELL] }).find(({ id }) => id === "cluster.clock");
    assert.equal(clockOf(900)?.level, "ok");
    assert.equal(clockOf(-8_000)?.level, "warn");
    assert.equal(clockOf(40_000)?.level, "fail");
    assert.match(clockOf(40_000)?.found ?? "", /40 s ahead/);
  });

  test("that enforces no policies fails, where it was tried; where it could not be, nothing is said of it", () => {
    const between = { tried: true, from: "vu-0 in vu", to: "enforcer-x in dynamos" } as const;
    assert.equal(judgeTrial({ ...between, isOpen: false }).level, "ok");
    assert.equal(judgeTrial({ ...between, isOpen: true }).level, "fail");
    assert.equal(judgeTrial({ tried: false, why: "no agent." }).level, "skip");
  });

  test("without a part of ours is told as that", () => {
    const found = judgeCluster({ reached, namespaces: [{ ...WELL, workloads: [] }] });
    assert.ok(found.some(({ id, level }) => id === "cluster.parts" && level === "fail"));
  });
});
