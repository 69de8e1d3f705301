/** The doctor's judgements: facts in, findings out. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { judgeBus, type BusFacts, type QueueFacts } from "../../../cli/doctor/bus.ts";
import { withoutCredentials } from "../../../cli/doctor/attempt.ts";
import { FINDING_IDS, type Finding, type Outcome } from "../../../cli/doctor/findings.ts";
import { judgeMachine, satisfies, type MachineFacts } from "../../../cli/doctor/machine.ts";
import {
  judgeCertificates,
  judgeOnline,
  judgeServices,
  ORCHESTRATOR,
  type ServiceFacts,
} from "../../../cli/doctor/services.ts";
import { judgeStore, type StoreFacts } from "../../../cli/doctor/store.ts";
import type { OnlineRecord } from "../../../lib/messages.ts";
import type { Agreement } from "../../../lib/model/agreement.ts";

const FINE: Outcome = { ok: true, ms: 3 };
const VERSION = "1.2.3";

function failed(code: string, message = "It broke."): Outcome {
  return { ok: false, code, message };
}

const MACHINE: MachineFacts = {
  nodeVersion: "v20.20.0",
  nodeRange: ">=20.19 <24.19",
  settings: { ok: true, what: "Valid." },
  configuration: { ok: true, what: "Valid." },
  disk: { path: "/state", freeBytes: 10 * 1024 ** 3 },
  adminKey: { path: "/state/admin-key", mode: 0o100600 },
};

function agreementOf(name: string, computeProviders: readonly string[] = []): Agreement {
  return { name, relations: {}, computeProviders: [...computeProviders], archetypes: [] };
}

function onlineRecord(name: string): OnlineRecord {
  const url = "http://127.0.0.1:1";
  return { name, activeSince: "", routingKey: "", dns: url, instanceUrl: url, instance: "1", grantKeys: [] };
}

const STORE: StoreFacts = {
  url: "etcd://localhost:2379",
  isFile: false,
  reached: FINE,
  written: FINE,
  leased: FINE,
  documents: FINE,
  counts: { agreements: 1, archetypes: 2, datasets: 1, forcedServices: 0, microservices: 5, requestTypes: 1 },
  rules: FINE,
  isSeeding: false,
  agreements: [agreementOf("VU", ["SURF"])],
  agents: [onlineRecord("VU"), onlineRecord("SURF")],
  orchestrators: [{ instance: "1", url: "http://127.0.0.1:2", activeSince: "" }],
};

const QUEUE: QueueFacts = {
  queue: "VU-in",
  owner: "the agent of VU",
  isRequired: true,
  status: { ready: 0, consumers: 1 },
  declared: FINE,
};

const BUS: BusFacts = {
  url: "amqp://localhost:5672/exchange",
  isFile: false,
  reached: FINE,
  tried: FINE,
  queues: [QUEUE],
  deadLetters: { letters: [], isCut: false },
};

const SERVICE: ServiceFacts = {
  name: ORCHESTRATOR,
  url: "http://127.0.0.1:2",
  reached: FINE,
  clockOffsetMs: 400,
  version: VERSION,
  isReady: true,
  dependencies: [{ name: "knowledge store", ok: true, required: true }],
  keyIds: ["a"],
};

/** Those that are not well, as `id: level`; each must have a fix. */
function faults(findings: readonly Finding[]): readonly string[] {
  const found = findings.filter(({ level }) => level === "warn" || level === "fail");
  for (const { id, fix } of found) assert.ok((fix ?? "").length > 10, `${id} names no fix`);
  return found.map(({ id, level }) => `${id}: ${level}`);
}

const machine = (facts: Partial<MachineFacts>) => judgeMachine({ ...MACHINE, ...facts });
const store = (facts: Partial<StoreFacts>) => judgeStore({ ...STORE, ...facts });
const online = (facts: Partial<StoreFacts>, services: readonly ServiceFacts[] = []) =>
  judgeOnline({ ...STORE, ...facts }, services);
const bus = (facts: Partial<BusFacts>) => judgeBus({ ...BUS, ...facts });
const queue = (facts: Partial<QueueFacts>) => bus({ queues: [{ ...QUEUE, ...facts }] });
const service = (...facts: readonly Partial<ServiceFacts>[]) =>
  judgeServices(
    facts.map((each) => ({ ...SERVICE, ...each })),
    VERSION,
  );

test("where all is well there is nothing to mend, and every thing is looked at", () => {
  const nowMs = Date.parse("2026-01-01T00:00:00Z");
  const certificates = judgeCertificates([{ host: "a:443", validUntil: new Date("2026-06-01") }], nowMs);
  const findings = [...machine({}), ...store({}), ...bus({}), ...online({}), ...service({}), ...certificates];
  assert.deepEqual(faults(findings), []);
  // The others appear only where something is wrong.
  const onlyFaults = ["bus.queue", "bus.depth", "agent.agreement"];
  assert.deepEqual(
    new Set(findings.map(({ id }) => id)),
    // A cluster's are in kubernetes.test.ts.
    new Set(FINDING_IDS.filter((id) => !onlyFaults.includes(id) && !id.startsWith("cluster."))),
  );
});

describe("this machine", () => {
  test("a version fits a range by numbers, not by letters", () => {
    for (const [version, range, fits] of [
      ["v20.19.0", ">=20.19 <24.19", true],
      ["v20.9.0", ">=20.19 <24.19", false],
      ["v24.18.9", ">=20.19 <24.19", true],
      ["v24.19.0", ">=20.19 <24.19", false],
      ["v25.0.0", ">=20.19 <24.19", false],
    ] as const) {
      assert.equal(satisfies(version, range), fits, version);
    }
  });

  test("an old Node.js, wrong settings, a wrong file, a full disk and an open admin key are named", () => {
    assert.deepEqual(faults(machine({ nodeVersion: "v18.0.0" })), ["node.version: fail"]);
    assert.deepEqual(faults(machine({ settings: { ok: false, message: "No." } })), ["settings.valid: fail"]);
    const wrong = machine({ configuration: { ok: false, message: "No.", place: { file: "/f.json", line: 3 } } });
    assert.deepEqual(faults(wrong), ["configuration.valid: fail"]);
    assert.ok(wrong.some(({ found }) => found.includes("/f.json:3: No.")));
    assert.deepEqual(faults(machine({ disk: { path: "/s", freeBytes: 500 * 1024 ** 2 } })), ["state.disk: warn"]);
    assert.deepEqual(faults(machine({ disk: { path: "/s", freeBytes: 1024 } })), ["state.disk: fail"]);
    assert.deepEqual(faults(machine({ adminKey: { path: "/k", mode: 0o100640 } })), ["state.admin-key: fail"]);
  });
});

describe("the knowledge store", () => {
  test("that is away is named with what to look at, and credentials that it refuses as such", () => {
    const away = store({ reached: failed("unavailable") });
    assert.deepEqual(faults(away), ["store.reachable: fail"]);
    assert.match(away[0]?.fix ?? "", /etcd runs/);
    assert.match(store({ reached: failed("unavailable"), isFile: true })[0]?.fix ?? "", /holds the file/);
    assert.match(store({ reached: failed("unauthenticated") })[0]?.found ?? "", /refuses the credentials/);
    assert.match(store({ reached: failed("not_found"), missingFile: "/s.db" })[0]?.found ?? "", /no file \/s\.db/);
  });

  test("that takes no writes, is slow, or has no leases is named", () => {
    assert.deepEqual(faults(store({ written: failed("unavailable") })), ["store.writable: fail"]);
    assert.deepEqual(faults(store({ written: { ok: true, ms: 2001 } })), ["store.writable: warn"]);
    assert.deepEqual(faults(store({ leased: failed("internal") })), ["store.lease: fail"]);
  });

  test("that is empty, half filled, or has documents that do not go together is named", () => {
    const none = { agreements: 0, archetypes: 0, datasets: 0, forcedServices: 0, microservices: 0, requestTypes: 0 };
    assert.deepEqual(faults(store({ counts: none })), ["store.documents: fail"]);
    assert.deepEqual(faults(store({ documents: failed("configuration_invalid") })), ["store.documents: fail"]);
    assert.deepEqual(faults(store({ isSeeding: true })), ["store.documents: warn"]);
    assert.deepEqual(faults(store({ rules: failed("configuration_invalid") })), ["store.rules: fail"]);
  });
});

describe("the message bus", () => {
  test("that is away, refuses the credentials, or lets nothing through is named", () => {
    assert.match(bus({ reached: failed("unavailable") })[0]?.fix ?? "", /RabbitMQ runs/);
    assert.match(bus({ reached: failed("forbidden") })[0]?.found ?? "", /refuses the credentials/);
    const blocked = bus({ tried: failed("unavailable") });
    assert.deepEqual(faults(blocked), ["bus.works: fail"]);
    assert.match(blocked.find(({ id }) => id === "bus.works")?.fix ?? "", /memory or disk alarm/);
  });

  test("a queue without consumers names the part that is down, and how much waits for it", () => {
    const [, , down] = queue({ status: { ready: 3, consumers: 0 } });
    assert.equal(down?.id, "bus.consumers");
    assert.match(down?.found ?? "", /the agent of VU is down, and 3 messages wait/);
    assert.deepEqual(faults(queue({ status: { ready: 0, consumers: 0 }, isRequired: false })), ["bus.consumers: warn"]);
    assert.deepEqual(faults(queue({ status: undefined })), ["bus.queue: fail"]);
  });

  test("a queue of another kind, or that grows though somebody takes from it, is named", () => {
    assert.deepEqual(faults(queue({ declared: failed("conflict") })), ["bus.queue: fail"]);
    assert.deepEqual(faults(queue({ status: { ready: 101, consumers: 2 } })), ["bus.depth: warn"]);
    assert.deepEqual(faults(queue({ status: { ready: 100, consumers: 2 } })), []);
  });

  test("dead letters are counted; questions that merely expired are no reason to worry", () => {
    const expired = { queue: "VU-in", reason: "expired", atMs: 0 } as const;
    const rejected = { queue: "policyEnforcer-in", reason: "rejected", atMs: Date.parse("2026-01-01") } as const;
    assert.deepEqual(faults(bus({ deadLetters: { letters: [expired], isCut: false } })), []);
    const dead = bus({ deadLetters: { letters: [expired, rejected], isCut: false } });
    assert.deepEqual(faults(dead), ["bus.dead-letters: warn"]);
    const { found = "", fix = "" } = dead.find(({ id }) => id === "bus.dead-letters") ?? {};
    assert.match(found, /^1 message failed for good, from policyEnforcer-in, the newest at 2026-01-01/);
    assert.match(fix, /npx dynamos dead-letters/);
  });
});

describe("who is online", () => {
  test("a steward without an agent fails, a third party without one and an agent that nobody names warn", () => {
    assert.deepEqual(faults(online({ agents: [onlineRecord("SURF")] })), ["agent.online: fail"]);
    assert.deepEqual(faults(online({ agents: [onlineRecord("VU")] })), ["agent.online: warn"]);
    const stranger = online({ agents: [...STORE.agents, onlineRecord("RUG")] });
    assert.deepEqual(faults(stranger), ["agent.agreement: warn"]);
  });

  test("without an orchestrator nothing can be asked, unless one answers that has not registered", () => {
    assert.deepEqual(faults(online({ orchestrators: [] })), ["orchestrator.online: fail"]);
    assert.deepEqual(faults(online({ orchestrators: [] }, [SERVICE])), []);
    assert.deepEqual(faults(online({ orchestrators: [] }, [{ ...SERVICE, reached: failed("unavailable") }])), [
      "orchestrator.online: fail",
    ]);
  });
});

describe("a service", () => {
  test("that does not answer, or lacks something, is named with the remedy that it gives itself", () => {
    assert.deepEqual(faults(service({ reached: failed("unavailable") })), ["service.reachable: fail"]);
    const away = { name: "message bus", ok: false, required: true, detail: "Gone.", fix: "Start the broker." };
    const lacking = service({ isReady: false, dependencies: [away] });
    assert.deepEqual(faults(lacking), ["service.ready: fail"]);
    assert.equal(lacking.find(({ id }) => id === "service.ready")?.fix, "Start the broker.");
    assert.deepEqual(faults(service({ dependencies: [{ ...away, required: false }] })), ["service.ready: warn"]);
  });

  test("whose clock is off by more than 5 s warns, by more than 30 s fails, ahead and behind", () => {
    for (const sign of [1, -1]) {
      assert.deepEqual(faults(service({ clockOffsetMs: sign * 4_900 })), []);
      assert.deepEqual(faults(service({ clockOffsetMs: sign * 6_000 })), ["service.clock: warn"]);
      assert.deepEqual(faults(service({ clockOffsetMs: sign * 31_000 })), ["service.clock: fail"]);
    }
  });

  test("of another version warns; orchestrators with different keys fail", () => {
    assert.deepEqual(faults(service({ version: "9.9.9" })), ["service.version: warn"]);
    assert.deepEqual(faults(service({ keyIds: ["a"] }, { keyIds: ["b"] })), ["orchestrator.keys: fail"]);
    assert.deepEqual(faults(service({ keyIds: [] })), ["orchestrator.keys: fail"]);
  });
});

test("a certificate warns a month before its end, and fails after it", () => {
  const nowMs = Date.parse("2026-01-01T00:00:00Z");
  const judged = (date: string) => faults(judgeCertificates([{ host: "a:443", validUntil: new Date(date) }], nowMs));
  assert.deepEqual(judged("2026-02-15"), []);
  assert.deepEqual(judged("2026-01-20"), ["tls.certificate: warn"]);
  assert.deepEqual(judged("2025-12-31"), ["tls.certificate: fail"]);
});

test("URLs are shown without user and password, in whatever text they stand", () => {
  const text = "connect amqp://user:p%40ss@broker:5672/x failed; then etcd://root:secret@a:1,b:2 too";
  assert.equal(withoutCredentials(text), "connect amqp://broker:5672/x failed; then etcd://a:1,b:2 too");
});
