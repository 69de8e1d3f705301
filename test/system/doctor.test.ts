/** `dynamos doctor` as an operator runs it: on an exchange that is well, and on the same one with this or that broken. */
import assert from "node:assert/strict";
import { chmod, cp, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, test } from "node:test";
import Database from "better-sqlite3";
import type { Finding } from "../../cli/doctor/findings.ts";
import { openMessageBus } from "../../lib/bus/open.ts";
import { agentQueue, POLICY_ENFORCER_QUEUE } from "../../lib/bus/queues.ts";
import { agreementKeys } from "../../lib/knowledge/keys.ts";
import type { KnowledgeStore } from "../../lib/knowledge/knowledge-store.ts";
import { openKnowledgeStore } from "../../lib/knowledge/open.ts";
import type { Agreement } from "../../lib/model/agreement.ts";
import { clockOffset } from "../support/clock-offset.ts";
import { dynamos } from "../support/command.ts";
import { eventually } from "../support/eventually.ts";
import { pauseService, testExchange } from "../support/exchange.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const exchange = await testExchange({
  offline: ["RUG"],
  // The lease outlives the clock: an embedded store reckons with its clients' clocks.
  environmentOf: {
    "agent-RUG": { ...(await clockOffset(-10_000)), DYNAMOS_ONLINE_LEASE_MS: "60000" },
    // It is to hang without going offline, for as long as the doctor takes to ask it.
    "agent-SURF": { DYNAMOS_ONLINE_LEASE_MS: "60000" },
  },
});

interface Report {
  readonly code: number | null;
  readonly text: string;
  /** Those that warn or fail. */
  readonly faults: readonly Finding[];
}

const PLACES = [
  ...["--state", exchange.stateFolder, "--store", exchange.storeUrl],
  ...["--bus", exchange.busUrl, "--orchestrator", exchange.url],
];

async function doctor(...more: readonly string[]): Promise<Report> {
  const { code, stdout, stderr } = await dynamos("doctor", "--json", ...PLACES, ...more);
  assert.equal(stderr, "");
  assert.ok(!stdout.includes(exchange.adminKey), "the report has the admin key");
  const { findings } = JSON.parse(stdout) as { readonly findings: readonly Finding[] };
  return { code, text: stdout, faults: findings.filter(({ level }) => level === "warn" || level === "fail") };
}

/** Asks until these faults are found, and no others (leases take their time); resolves with them. */
async function doctorFinds(expected: readonly string[], ...more: readonly string[]): Promise<readonly Finding[]> {
  const { faults } = await eventually(
    async () => {
      const report = await doctor(...more);
      const found = report.faults.map(({ id, level }) => `${id}: ${level}`);
      assert.deepEqual(found.sort(), [...expected].sort(), report.text);
      assert.equal(report.code, expected.some((each) => each.endsWith("fail")) ? 1 : 0);
      for (const { id, fix } of report.faults) assert.ok(fix, `${id} has no fix`);
      return report;
    },
    { timeoutMs: 30_000, intervalMs: 200, describe: `the doctor to find ${expected.join(", ") || "nothing"}` },
  );
  return faults;
}

async function withStore(work: (store: KnowledgeStore) => Promise<void>): Promise<void> {
  const store = await openKnowledgeStore(exchange.storeUrl);
  try {
    await work(store);
  } finally {
    await store.close();
  }
}

test("on an exchange that is well it finds nothing to mend", async () => {
  await doctorFinds([]);
});

test("to people it shows part by part what it looks at", async () => {
  const { code, stdout } = await dynamos("doctor", ...PLACES);
  assert.equal(code, 0, stdout);
  assert.match(stdout, /^This machine\n[^]*\nKnowledge store\n[^]*\nMessage bus\n[^]*\nServices\n[^]*\nAll is well/);
});

describe("parts that are down", () => {
  test("a steward with an agreement whose agent never ran; then its agent's clock, which is off by 10 s", async () => {
    const vu = (await exchange.client.get("policyEnforcer/VU", { token: exchange.adminKey })) as Agreement;
    await exchange.client.put("policyEnforcer", { ...vu, name: "RUG" }, { token: exchange.adminKey });
    for (const { found } of await doctorFinds(["agent.online: fail", "bus.queue: fail"])) assert.match(found, /RUG/);
    const agent = await exchange.startAgent("RUG");
    const [clock] = await doctorFinds(["service.clock: warn"]);
    assert.match(clock?.found ?? "", /clock of the agent of RUG is 10 s behind/);
    assert.match(clock?.fix ?? "", /NTP/);
    await withStore(async (store) => void (await store.delete(agreementKeys.key({ steward: "RUG" }))));
    const [stranger] = await doctorFinds(["agent.agreement: warn", "service.clock: warn"]);
    assert.match(stranger?.found ?? "", /agent of RUG is online, and no agreement names it/);
    await agent.stop();
    await doctorFinds([]);
  });

  test("an agent that was killed, with its queue; and that all is well when it is back", async () => {
    exchange.services.get("agent-VU")?.kill("SIGKILL");
    const faults = await doctorFinds(["agent.online: fail", "bus.consumers: fail"]);
    for (const { found, fix = "" } of faults) {
      assert.match(found, new RegExp(`VU|${agentQueue("VU")}`));
      assert.match(fix, /Start the agent of VU/);
    }
    await exchange.start("agent-VU");
    await doctorFinds([]);
  });

  test("a policy enforcer that was killed, also by what the orchestrator says that it lacks", async () => {
    exchange.services.get("policy-enforcer")?.kill("SIGKILL");
    const faults = await doctorFinds(["bus.consumers: fail", "service.ready: warn"]);
    for (const { found } of faults) assert.match(found, new RegExp(`policy enforcer|${POLICY_ENFORCER_QUEUE}`));
    await exchange.start("policy-enforcer");
    await doctorFinds([]);
  });

  test("an agent that hangs: it does not answer", async () => {
    const resume = await pauseService(exchange, "agent-SURF");
    const { faults } = await doctor();
    resume();
    const silent = faults.find(({ id }) => id === "service.reachable");
    assert.ok(silent !== undefined, JSON.stringify(faults));
    assert.match(silent.found, /agent of SURF .* no answer within/);
    await doctorFinds([]);
  });
});

describe("what is stored", () => {
  test("documents that do not go together, and one of a wrong form", async () => {
    const key = agreementKeys.key({ steward: "VU" });
    await withStore(async (store) => {
      const value = (await store.get(key))?.value as Agreement;
      await store.put(key, { ...value, archetypes: ["noSuchArchetype"] });
      const [rules] = await doctorFinds(["store.rules: fail"]);
      assert.match(rules?.found ?? "", /noSuchArchetype/);
      await store.put(key, { name: "VU" });
      const documents = (await doctor()).faults.find(({ id }) => id === "store.documents");
      assert.equal(documents?.level, "fail");
      await store.put(key, value);
    });
    await doctorFinds([]);
  });

  if (exchange.storeUrl.startsWith("sqlite:")) {
    test("a store that another program has locked", async () => {
      const other = new Database(exchange.storeUrl.slice("sqlite:".length));
      other.exec("BEGIN IMMEDIATE");
      const { code, faults } = await doctor();
      other.exec("ROLLBACK");
      other.close();
      assert.equal(code, 1);
      assert.match(faults[0]?.found ?? "", /locked by another process/);
      assert.match(faults[0]?.fix ?? "", /If another program holds the file/);
      await doctorFinds([]);
    });
  }

  test("an admin key that others may read", async () => {
    await chmod(exchange.adminKeyFile, 0o644);
    const [key] = await doctorFinds(["state.admin-key: fail"]);
    assert.match(key?.fix ?? "", /chmod 600/);
    await chmod(exchange.adminKeyFile, 0o600);
  });

  test("a configuration folder with a wrong document, at its place", async () => {
    const folder = join(await temporaryFolder(), "configuration");
    await cp(exchange.configuration, folder, { recursive: true });
    await doctorFinds([], "--configuration", folder);
    await writeFile(join(folder, "archetypes", "computeToData.json"), '{\n  "name": 7,\n}');
    const [configuration] = await doctorFinds(["configuration.valid: fail"], "--configuration", folder);
    assert.match(configuration?.found ?? "", /computeToData\.json:3:1/);
  });
});

describe("store and bus that are not there", () => {
  test("files of an exchange that never ran here, which the doctor does not make", async () => {
    const folder = await temporaryFolder();
    const places = ["--store", `sqlite:${folder}/store.db`, "--bus", `embedded:${folder}/bus.db`];
    for (let times = 0; times < 2; times++) {
      const { code, faults } = await doctor(...places);
      assert.equal(code, 1);
      assert.deepEqual(
        faults.map(({ id }) => id),
        ["store.reachable", "bus.reachable"],
      );
    }
  });

  test("servers that do not answer, whose passwords are not shown", async () => {
    const { code, faults, text } = await doctor("--store", "etcd://root:hunter2@127.0.0.1:1");
    assert.equal(code, 1);
    assert.equal(faults[0]?.id, "store.reachable");
    assert.match(faults[0]?.fix ?? "", /etcd runs/);
    assert.doesNotMatch(text, /hunter2/);
  });

  if (exchange.busUrl.startsWith("amqp:")) {
    test("a broker that refuses the password, which is not shown", async () => {
      const { faults, text } = await doctor("--bus", exchange.busUrl.replace(/:[^:@/]+@/, ":hunter2@"));
      assert.equal(faults[0]?.id, "bus.reachable");
      assert.match(faults[0]?.found ?? "", /refuses the credentials/);
      assert.match(faults[0]?.fix ?? "", /DYNAMOS_BUS/);
      assert.doesNotMatch(text, /hunter2/);
    });
  }

  test("a URL that names nothing we have is a wrong setting", async () => {
    const { faults } = await doctor("--store", "redis://127.0.0.1:1");
    assert.deepEqual(
      faults.map(({ id }) => id),
      ["settings.valid"],
    );
  });
});

test("a message that nobody understands is found among the dead letters, with the command to look at it", async () => {
  const bus = await openMessageBus(exchange.busUrl);
  await bus.publish(POLICY_ENFORCER_QUEUE, { type: "requestApproval", body: Buffer.from("no JSON") });
  await bus.close();
  const [dead] = await doctorFinds(["bus.dead-letters: warn"]);
  assert.match(dead?.found ?? "", /1 message failed for good, from policyEnforcer-in/);
  assert.match(dead?.fix ?? "", /npx dynamos dead-letters/);
});
