/** `dynamos steward` as a cluster's console uses it: servers by environment, the core's given passwords, one Secret per party. */
import assert from "node:assert/strict";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { after, describe, test } from "node:test";
import { steward } from "../../cli/commands/steward.ts";
import { CREDENTIALS_MOUNT, type SecretManifest } from "../../cli/credentials/secret-manifest.ts";
import { openMessageBus } from "../../lib/bus/open.ts";
import { agreementKeys } from "../../lib/knowledge/keys.ts";
import { openKnowledgeStore } from "../../lib/knowledge/open.ts";
import { noEtcdProgram, startEtcd } from "../support/etcd.ts";
import { eventually } from "../support/eventually.ts";
import { skipOwnRabbitMq, startOwnRabbitMq } from "../support/rabbitmq.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const ROOT_PASSWORD = "made-up-root";
const CORE_PASSWORDS = { "store-password": "made-up-store", "bus-password": "made-up-bus" };
/** "Within seconds". */
const CUT_OFF_MS = 10_000;

interface Said {
  readonly code: number;
  /** Standard output. */
  readonly out: string;
  /** Standard error. */
  readonly notes: string;
}

/** Runs `dynamos steward …` with these variables and no others. */
async function run(environment: Readonly<Record<string, string>>, ...args: readonly string[]): Promise<Said> {
  const [out, notes]: [string[], string[]] = [[], []];
  const note = (line: string): number => notes.push(line);
  const code = await steward([...args], (line) => void out.push(line), { note, environment });
  return { code, out: out.join("\n"), notes: notes.join("\n") };
}

/** Fails unless it is refused with this code, and a message that says so. */
function rejectsWith(work: Promise<unknown>, code: string, message = /./): Promise<void> {
  return assert.rejects(work, { code, message });
}

async function folderWith(files: Readonly<Record<string, string>>): Promise<string> {
  const folder = await temporaryFolder();
  await mkdir(join(folder, "chain"));
  for (const [name, text] of Object.entries(files)) await writeFile(join(folder, name), text);
  return folder;
}

/** The settings in a Secret, with its files mounted as pods do it. */
async function mounted({ stringData }: SecretManifest): Promise<(name: string) => string> {
  const { "chain-bus-password": chainPassword = "", ...files } = stringData;
  const folder = await folderWith({ ...files, "chain/bus-password": chainPassword });
  return (name) =>
    (stringData[name] ?? "").replaceAll(encodeURIComponent(CREDENTIALS_MOUNT), encodeURIComponent(folder));
}

async function canOpen(url: string): Promise<boolean> {
  const bus = await openMessageBus(url).catch(() => undefined);
  await bus?.close();
  return bus !== undefined;
}

describe("on servers that nobody has set up", { skip: noEtcdProgram() || skipOwnRabbitMq }, async () => {
  if (noEtcdProgram() !== false || skipOwnRabbitMq !== false) return;
  const [etcd, rabbitMq] = await Promise.all([startEtcd(), startOwnRabbitMq()]);
  after(() => Promise.all([etcd.stop(), rabbitMq.close()]));
  const { name: vhost } = await rabbitMq.vhost();
  const given = await folderWith({ ...CORE_PASSWORDS, root: `${ROOT_PASSWORD}\n` });
  const environment = {
    DYNAMOS_ADMIN_STORE: `etcd://root@${etcd.endpoint}?passwordFile=${join(given, "root")}`,
    DYNAMOS_ADMIN_BROKER: `amqp://127.0.0.1:${String(rabbitMq.port)}/${vhost}`,
    DYNAMOS_ADMIN_BROKER_MANAGEMENT: rabbitMq.environment.DYNAMOS_TEST_AMQP_MANAGEMENT,
  };
  const setUp = ["add", "--core", "--given", given, "--enable-auth", "--wait", "30"];

  test("a set-up without users switched on is refused, and says how", async () => {
    await rejectsWith(run(environment, "add", "--core", "--given", given), "configuration_invalid", /auth enable/);
  });

  test("users are switched on by root only", async () => {
    const store = environment.DYNAMOS_ADMIN_STORE.replace("root@", "admin@");
    await rejectsWith(run({ ...environment, DYNAMOS_ADMIN_STORE: store }, ...setUp), "configuration_invalid", /root/);
  });

  test("the set-up lets the core in with the given passwords, and a repeat changes nothing", async () => {
    for (const time of ["first", "second"]) {
      const { code, notes } = await run(environment, ...setUp);
      assert.equal(code, 0, `${time}: ${notes}`);
      const store = await openKnowledgeStore(`etcd://dynamos-core:made-up-store@${etcd.endpoint}`);
      await store.put(agreementKeys.key({ steward: "VU" }), { time });
      await store.close();
      assert.ok(await canOpen(`amqp://dynamos-core:made-up-bus@127.0.0.1:${String(rabbitMq.port)}/${vhost}`), time);
    }
    await rejectsWith(withoutUser(etcd.url()), "access_refused");
  });

  test("a party's Secret has the settings and passwords by their keys, alone on standard output", async () => {
    const { code, out, notes } = await run(
      environment,
      "add",
      "VU",
      "--role",
      "both",
      "--secret",
      "dynamos-credentials",
    );
    assert.equal(code, 0);
    assert.match(notes, /apply it/);
    const { stringData, ...rest } = JSON.parse(out) as SecretManifest;
    assert.deepEqual(rest, {
      apiVersion: "v1",
      kind: "Secret",
      metadata: {
        name: "dynamos-credentials",
        labels: { "app.kubernetes.io/part-of": "dynamos", "dynamos.steward": "VU" },
      },
      type: "Opaque",
    });
    assert.deepEqual(Object.keys(stringData).sort(), [
      "DYNAMOS_BUS",
      "DYNAMOS_CHAIN_BUS",
      "DYNAMOS_STEWARD",
      "DYNAMOS_STORE",
      "bus-password",
      "chain-bus-password",
      "store-password",
    ]);
    const file = (name: string): string => `passwordFile=${encodeURIComponent(`${CREDENTIALS_MOUNT}/${name}`)}`;
    assert.equal(stringData["DYNAMOS_STORE"], `etcd://dynamos-agent-VU@${etcd.endpoint}?${file("store-password")}`);
    assert.ok(stringData["DYNAMOS_BUS"]?.endsWith(`/${vhost}?${file("bus-password")}`));
    assert.ok(stringData["DYNAMOS_CHAIN_BUS"]?.endsWith(`/${vhost}?${file("chain/bus-password")}`));
  });

  test("the credentials in a Secret let in, newer ones in their place, and none after they are taken away", async () => {
    const add = ["add", "UVA", "--secret", "dynamos-credentials"];
    const first = await mounted(JSON.parse((await run(environment, ...add)).out) as SecretManifest);
    const store = await openKnowledgeStore(first("DYNAMOS_STORE"));
    await store.close();
    const second = await mounted(JSON.parse((await run(environment, ...add)).out) as SecretManifest);
    for (const name of ["DYNAMOS_BUS", "DYNAMOS_CHAIN_BUS"]) {
      assert.deepEqual([await canOpen(first(name)), await canOpen(second(name))], [false, true], name);
    }
    const bus = await openMessageBus(second("DYNAMOS_BUS"));
    try {
      assert.ok((await rabbitMq.api("GET", "/connections")) !== undefined);
      assert.equal((await run(environment, "remove", "UVA")).code, 0);
      await eventually(async () => !(await canOpen(second("DYNAMOS_BUS"))), {
        timeoutMs: CUT_OFF_MS,
        describe: "the removed party to be cut off",
      });
      await rejectsWith(openKnowledgeStore(second("DYNAMOS_STORE")), "access_refused");
    } finally {
      await bus.close();
    }
  });

  test("parties get the addresses by which they reach the servers, and the trial uses ours", async () => {
    const addresses = ["--party-store-address", "etcd.example.org:443", "--party-broker-address", "mq.example.org:444"];
    const { out } = await run(environment, "add", "RUG", "--secret", "dynamos-credentials", ...addresses);
    const { stringData } = JSON.parse(out) as SecretManifest;
    assert.match(stringData["DYNAMOS_STORE"] ?? "", /^etcd:\/\/dynamos-agent-RUG@etcd\.example\.org:443\?/);
    assert.match(stringData["DYNAMOS_BUS"] ?? "", /^amqp:\/\/dynamos-agent-RUG@mq\.example\.org:444\//);
    assert.match(stringData["DYNAMOS_CHAIN_BUS"] ?? "", /^amqp:\/\/dynamos-chain-RUG@mq\.example\.org:444\//);
  });

  test("an address that is none makes no credentials", async () => {
    const wrong = { ...environment, DYNAMOS_PARTY_STORE_ADDRESS: "etcd:99999" };
    await rejectsWith(run(wrong, "add", "TUD", "--secret", "s"), "configuration_invalid");
    assert.doesNotMatch((await run(environment, "list")).out, /TUD/);
  });
});

test("without flag and variable, the server that is missing is named", async () => {
  await rejectsWith(run({}, "list"), "invalid_argument", /--store is missing, and DYNAMOS_ADMIN_STORE is not set/);
});

for (const [what, args] of Object.entries({
  "two places for the credentials": ["add", "VU", "--out", "vu", "--secret", "s"],
  "no place for the credentials": ["add", "VU"],
  "given passwords for a party": ["add", "VU", "--given", "vu"],
  "a party's name for the core": ["add", "VU", "--core", "--secret", "s"],
})) {
  test(`${what}: the use is shown`, async () => {
    const { code, out, notes } = await run({}, ...args);
    assert.deepEqual([code, out], [2, ""]);
    assert.match(notes, /^Use: dynamos steward add/);
  });
}

test("what is no name of a Secret, or no time, is refused by name", async () => {
  const servers = ["--store", "etcd://x", "--broker", "amqp://x", "--broker-management", "http://x"];
  await rejectsWith(run({}, "add", "VU", "--secret", "Not/One", ...servers), "invalid_argument", /Not\/One/);
  await rejectsWith(run({}, "add", "VU", "--secret", "s", "--wait", "soon", ...servers), "invalid_argument", /soon/);
});

async function withoutUser(url: string): Promise<void> {
  const store = await openKnowledgeStore(url);
  await store.get("/agreements/VU").finally(() => store.close());
}
