import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import fc from "fast-check";
import type { StewardValidation } from "../../lib/messages.ts";
import type { Archetype } from "../../lib/model/archetype.ts";
import type { Microservice } from "../../lib/model/microservice.ts";
import type { RequestType } from "../../lib/model/request-type.ts";
import { packageRoot } from "../../lib/package-root.ts";
import { selectPlan, type SelectionInput } from "../../orchestrator/archetype-selection.ts";

const read = <Document>(path: string): Document =>
  JSON.parse(readFileSync(join(packageRoot, "configuration", `${path}.json`), "utf8")) as Document;
const both = ["computeToData", "dataThroughTtp"];
const base = {
  requestType: read<RequestType>("requestTypes/sqlDataRequest"),
  microservices: ["sql-query", "sql-anonymize", "sql-aggregate", "sql-algorithm", "sql-graph"].map((name) =>
    read<Microservice>(`microservices/${name}`),
  ),
  archetypes: both.map((name) => read<Archetype>(`archetypes/${name}`)),
};

const steward = (name: string, archetypes: readonly string[] = both, thirdParties: readonly string[] = ["SURF"]) => ({
  steward: name,
  allowedArchetypes: [...archetypes],
  allowedComputeProviders: [...thirdParties],
  dataSets: ["wageGap"],
  agreementRevision: 1,
});

function select(providers: StewardValidation[], changes: Partial<SelectionInput> = {}, online = ["SURF", "TNO"]) {
  const selection = selectPlan({
    ...base,
    options: {},
    providers,
    thirdParties: { validations: [], online: new Set([...providers.map((provider) => provider.steward), ...online]) },
    ...changes,
  });
  return selection.kind === "plan" ? selection.plan : selection.error;
}

test("of the archetypes that all allow, the one of least weight is chosen", () => {
  assert.deepEqual(select([steward("VU"), steward("UVA")]), { archetype: "computeToData", providers: ["UVA", "VU"] });
  assert.deepEqual(select([steward("VU"), steward("UVA", ["dataThroughTtp"])]), {
    archetype: "dataThroughTtp",
    providers: ["UVA", "VU"],
    computeProvider: "SURF",
  });
});

test("equal weights are decided by name", () => {
  const [first, second] = base.archetypes as [Archetype, Archetype];
  const archetypes = [
    { ...second, weight: 1 },
    { ...first, weight: 1 },
    { ...first, name: "atHome", weight: 1 },
  ];
  const plan = select([steward("VU", ["computeToData", "dataThroughTtp", "atHome"])], { archetypes });
  assert.equal("archetype" in plan && plan.archetype, "atHome");
});

test("an option that needs a service decides first, against weight", () => {
  const plan = select([steward("VU"), steward("UVA")], { options: { aggregate: true } });
  assert.equal("archetype" in plan && plan.archetype, "dataThroughTtp");
  const same = select([steward("VU")], { options: { anonymize: true, graph: true, aggregate: false } });
  assert.equal("archetype" in same && same.archetype, "computeToData");
});

test("a conflict names who allows what, and which option or party stands in the way", () => {
  const error = select([steward("VU", ["computeToData"]), steward("UVA", ["dataThroughTtp"])]);
  assert.ok("code" in error);
  assert.equal(error.code, "archetype_conflict");
  assert.deepEqual(error.details["allowedArchetypes"], { UVA: ["dataThroughTtp"], VU: ["computeToData"] });
  assert.match(error.message, /computeToData: not allowed by UVA; dataThroughTtp: not allowed by VU/);
  const option = select([steward("VU", ["computeToData"])], { options: { aggregate: true } });
  assert.match("message" in option ? option.message : "", /the option "aggregate" needs sql-aggregate/);
});

test("the third party is one that all accept; the next best where the first is offline", () => {
  const providers = [
    steward("VU", ["dataThroughTtp"], ["TNO", "SURF", "CWI"]),
    steward("UVA", ["dataThroughTtp"], ["SURF", "TNO"]),
  ];
  const chosen = (online: string[]) => {
    const plan = select(providers, {}, online);
    return "archetype" in plan ? plan.computeProvider : plan.code;
  };
  assert.equal(chosen(["CWI", "SURF", "TNO"]), "SURF");
  assert.equal(chosen(["CWI", "TNO"]), "TNO");
  assert.equal(chosen(["CWI"]), "compute_provider_unavailable");
  const none = select([steward("VU", ["dataThroughTtp"], ["CWI"]), steward("UVA", ["dataThroughTtp"], ["TNO"])]);
  assert.match("message" in none ? none.message : "", /UVA accepts TNO; VU accepts CWI/);
});

test("a data provider of the plan is no third party in it", () => {
  const providers = [
    steward("SURF", ["dataThroughTtp"], ["SURF", "TNO"]),
    steward("VU", ["dataThroughTtp"], ["SURF", "TNO"]),
  ];
  const plan = select(providers);
  assert.equal("archetype" in plan && plan.computeProvider, "TNO");
});

test("the same input in any order gives the same plan, and a plan is allowed by every party in it", () => {
  const subset = <Value>(values: readonly Value[]) => fc.shuffledSubarray([...values]);
  const names = ["A", "B", "C", "D"];
  const thirdParties = ["S", "T", "U"];
  const archetypes = fc
    .constantFrom(1, 2)
    .chain((weight) => fc.constant(base.archetypes.map((a, i) => ({ ...a, weight: i === 0 ? 1 : weight }))));
  const validation = fc.tuple(subset(both), subset(thirdParties));
  const input = fc.tuple(
    fc.array(validation, { minLength: 1, maxLength: 4 }),
    archetypes,
    subset(thirdParties),
    fc.boolean(),
    fc.infiniteStream(fc.nat()),
  );
  let plans = 0;
  fc.assert(
    fc.property(input, ([validations, documents, online, aggregate, random]) => {
      const shuffle = <Value>(values: readonly Value[]): Value[] =>
        [...values]
          .map((value) => ({ value, at: Number(random.next().value) }))
          .sort((a, b) => a.at - b.at)
          .map(({ value }) => value);
      const providers = validations.map(([allowed, third], index) => steward(names[index] ?? "", allowed, third));
      const decide = (mix: <Value>(values: readonly Value[]) => Value[]) => {
        const chosen = select(
          mix(
            providers.map((p) => ({
              ...p,
              allowedArchetypes: mix(p.allowedArchetypes),
              allowedComputeProviders: mix(p.allowedComputeProviders),
            })),
          ),
          { archetypes: mix(documents), microservices: mix(base.microservices), options: { aggregate } },
          mix(online),
        );
        return "archetype" in chosen ? chosen : { code: chosen.code, message: chosen.message };
      };
      const plan = decide((values) => [...values]);
      assert.deepEqual(decide(shuffle), plan);
      if (!("archetype" in plan)) return;
      plans++;
      for (const provider of providers) {
        assert.ok(provider.allowedArchetypes.includes(plan.archetype));
        if (plan.computeProvider !== undefined) {
          assert.ok(
            provider.allowedComputeProviders.includes(plan.computeProvider) && online.includes(plan.computeProvider),
          );
        }
      }
    }),
    { numRuns: 500 },
  );
  assert.ok(plans > 50, `only ${String(plans)} plans`);
});
