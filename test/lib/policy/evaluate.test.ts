import assert from "node:assert/strict";
import { test } from "node:test";
import { evaluateAgreement, grantFor } from "../../../lib/policy/evaluate.ts";
import type { Agreement, Relation } from "../../../lib/model/agreement.ts";
import type { DataSet } from "../../../lib/model/dataset.ts";

const NOW = Date.parse("2025-06-01T12:00:00Z");
const relation: Relation = {
  ID: "1",
  requestTypes: ["sqlDataRequest"],
  dataSets: ["wageGap", "staff"],
  allowedArchetypes: ["dataThroughTtp", "computeToData"],
  allowedComputeProviders: ["SURF", "TNO"],
};
const agreement = (changes: Partial<Relation> = {}, own: Partial<Agreement> = {}): Agreement => ({
  name: "VU",
  relations: { "ada@example.org": { ...relation, ...changes } },
  computeProviders: ["TNO", "SURF", "CWI"],
  archetypes: ["dataThroughTtp", "computeToData"],
  ...own,
});
const question = { userName: "ada@example.org", type: "sqlDataRequest" };
const evaluate = (subject: Agreement | undefined, changes: object = {}) =>
  evaluateAgreement(subject, 7, { ...question, ...changes }, "VU", NOW);
const refusalOf = (subject: Agreement | undefined, changes: object = {}) => evaluate(subject, changes).refusal?.code;

test("what counts is the intersection of the relation's and the steward's lists, sorted", () => {
  assert.deepEqual(
    evaluate(agreement({ allowedComputeProviders: ["SURF", "MIT"] }, { archetypes: ["computeToData", "other"] })),
    {
      steward: "VU",
      allowedArchetypes: ["computeToData"],
      allowedComputeProviders: ["SURF"],
      dataSets: ["staff", "wageGap"],
      agreementRevision: 7,
    },
  );
});

test("a request that names data sets is granted these and no others", () => {
  assert.deepEqual(evaluate(agreement(), { dataSets: ["wageGap"] }).dataSets, ["wageGap"]);
});

test("each refusal has its code, and a refused steward allows nothing", () => {
  assert.equal(refusalOf(undefined), "no_agreement");
  assert.equal(refusalOf(agreement(), { userName: "eve@example.org" }), "no_relation");
  assert.equal(refusalOf(agreement(), { type: "other" }), "request_type_not_allowed");
  assert.equal(refusalOf(agreement(), { dataSets: ["wageGap", "salaries"] }), "data_set_not_allowed");
  assert.equal(refusalOf(agreement({ dataSets: [] })), "data_set_not_allowed");
  assert.equal(
    refusalOf(agreement({ operations: ["count"] }), { algorithms: ["count", "sum"] }),
    "operation_not_allowed",
  );
  assert.equal(refusalOf(agreement({ operations: ["count"] })), undefined);
  assert.equal(refusalOf(agreement({}, { archetypes: ["another"] })), "no_archetype_allowed");
  const refused = evaluate(agreement(), { userName: "eve@example.org" });
  assert.deepEqual([refused.allowedArchetypes, refused.allowedComputeProviders, refused.dataSets], [[], [], []]);
});

test("operations are the same by any of their names, in any case, in the agreement and in the request", () => {
  for (const listed of ["average", "AVG", " Mean "]) {
    for (const asked of ["avg", "Average", "mean"]) {
      assert.equal(refusalOf(agreement({ operations: [listed] }), { algorithms: [asked] }), undefined);
    }
    assert.equal(
      refusalOf(agreement({ operations: [listed] }), { algorithms: ["avg", "sd"] }),
      "operation_not_allowed",
    );
  }
});

test("an operation that does not exist is never one of those listed", () => {
  for (const asked of ["mode", "constructor", "__proto__", "", "averages"]) {
    assert.equal(refusalOf(agreement({ operations: ["average"] }), { algorithms: [asked] }), "operation_not_allowed");
    assert.equal(refusalOf(agreement({ operations: [] }), { algorithms: [asked] }), "operation_not_allowed", asked);
  }
});

test("user names that every object has members for have no relation", () => {
  for (const userName of ["constructor", "__proto__", "toString"]) {
    assert.equal(refusalOf(agreement(), { userName }), "no_relation", userName);
  }
});

test("a relation counts from validFrom and until validUntil, and never when these cannot be read", () => {
  const at = (validFrom?: string, validUntil?: string) =>
    refusalOf(agreement({ ...(validFrom ? { validFrom } : {}), ...(validUntil ? { validUntil } : {}) }));
  assert.equal(at("2025-06-01T12:00:00Z", "2025-06-01T12:00:01Z"), undefined);
  assert.equal(at("2025-06-01T12:00:01Z"), "relation_not_valid_now");
  assert.equal(at(undefined, "2025-06-01T12:00:00Z"), "relation_not_valid_now");
  assert.equal(at("soon"), "relation_not_valid_now");
  assert.equal(at(undefined, "later"), "relation_not_valid_now");
});

const wageGap: DataSet = {
  name: "wageGap",
  type: "csv",
  tables: [
    {
      name: "Personen",
      columns: [
        { name: "Unieknr", type: { type: "text" } },
        { name: "Geslacht", type: { type: "text" } },
      ],
    },
    { name: "Aanstellingen", columns: [{ name: "Unieknr", type: { type: "text" } }] },
  ],
  sensitive_columns: { Personen: ["Unieknr", "Geslacht"], Aanstellingen: ["Unieknr"] },
  anonymization: { Personen: { Unieknr: { method: "pseudonymize" }, Geslacht: { method: "mask" } } },
};

test("a grant holds only the tables and columns that the relation grants, whatever their case", () => {
  const columns = { wageGap: { tables: { PERSONEN: ["geslacht"] } } };
  const [granted] = grantFor({ ...relation, columns }, 7, ["wageGap"], [wageGap]).dataSets;
  assert.deepEqual(granted?.tables, [{ name: "Personen", columns: [{ name: "Geslacht", type: { type: "text" } }] }]);
  assert.deepEqual(granted?.sensitive_columns, { Personen: ["Geslacht"] });
  assert.deepEqual(granted?.anonymization, { Personen: { Geslacht: { method: "mask" } } });
});

test("a grant without column limits is the whole data set, and without the agreement's word no raw rows", () => {
  const scope = grantFor(relation, 7, ["wageGap", "notGranted"], [wageGap]);
  assert.deepEqual(scope, { dataSets: [wageGap], minimumGroupSize: 1, rawRows: false, agreementRevision: 7 });
});

test("a data set of which nothing is granted is left out, and one without a document is an error that names it", () => {
  const columns = { wageGap: { tables: { Salaries: "*" as const } } };
  assert.deepEqual(grantFor({ ...relation, columns }, 7, ["wageGap"], [wageGap]).dataSets, []);
  assert.throws(() => grantFor(relation, 7, ["staff"], [wageGap]), {
    code: "configuration_invalid",
    message: /"staff"/,
  });
});
