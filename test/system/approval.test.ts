import assert from "node:assert/strict";
import { describe, test } from "node:test";
import type { Approval } from "../../cli/client.ts";
import type { Agreement } from "../../lib/model/agreement.ts";
import type { Archetype } from "../../lib/model/archetype.ts";
import { REFUSAL_CODES } from "../../lib/messages.ts";
import { changeDocument, rejectsWith, testExchange } from "../support/exchange.ts";
import {
  NUMBERS_APPROVAL,
  numbersAgreement,
  numbersConfiguration,
  SUM_QUESTION,
  sumsOf,
  writeDocument,
} from "../support/numbers.ts";

/** Stewards that refuse, each for a reason of its own; they need no agent for that. RUG has no agreement. */
const REFUSING = {
  Unrelated: numbersAgreement("Unrelated", { relations: {} }),
  Ended: numbersAgreement("Ended", {}, { validUntil: "2020-01-01T00:00:00Z" }),
  OtherTypes: numbersAgreement("OtherTypes", {}, { requestTypes: [] }),
  OtherData: numbersAgreement("OtherData", {}, { dataSets: [] }),
  OnlyCounts: numbersAgreement("OnlyCounts", {}, { operations: ["count"] }),
  NoArchetype: numbersAgreement("NoArchetype", { archetypes: ["computeToData"] }, { allowedArchetypes: [] }),
};
const REASONS = {
  RUG: "no_agreement",
  Unrelated: "no_relation",
  Ended: "relation_not_valid_now",
  OtherTypes: "request_type_not_allowed",
  OtherData: "data_set_not_allowed",
  OnlyCounts: "operation_not_allowed",
  NoArchetype: "no_archetype_allowed",
};

const configuration = await numbersConfiguration({ thirdParties: ["TNO"], providers: ["DELFT"] });
for (const [name, agreement] of Object.entries(REFUSING)) {
  await writeDocument(configuration, `agreements/${name}.json`, agreement);
}
const exchange = await testExchange({ configuration, offline: ["DELFT"] });
const { client } = exchange;
const approve = (request: Partial<typeof NUMBERS_APPROVAL> & { options?: Record<string, boolean> } = {}) =>
  client.requestApproval({ ...NUMBERS_APPROVAL, ...request }) as Promise<Approval & { computeProvider?: string }>;
const changeAgreement = (name: string, change: (agreement: Agreement) => Agreement) =>
  changeDocument<Agreement>(exchange, "policyEnforcer", name, change);
const weigh = (name: string, weight: number) =>
  changeDocument<Archetype>(exchange, "archetypes", name, (archetype) => ({ ...archetype, weight }));

describe("who may answer", () => {
  test("every reason to refuse has its code, and those who allow it answer", async () => {
    const atApproval = REFUSAL_CODES.filter((code) => code !== "compute_provider_not_allowed");
    assert.deepEqual(Object.values(REASONS), atApproval, "one steward for each code that an approval can meet");
    const answer = await client.ask({
      ...NUMBERS_APPROVAL,
      dataProviders: ["VU", "DELFT", ...Object.keys(REASONS)],
      data_request: SUM_QUESTION,
    });
    assert.deepEqual(Object.fromEntries(answer.refused.map(({ provider, code }) => [provider, code])), REASONS);
    for (const { provider, detail } of answer.refused) assert.ok(detail.includes(provider), detail);
    assert.deepEqual(answer.offline, ["DELFT"]);
    assert.deepEqual(
      answer.responses.map(({ provider, status }) => [provider, status]),
      [["VU", "ok"]],
    );
    assert.deepEqual(sumsOf(answer.pooled?.rows), { a: 3, b: 10 });
  });

  test("where nobody allows it, the refusal names each one's reason, and who is offline", async () => {
    const refused = await rejectsWith(
      approve({ dataProviders: ["RUG", "DELFT", "Unrelated"] }),
      "no_authorized_providers",
    );
    const { refused: refusals, offline } = refused["details"] as { refused: { code: string }[]; offline: string[] };
    assert.deepEqual(
      refusals.map(({ code }) => code),
      ["no_agreement", "no_relation"],
    );
    assert.deepEqual(offline, ["DELFT"]);
    assert.equal(refused["retryable"], false);
  });

  test("where all who allow it are offline, repeating may help", async () => {
    const refused = await rejectsWith(approve({ dataProviders: ["DELFT"] }), "no_authorized_providers");
    assert.equal(refused["retryable"], true);
  });

  test("another user, with a name like a member of every object, has no relation", async () => {
    for (const userName of ["somebody@example.org", "constructor", "__proto__"]) {
      const refused = await rejectsWith(
        approve({ user: { id: "x", userName }, dataProviders: ["VU"] }),
        "no_authorized_providers",
      );
      assert.match(String(refused["message"]), /no_relation/);
    }
  });

  test("a steward that comes online takes part from then on", async () => {
    await exchange.startAgent("DELFT");
    const approval = await approve({ dataProviders: ["VU", "DELFT"] });
    assert.deepEqual(Object.keys(approval.authorizedProviders), ["DELFT", "VU"]);
    assert.deepEqual(approval.offline, []);
  });
});

describe("which archetype", () => {
  test("the option aggregate leads through a third party; without it the lighter archetype is right", async () => {
    const through = await approve({ options: { aggregate: true } });
    assert.deepEqual([through.archetype, through.computeProvider], ["dataThroughTtp", "SURF"]);
    assert.deepEqual(Object.keys(through.authorizedProviders), ["SURF"]);
    assert.equal((await approve()).archetype, "computeToData");
  });

  test("other weights, put through the config API, make another default", async () => {
    await weigh("computeToData", 300);
    assert.equal((await approve()).archetype, "dataThroughTtp");
    await weigh("computeToData", 200);
    assert.equal((await approve()).archetype, "computeToData", "equal weights are decided by name");
    await weigh("computeToData", 100);
  });

  test("the same question in any order gives the same plan", async () => {
    const orders = [
      ["VU", "UVA", "DELFT"],
      ["DELFT", "UVA", "VU"],
      ["UVA", "DELFT", "VU"],
    ];
    for (const options of [{}, { aggregate: true }]) {
      const plans = [];
      for (const dataProviders of orders) {
        const { archetype, computeProvider, authorizedProviders } = await approve({ dataProviders, options });
        plans.push(JSON.stringify({ archetype, computeProvider, authorizedProviders }));
      }
      assert.equal(new Set(plans).size, 1, plans.join("\n"));
    }
  });

  test("without an archetype in common, the conflict names who allows what", async () => {
    await changeAgreement("VU", (agreement) => ({ ...agreement, archetypes: ["computeToData"] }));
    await changeAgreement("UVA", (agreement) => ({ ...agreement, archetypes: ["dataThroughTtp"] }));
    const conflict = await rejectsWith(approve(), "archetype_conflict");
    assert.deepEqual((conflict["details"] as Record<string, unknown>)["allowedArchetypes"], {
      UVA: ["dataThroughTtp"],
      VU: ["computeToData"],
    });
    assert.equal((await approve({ dataProviders: ["VU"] })).archetype, "computeToData", "each alone has a plan");
    assert.equal((await approve({ dataProviders: ["UVA"] })).archetype, "dataThroughTtp");
    await changeAgreement("UVA", (agreement) => ({ ...agreement, archetypes: ["computeToData", "dataThroughTtp"] }));
    const aggregate = await rejectsWith(approve({ options: { aggregate: true } }), "archetype_conflict");
    assert.match(String(aggregate["message"]), /dataThroughTtp: not allowed by VU/);
    await changeAgreement("VU", (agreement) => ({ ...agreement, archetypes: ["computeToData", "dataThroughTtp"] }));
  });
});

describe("which third party", () => {
  const aggregate = { options: { aggregate: true } };

  test("one that all accept: where one steward does not trust the first, the next", async () => {
    await changeAgreement("UVA", (agreement) => ({ ...agreement, computeProviders: ["TNO"] }));
    assert.equal((await approve(aggregate)).computeProvider, "TNO");
    await changeAgreement("VU", (agreement) => ({ ...agreement, computeProviders: ["SURF"] }));
    const conflict = await rejectsWith(approve(aggregate), "archetype_conflict");
    assert.match(String(conflict["message"]), /UVA accepts TNO; VU accepts SURF/);
    for (const name of ["VU", "UVA"]) {
      await changeAgreement(name, (agreement) => ({ ...agreement, computeProviders: ["SURF", "TNO"] }));
    }
    assert.equal((await approve(aggregate)).computeProvider, "SURF");
  });

  test("one that is online: the next best where the first is not, and none where none is", async () => {
    await exchange.services.get("agent-SURF")?.stop();
    assert.equal((await approve(aggregate)).computeProvider, "TNO");
    await exchange.services.get("agent-TNO")?.stop();
    const unavailable = await rejectsWith(approve(aggregate), "compute_provider_unavailable");
    assert.equal(unavailable["retryable"], true);
    assert.deepEqual((unavailable["details"] as Record<string, unknown>)["accepted"], ["SURF", "TNO"]);
    assert.equal((await approve()).archetype, "computeToData", "what needs no third party goes on");
    await exchange.startAgent("TNO");
    assert.equal((await approve(aggregate)).computeProvider, "TNO");
  });

  test("what an approval says is what its parties do", async () => {
    const { computeProvider, auth, authorizedProviders } = await approve(aggregate);
    const endpoint = authorizedProviders[computeProvider ?? ""] ?? "";
    const answer = await client.askAgent(endpoint, SUM_QUESTION, { token: auth.accessToken });
    assert.deepEqual(sumsOf(answer.rows), { a: 103, b: 2010 });
  });
});
