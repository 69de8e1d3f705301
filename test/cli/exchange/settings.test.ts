import assert from "node:assert/strict";
import { mkdir, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { describe, test } from "node:test";
import { exchangeSettings } from "../../../cli/exchange/settings.ts";
import { AppError } from "../../../lib/errors.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

const FILE = {
  store: "etcd://file:2379",
  bus: "amqp://file:5672",
  sidecar: "separate",
  replicas: { orchestrator: 2, agent: { VU: 3 } },
};
const ENVIRONMENT = {
  DYNAMOS_STORE: "etcd://environment:2379",
  DYNAMOS_BUS: "amqp://environment:5672",
  DYNAMOS_SIDECAR: "inProcess",
  DYNAMOS_REPLICAS: "4",
};
const FLAGS = { store: "etcd://flag:2379", bus: "amqp://flag:5672", sidecar: "separate", replicas: "5" };

async function folderWith(file: unknown): Promise<string> {
  const folder = await temporaryFolder();
  await writeFile(join(folder, "exchange.json"), typeof file === "string" ? file : JSON.stringify(file));
  await mkdir(join(folder, "parties"));
  await writeFile(join(folder, "parties", "VU.json"), JSON.stringify({ dataSets: {} }));
  return folder;
}

describe("the settings of an exchange", () => {
  test("come from exchange.json where neither flag nor environment says anything", async () => {
    assert.deepEqual(await exchangeSettings({}, await folderWith(FILE), {}), {
      storeUrl: "etcd://file:2379",
      busUrl: "amqp://file:5672",
      sidecar: "separate",
      replicas: { orchestrator: 2, agent: { VU: 3 } },
    });
  });

  test("come from the environment before the file, and from flags before both", async () => {
    const folder = await folderWith(FILE);
    assert.deepEqual(await exchangeSettings({}, folder, ENVIRONMENT), {
      storeUrl: "etcd://environment:2379",
      busUrl: "amqp://environment:5672",
      sidecar: "inProcess",
      replicas: { orchestrator: 4, policyEnforcer: 4, agent: 4 },
    });
    assert.deepEqual(await exchangeSettings(FLAGS, folder, ENVIRONMENT), {
      storeUrl: "etcd://flag:2379",
      busUrl: "amqp://flag:5672",
      sidecar: "separate",
      replicas: { orchestrator: 5, policyEnforcer: 5, agent: 5 },
    });
  });

  test("are taken one by one: a flag for the bus leaves the file's store as it is", async () => {
    const settings = await exchangeSettings({ bus: "amqp://flag:5672" }, await folderWith({ store: FILE.store }), {});
    assert.deepEqual(settings, { storeUrl: "etcd://file:2379", busUrl: "amqp://flag:5672" });
  });

  test("of single parts come from the file and from flags, which count first, setting by setting", async () => {
    const folder = await folderWith({ settings: { "agent-VU": { DYNAMOS_CREDITS: "4", DYNAMOS_MAX_RUNS: "3" } } });
    const set = ["agent-VU:DYNAMOS_CREDITS=8", "orchestrator:DYNAMOS_LOG_LEVEL=a=b:c"];
    assert.deepEqual(await exchangeSettings({ set }, folder, {}), {
      environmentOf: {
        "agent-VU": { DYNAMOS_CREDITS: "8", DYNAMOS_MAX_RUNS: "3" },
        orchestrator: { DYNAMOS_LOG_LEVEL: "a=b:c" },
      },
    });
  });

  test("are none without file, flag and variable", async () => {
    assert.deepEqual(await exchangeSettings({}, await temporaryFolder(), {}), {});
  });

  test("name embedded files from the reader's working folder", async () => {
    const settings = await exchangeSettings(
      { store: "sqlite:a/s.db", bus: "embedded:b.db" },
      await temporaryFolder(),
      {},
    );
    assert.deepEqual(settings, { storeUrl: `sqlite:${resolve("a/s.db")}`, busUrl: `embedded:${resolve("b.db")}` });
  });
});

describe("a wrong setting is named with its place:", () => {
  const faults: readonly [string, () => Promise<unknown>, RegExp][] = [
    ["a flag", async () => exchangeSettings({ replicas: "0" }, await folderWith({}), {}), /^--replicas 0: .*1 to 16/],
    [
      "a word that is none",
      async () => exchangeSettings({ sidecar: "beside" }, await folderWith({}), {}),
      /^--sidecar beside: write inProcess or separate/,
    ],
    [
      "a setting of no part, without its value",
      async () => exchangeSettings({ set: ["DYNAMOS_CREDITS=secret"] }, await folderWith({}), {}),
      /^--set DYNAMOS_CREDITS=…: write PART:NAME=VALUE/,
    ],
    [
      "a setting that its part does not have",
      async () => exchangeSettings({ set: ["agent-VU:DYNAMOS_WARM_CHAIN=2"] }, await folderWith({}), {}),
      /^DYNAMOS_WARM_CHAIN is no setting of agent-VU\..*DYNAMOS_WARM_CHAINS/,
    ],
    [
      "a variable",
      async () => exchangeSettings({}, await folderWith({}), { DYNAMOS_SIDECAR: "beside" }),
      /DYNAMOS_SIDECAR: .*inProcess or separate/,
    ],
    ["a member of the file", async () => exchangeSettings({}, await folderWith({ sidecar: "x" }), {}), /^\/sidecar: /],
    ["a member that is none", async () => exchangeSettings({}, await folderWith({ buss: "x" }), {}), /^\/buss: /],
    ["a file that is no JSON", async () => exchangeSettings({}, await folderWith("{,"), {}), /not JSON/],
    ["a store of no kind", async () => exchangeSettings({ store: "redis://x" }, await folderWith({}), {}), /redis:/],
  ];
  for (const [what, work, message] of faults) {
    test(what, async () => {
      await assert.rejects(work(), (error: unknown) => {
        assert.ok(error instanceof AppError, String(error));
        assert.ok(["invalid_argument", "configuration_invalid"].includes(error.code), error.code);
        assert.match(error.message, message);
        return true;
      });
    });
  }
});
