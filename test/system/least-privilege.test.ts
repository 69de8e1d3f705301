/**
 * A whole exchange on real servers with TLS, where each party has the credentials that `dynamos steward` made, and no more: what
 * it needs works, and what is another's is refused by store and broker themselves.
 */
import assert from "node:assert/strict";
import { readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { after, describe, test } from "node:test";
import { connect, type Channel, type ChannelModel } from "amqplib";
import { ExchangeClient, type GatheredAnswer } from "../../cli/client.ts";
import { averageSalaryBySex } from "../../cli/demo/known-answer.ts";
import { startExchange, type Exchange } from "../../cli/exchange/exchange.ts";
import { agreementKeys, onlineKeys, planKeys } from "../../lib/knowledge/keys.ts";
import type { KnowledgeStore } from "../../lib/knowledge/knowledge-store.ts";
import { openKnowledgeStore } from "../../lib/knowledge/open.ts";
import { CertificateAuthority, noCertificates } from "../support/certificates.ts";
import { dynamos } from "../support/command.ts";
import { noEtcdProgram, startEtcd } from "../support/etcd.ts";
import { eventually } from "../support/eventually.ts";
import { ANALYST, SALARY_QUERY, rejectsWith, smallSample } from "../support/exchange.ts";
import { assertNoProcessLeft } from "../support/leaks.ts";
import { skipOwnRabbitMq, startOwnRabbitMq } from "../support/rabbitmq.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const PARTIES = { VU: "dataProvider", UVA: "dataProvider", RUG: "dataProvider", SURF: "thirdParty" } as const;
type Party = keyof typeof PARTIES;
const ROOT_PASSWORD = "made-up-root";
/** Requests to a party that is cut off end by then; its own deadline for a party that accepts nothing is 10 s. */
const CUT_OFF_MS = 15_000;
/** TLS and users make a start no faster on a machine that is busy. */
const READY_MS = 120_000;

const skip = noCertificates() || noEtcdProgram() || skipOwnRabbitMq;

const ending: (() => Promise<void>)[] = [];
after(async () => {
  for (const end of ending.reverse()) await end();
});

describe("an exchange where everybody has credentials of their own", { skip }, async () => {
  if (skip !== false) return;
  const { broker, servers, out } = await startServers();
  const settings = new Map<string, Record<string, string>>();
  const { exchange, client, configuration } = await start();

  test("the command's folders are for their owner only, and no URL holds a password", async () => {
    for (const [name, values] of settings) {
      for (const [file, value] of Object.entries(values)) assert.doesNotMatch(value, /:[^/@]+@/, `${name} ${file}`);
      for (const file of ["settings.env", "store-password", "bus-password"]) {
        const { mode } = await stat(join(out, name, file));
        assert.equal(mode & 0o077, 0, `${name}/${file}`);
      }
    }
  });

  test("computeToData gives the known averages", async () => {
    await assertKnown(await ask({}), "computeToData", ["VU", "UVA"]);
  });

  test("dataThroughTtp gives the known averages", async () => {
    await assertKnown(await ask({ aggregate: true }), "dataThroughTtp", ["VU", "UVA"]);
  });

  describe("at the broker", () => {
    test("VU's agent may use what is its own", async () => {
      await withChannel("VU", "DYNAMOS_BUS", async (channel) => {
        await channel.assertQueue("VU-in-00000000", { autoDelete: true });
        await channel.bindQueue("VU-in-00000000", "topic_exchange", "VU-in-00000000");
        await channel.deleteQueue("VU-in-00000000");
      });
    });

    const run = "analyst-0123abcd-uva-0123456789ab-1-abcde";
    for (const [what, attempt] of Object.entries<(channel: Channel) => Promise<unknown>>({
      "consume from UVA-in": (channel) => channel.consume("UVA-in", () => undefined),
      "consume from the policy enforcer's queue": (channel) => channel.consume("policyEnforcer-in", () => undefined),
      "consume from the dead letters": (channel) => channel.get("dead-letter-queue"),
      "delete UVA-in": (channel) => channel.deleteQueue("UVA-in"),
      "purge UVA-in": (channel) => channel.purgeQueue("UVA-in"),
      "declare a queue of another name": (channel) => channel.assertQueue("spy"),
      "declare a run queue of UVA": (channel) => channel.assertQueue(run),
      "bind UVA's key to its own queue": (channel) => channel.bindQueue("VU-in", "topic_exchange", "UVA-in"),
      "bind # to its own queue": (channel) => channel.bindQueue("VU-in", "topic_exchange", "#"),
      "bind * to its own queue": (channel) => channel.bindQueue("VU-in", "topic_exchange", "*"),
      "bind its own queue to the dead letters": (channel) => channel.bindQueue("VU-in", "dead-letter-exchange", ""),
    })) {
      test(`VU's agent may not ${what}`, () => assertForbidden("VU", "DYNAMOS_BUS", attempt));
    }

    for (const key of ["UVA-in", "SURF-in", "policyEnforcer-in", "orchestrator-in", `${run}-reply`]) {
      test(`VU's agent may not publish to ${key}`, () => assertForbiddenToPublish("VU", "DYNAMOS_BUS", key));
    }

    test("VU's agent may not publish as another user", async () => {
      await assertForbiddenToPublish("VU", "DYNAMOS_BUS", "VU-in-00000000", { userId: "dynamos-core" }, 406);
    });

    test("VU's agent may not go round the exchange", async () => {
      await withChannel("VU", "DYNAMOS_BUS", async (channel) => {
        const closed = closing(channel);
        channel.publish("", "UVA-in", Buffer.from("{}"));
        assert.equal((await closed).code, 403);
      });
    });

    test("the third party may ask providers, and take nothing from them", async () => {
      await assertForbidden("SURF", "DYNAMOS_BUS", (channel) => channel.get("VU-in"));
      await assertForbiddenToPublish("SURF", "DYNAMOS_BUS", "policyEnforcer-in");
    });

    for (const [what, attempt] of Object.entries<(channel: Channel) => Promise<unknown>>({
      "consume from the agent's queue": (channel) => channel.get("VU-in"),
      "declare a queue": (channel) => channel.assertQueue("VU-in-00000000"),
      "read another party's run": (channel) => channel.get(run),
    })) {
      test(`VU's chains may not ${what}`, () => assertForbidden("VU", "DYNAMOS_CHAIN_BUS", attempt));
    }

    for (const key of ["VU-in", "UVA-in", "orchestrator-in-0123abcd", "policyEnforcer-in"]) {
      test(`VU's chains may not publish to ${key}`, () => assertForbiddenToPublish("VU", "DYNAMOS_CHAIN_BUS", key));
    }
  });

  describe("at the store", () => {
    const uva = { party: "UVA", instanceId: "0123abcd" };
    for (const [what, attempt] of Object.entries<(store: KnowledgeStore) => Promise<unknown>>({
      "read UVA's agreement": (store) => store.get(agreementKeys.key({ steward: "UVA" })),
      "list all agreements": (store) => store.list(agreementKeys.prefix()),
      "write its own agreement": (store) => store.put(agreementKeys.key({ steward: "VU" }), {}),
      "write UVA's agreement": (store) => store.put(agreementKeys.key({ steward: "UVA" }), {}),
      "read UVA's jobs": (store) => store.list("/agents/jobs/UVA/"),
      "be online as UVA": (store) => store.put(onlineKeys.key(uva), {}),
      "take UVA offline": (store) => store.delete(onlineKeys.key(uva)),
      "read the orchestrator's plans": (store) => store.list(planKeys.prefix()),
      "change a data set": (store) => store.put("/datasets/wageGap", {}),
      "list everything": (store) => store.list("/"),
    })) {
      test(`VU's agent may not ${what}`, async () => {
        await withStore("VU", (store) => rejectsWith(attempt(store), "access_refused"));
      });
    }

    test("VU's agent may read its own agreement", async () => {
      await withStore("VU", async (store) => assert.ok(await store.get(agreementKeys.key({ steward: "VU" }))));
    });
  });

  test("the command lists who has credentials, and refuses a name that could not be told apart", async () => {
    const listed = await dynamos("steward", "list", ...servers);
    assert.deepEqual(listed.stdout.trim().split("\n"), ["(core)", "RUG", "SURF", "UVA", "VU"]);
    const twin = await dynamos("steward", "add", "vu", "--out", join(out, "vu"), ...servers);
    assert.equal(twin.code, 1);
    assert.match(twin.stderr, /\[conflict\]/);
  });

  test("new passwords take no restart", async () => {
    const before = await readFile(join(out, "VU", "bus-password"), "utf8");
    await add("VU");
    assert.notEqual(await readFile(join(out, "VU", "bus-password"), "utf8"), before);
    await broker.cut();
    const answer = await eventually(
      async () => {
        const given = await ask({});
        return given.responses.every(({ status }) => status === "ok") && given;
      },
      { timeoutMs: 30_000, intervalMs: 500, describe: "the exchange to answer with new passwords" },
    );
    await assertKnown(answer, "computeToData", ["VU", "UVA"]);
  });

  test("a steward whose credentials are taken away is out within seconds, and the others work on", async () => {
    const url = settings.get("UVA")?.["DYNAMOS_STORE"] ?? "";
    const startedAt = performance.now();
    const removed = await dynamos("steward", "remove", "UVA", ...servers);
    assert.equal(removed.code, 0, removed.stderr);
    const answer = await ask({});
    assert.ok(performance.now() - startedAt < CUT_OFF_MS, "it took too long");
    assert.deepEqual(
      answer.responses.filter(({ status }) => status === "ok").map(({ provider }) => provider),
      ["VU"],
    );
    await rejectsWith(openKnowledgeStore(url), "access_refused");
    await assert.rejects(openChannelModel("UVA", "DYNAMOS_BUS"), /403/);
    await assert.rejects(openChannelModel("UVA", "DYNAMOS_CHAIN_BUS"), /403/);
    const queues = (await broker.queues()).filter((name) => /^UVA-|-uva-/.test(name));
    assert.deepEqual(queues, []);
    const again = await dynamos("steward", "remove", "UVA", ...servers);
    assert.equal(again.code, 1);
  });

  /** The exchange, each part with what the command made for it. */
  async function start(): Promise<{ exchange: Exchange; client: ExchangeClient; configuration: string }> {
    await add("core");
    for (const party of Object.keys(PARTIES) as Party[]) await add(party);
    const core = settings.get("core") ?? {};
    const environmentOf: Record<string, Record<string, string>> = { orchestrator: core, "policy-enforcer": core };
    for (const party of Object.keys(PARTIES)) environmentOf[`agent-${party}`] = settings.get(party) ?? {};
    const stateFolder = await temporaryFolder();
    const configuration = await smallSample();
    const exchange = await startExchange({
      configuration,
      stateFolder,
      port: 0,
      readyMs: READY_MS,
      storeUrl: core["DYNAMOS_STORE"] ?? "",
      busUrl: core["DYNAMOS_BUS"] ?? "",
      environmentOf,
    });
    ending.push(async () => {
      await exchange.stop();
      await assertNoProcessLeft(stateFolder);
    });
    return { exchange, client: new ExchangeClient(exchange.url), configuration };
  }

  /** Runs the command, and keeps the settings that it wrote. */
  async function add(name: Party | "core"): Promise<void> {
    const who = name === "core" ? ["--core"] : [name, "--role", PARTIES[name]];
    const folder = join(out, name);
    const { code, stdout, stderr } = await dynamos("steward", "add", ...who, "--out", folder, ...servers);
    assert.equal(code, 0, stderr);
    for (const file of ["store-password", "bus-password"]) {
      const password = (await readFile(join(folder, file), "utf8")).trim();
      assert.ok(password.length >= 32 && !`${stdout}${stderr}`.includes(password));
    }
    const lines = (await readFile(join(folder, "settings.env"), "utf8")).trim().split("\n");
    settings.set(name, Object.fromEntries(lines.map((line) => line.split(/=(.*)/s).slice(0, 2) as [string, string])));
  }

  async function ask(options: Readonly<Record<string, boolean>>): Promise<GatheredAnswer> {
    assert.ok(exchange.services.size > 0);
    return client.ask({
      type: "sqlDataRequest",
      user: ANALYST,
      dataProviders: ["VU", "UVA"],
      options,
      data_request: {
        type: "sqlDataRequest",
        query: SALARY_QUERY,
        algorithm: "average",
        algorithmColumns: { Geslacht: "Aanst_22" },
        options,
      },
    });
  }

  async function assertKnown(answer: GatheredAnswer, archetype: string, stewards: readonly string[]): Promise<void> {
    assert.equal(answer.archetype, archetype);
    const rows = answer.pooled?.rows ?? answer.responses[0]?.rows ?? [];
    const known = await averageSalaryBySex(join(configuration, "data"), [...stewards]);
    assert.equal(rows.length, known.size);
    for (const [sex, average] of known) {
      const found = Number(rows.find(({ Geslacht }) => (Geslacht ?? "") === sex)?.["average_Aanst_22"]);
      assert.ok(Math.abs(found - average) <= 1e-9 * average, `${sex}: ${String(found)} instead of ${String(average)}`);
    }
  }

  async function openChannelModel(party: string, setting: string): Promise<ChannelModel> {
    const url = new URL((settings.get(party)?.[setting] ?? "").replace(/^amqps/, "https"));
    const password = (await readFile(url.searchParams.get("passwordFile") ?? "", "utf8")).trim();
    const ca = await readFile(url.searchParams.get("caFile") ?? "");
    const place = { hostname: url.hostname, port: Number(url.port), vhost: url.pathname.slice(1) };
    return connect({ ...place, protocol: "amqps", username: decodeURIComponent(url.username), password }, { ca: [ca] });
  }

  async function withChannel(party: string, setting: string, work: (channel: Channel) => Promise<void>): Promise<void> {
    const model = await openChannelModel(party, setting);
    model.on("error", () => undefined);
    try {
      const channel = await model.createChannel();
      channel.on("error", () => undefined);
      await work(channel);
    } finally {
      await model.close();
    }
  }

  function assertForbidden(
    party: string,
    setting: string,
    attempt: (channel: Channel) => Promise<unknown>,
  ): Promise<void> {
    return withChannel(party, setting, async (channel) => {
      await assert.rejects(attempt(channel), (error: { readonly code?: number }) => error.code === 403);
    });
  }

  function assertForbiddenToPublish(
    party: string,
    setting: string,
    key: string,
    properties: { readonly userId?: string } = {},
    code = 403,
  ): Promise<void> {
    return withChannel(party, setting, async (channel) => {
      const closed = closing(channel);
      channel.publish("topic_exchange", key, Buffer.from("{}"), properties);
      assert.equal((await closed).code, code);
    });
  }

  async function withStore(party: string, work: (store: KnowledgeStore) => Promise<unknown>): Promise<void> {
    const store = await openKnowledgeStore(settings.get(party)?.["DYNAMOS_STORE"] ?? "");
    try {
      await work(store);
    } finally {
      await store.close();
    }
  }
});

/** etcd and RabbitMQ with TLS, users switched on, and what the command needs to come in; `out` is for what it writes. */
async function startServers() {
  const authority = await CertificateAuthority.make();
  const { caFile } = authority;
  const tls = { caFile, ...(await authority.certificate()) };
  const [etcd, rabbitMq, out] = await Promise.all([startEtcd({ tls }), startOwnRabbitMq({ tls }), temporaryFolder()]);
  ending.push(
    () => etcd.stop(),
    () => rabbitMq.close(),
  );
  await etcd.enableAuth(ROOT_PASSWORD);
  const vhost = await rabbitMq.vhost();
  const store = `${etcd.url("/exchange", { name: "root", password: ROOT_PASSWORD })}?caFile=${caFile}`;
  const bus = `amqps://localhost:${String(rabbitMq.tlsPort)}/${vhost.name}?caFile=${caFile}`;
  const management = rabbitMq.environment.DYNAMOS_TEST_AMQP_MANAGEMENT;
  return {
    out,
    servers: ["--store", store, "--broker", bus, "--broker-management", management],
    broker: {
      cut: () => rabbitMq.cutConnections(vhost),
      queues: async () => {
        const queues = (await rabbitMq.api("GET", `/queues/${vhost.name}`)) as readonly { readonly name: string }[];
        return queues.map(({ name }) => name);
      },
    },
  };
}

/** The error with which the broker closes a channel. */
function closing(channel: Channel): Promise<{ readonly code?: number }> {
  return new Promise((resolve, reject) => {
    channel.once("error", resolve);
    setTimeout(() => reject(new Error("the broker has not refused it within 10 s")), 10_000).unref();
  });
}
