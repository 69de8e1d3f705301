import assert from "node:assert/strict";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, test } from "node:test";
import { call, type CallOptions } from "../../cli/client.ts";
import { startService } from "../../cli/exchange/service-process.ts";
import type { DataSet } from "../../lib/model/dataset.ts";
import type { Microservice } from "../../lib/model/microservice.ts";
import { dynamos } from "../support/command.ts";
import { changeDocument, testExchange } from "../support/exchange.ts";
import { assertNoProcessLeft } from "../support/leaks.ts";
import { NUMBERS_APPROVAL, numbersAgreement, numbersConfiguration, writeDocument } from "../support/numbers.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const configuration = await numbersConfiguration();
const exchange = await testExchange({ configuration });
const { client, adminKey } = exchange;
let base = `${exchange.url}/api/v1`;

interface Reply {
  readonly status: number;
  readonly etag: string;
  readonly text: string;
  readonly body: Readonly<Record<string, unknown>>;
}

async function api(method: string, path: string, document?: unknown, options: CallOptions = {}): Promise<Reply> {
  const response = await call(method, `${base}/${path}`, document, { token: adminKey, ...options });
  const text = await response.text();
  const isJson = /json/.test(response.headers.get("content-type") ?? "");
  const body = (isJson ? JSON.parse(text) : {}) as Reply["body"];
  return { status: response.status, etag: response.headers.get("etag") ?? "", text, body };
}

const KINDS = {
  archetypes: { name: "byPost", computeProvider: "other", resultRecipient: "requestor", weight: 900 },
  microservices: {
    name: "sql-sample",
    label: "dataProvider",
    allowedOutputs: ["sql-algorithm", "sql-aggregate"],
    invalidArchetypes: [],
  },
  requestTypes: {
    name: "countRequest",
    requiredServices: ["sql-query", "sql-aggregate", "sql-algorithm"],
    optionalServices: {},
  },
  datasets: {
    name: "letters",
    type: "csv",
    tables: [{ name: "L", columns: [{ name: "c", type: { type: "text" } }] }],
    sensitive_columns: {},
  },
  policyEnforcer: numbersAgreement("OTHER"),
  forcedServices: { data_steward: "OTHER", types: { sqlDataRequest: ["sql-anonymize"] } },
};

describe("documents over HTTP", () => {
  for (const [path, document] of Object.entries(KINDS)) {
    test(`of ${path}, one is put, read, changed under its ETag only, and deleted`, async () => {
      const name = "name" in document ? document.name : document.data_steward;
      const one = `${path}/${name}`;
      assert.equal((await api("GET", one)).body["code"], "not_found");
      const created = await api("PUT", path, document, { headers: { "if-none-match": "*" } });
      assert.equal(created.status, 201, created.text);
      const read = await api("GET", one);
      assert.deepEqual([read.status, read.body, read.etag], [200, document, created.etag]);
      const changed = await api("PUT", one, document, { headers: { "if-match": created.etag } });
      assert.equal(changed.status, 200, changed.text);
      const stale = await api("PUT", one, document, { headers: { "if-match": created.etag } });
      assert.deepEqual([stale.status, stale.body["code"]], [412, "precondition_failed"]);
      assert.equal((await api("DELETE", one, undefined, { headers: { "if-match": created.etag } })).status, 412);
      assert.equal((await api("DELETE", one)).status, 204);
      assert.deepEqual([(await api("DELETE", one)).status, (await api("GET", one)).status], [404, 404]);
    });
  }

  test("what would make no chain is refused with its place, and nothing is stored", async () => {
    const query = (await api("GET", "microservices/sql-query")).body;
    const algorithm = (await api("GET", "microservices/sql-algorithm")).body;
    const requestType = (await api("GET", "requestTypes/sqlDataRequest")).body;
    const faults = [
      ["microservices", { ...algorithm, allowedOutputs: ["sql-graph", "sql-query"] }, /cycle/i, undefined],
      ["microservices", { ...algorithm, allowedOutputs: ["sql-nothing"] }, /sql-nothing/, "/allowedOutputs/0"],
      ["microservices", { ...algorithm, allowedOutputs: [] }, /not connected/, undefined],
      ["microservices", { ...query, invalidArchetypes: ["byPigeon"] }, /byPigeon/, "/invalidArchetypes/0"],
      ["microservices", { ...query, invalidArchetypes: ["dataThroughTtp"] }, /dataThroughTtp/, undefined],
      ["requestTypes", { ...requestType, requiredServices: ["sql-lost"] }, /sql-lost/, "/requiredServices/0"],
      ["forcedServices", { data_steward: "VU", types: { sqlDataRequest: ["x"] } }, /"x"/, "/types/sqlDataRequest/0"],
      ["policyEnforcer", { ...KINDS.policyEnforcer, archetypes: ["byPigeon"] }, /byPigeon/, "/archetypes/0"],
      ["datasets", { ...KINDS.datasets, tables: [] }, /tables/, "/tables"],
    ] as const;
    const before = await everything();
    for (const [path, document, message, pointer] of faults) {
      const { status, body, text } = await api("PUT", path, document);
      assert.equal(status, 422, text);
      assert.match(String(body["code"]), /^(chain|configuration)_invalid$/);
      assert.match(String(body["detail"]), message);
      if (pointer !== undefined) assert.equal(body["pointer"], pointer, text);
    }
    assert.deepEqual(await everything(), before);
  });

  test("what others need is not deleted", async () => {
    const before = await everything();
    for (const path of ["archetypes/computeToData", "datasets/numbers", "microservices/sql-query"]) {
      assert.equal((await api("DELETE", path)).status, 422, path);
    }
    assert.deepEqual(await everything(), before);
  });

  test("a chain is drawn as DOT and as SVG, with what a steward forces into it", async () => {
    await api("PUT", "forcedServices", { data_steward: "VU", types: { sqlDataRequest: ["sql-anonymize"] } });
    const dot = await api("GET", "chains/sqlDataRequest.dot?archetype=computeToData&steward=VU");
    assert.match(dot.text, /^digraph[\s\S]*sql-query[\s\S]*sql-anonymize[\s\S]*sql-algorithm/);
    const svg = await api("GET", "chains/sqlDataRequest.svg?archetype=dataThroughTtp");
    assert.match(svg.text.replaceAll("&#45;", "-"), /<svg[\s\S]*sql-aggregate[\s\S]*<\/svg>/);
    assert.equal((await api("GET", "chains/noSuchType.svg")).status, 404);
  });
});

describe("a document that changes", () => {
  const rows = { type: "sqlDataRequest", query: "SELECT kind, amount FROM Numbers" };
  const askVu = async () =>
    client
      .ask({ ...NUMBERS_APPROVAL, dataProviders: ["VU"], data_request: rows })
      .then(({ responses }) => responses[0]);

  test("changes the next request: what is sensitive, and what the steward forces", async () => {
    await api("DELETE", "forcedServices/VU");
    assert.deepEqual(Object.keys((await askVu())?.rows?.[0] ?? {}), ["kind", "amount"]);
    await changeDocument<DataSet>(exchange, "datasets", "numbers", (dataSet) => ({
      ...dataSet,
      sensitive_columns: { Numbers: ["kind"] },
      anonymization: { Numbers: { kind: { method: "mask" } } },
    }));
    await api("PUT", "forcedServices", { data_steward: "VU", types: { sqlDataRequest: ["sql-anonymize"] } });
    assert.deepEqual(
      (await askVu())?.rows?.map(({ kind }) => /^\*+$/.test(String(kind))),
      [true, true, true],
    );
  });

  test("changes the next plan: where an optional service may not run", async () => {
    await changeDocument<Microservice>(exchange, "microservices", "sql-anonymize", (service) => ({
      ...service,
      invalidArchetypes: ["computeToData"],
    }));
    const approval = await client.requestApproval({ ...NUMBERS_APPROVAL, options: { anonymize: true } });
    assert.equal(approval.archetype, "dataThroughTtp");
    assert.equal((await client.requestApproval(NUMBERS_APPROVAL)).archetype, "computeToData");
  });
});

describe("the configuration folder", () => {
  test("fills an empty store only: an orchestrator that starts again leaves what was put since", async () => {
    const before = await everything();
    await writeDocument(configuration, "agreements/VU.json", numbersAgreement("VU", { archetypes: [] }));
    await writeDocument(configuration, "agreements/NEW.json", numbersAgreement("NEW"));
    await exchange.services.get("orchestrator")?.stop();
    const folder = join(exchange.stateFolder, "orchestrator");
    const again = await startService({
      name: "orchestrator",
      program: "orchestrator/main",
      environment: {
        DYNAMOS_STORE: exchange.storeUrl,
        DYNAMOS_BUS: exchange.busUrl,
        DYNAMOS_STATE_FOLDER: folder,
        DYNAMOS_SEED_FOLDER: configuration,
      },
      logFile: join(exchange.stateFolder, "logs", "orchestrator-again.log"),
      readyMs: 30_000,
    });
    try {
      base = `${again.url}/api/v1`;
      assert.equal((await readFile(join(folder, "admin-key"), "utf8")).trim(), adminKey);
      assert.deepEqual(await everything(), before);
    } finally {
      await again.stop();
    }
  });

  test("with a fault, the command names file and place, ends with 1, and leaves nothing running", async () => {
    const faults: Record<string, readonly [path: string, text: string, place: RegExp]> = {
      "broken JSON": ["archetypes/byPost.json", '{\n  "name": "byPost",\n  }', /byPost\.json:3:3: .*JSON/],
      "a member of a wrong type": [
        "archetypes/byPost.json",
        JSON.stringify({ ...KINDS.archetypes, weight: "heavy" }),
        /byPost\.json at \/weight: /,
      ],
      "a name that nothing has": [
        "agreements/VU.json",
        JSON.stringify(numbersAgreement("VU", { archetypes: ["byPigeon"] })),
        /VU\.json at \/archetypes\/0: .*no archetype "byPigeon"/,
      ],
      "a chain that is none": [
        "requestTypes/other.json",
        JSON.stringify({ name: "other", requiredServices: ["sql-query", "sql-graph"], optionalServices: {} }),
        /other\.json: .*not connected/,
      ],
      "a party's file that is none": [
        "parties/VU.json",
        JSON.stringify({ dataSets: { numbers: { engine: "csv", files: { Numbers: 7 } } } }),
        /VU\.json.*\/dataSets\/numbers/,
      ],
    };
    for (const [what, [path, text, place]] of Object.entries(faults)) {
      const [folder, state] = [await numbersConfiguration(), await temporaryFolder()];
      await writeFile(join(folder, path), text);
      const { code, stderr } = await dynamos("up", "--configuration", folder, "--state", state, "--port", "0");
      assert.equal(code, 1, `${what}: ${stderr}`);
      assert.match(stderr, place, what);
      assert.ok(stderr.startsWith(folder), `${what}: ${stderr}`);
      await assertNoProcessLeft(state);
    }
  });
});

/** All documents of all kinds with nothing left out, to be compared. */
async function everything(): Promise<Record<string, unknown>> {
  const lists = await Promise.all(
    Object.keys(KINDS).map(async (path) => [path, (await api("GET", path)).body] as const),
  );
  return Object.fromEntries(lists);
}
