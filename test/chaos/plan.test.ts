import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import {
  CHAIN_ELEMENTS,
  describePlan,
  FAULT_KINDS,
  joinPlans,
  makeDyingProvidersPlan,
  makePlan,
  REFUSALS,
  type PlanOptions,
} from "./plan.ts";
import { rowsOf, SLICES, STEWARDS } from "./questions.ts";

const LONG: PlanOptions = { seed: 7, lengthMs: 3 * 3_600_000, kinds: FAULT_KINDS, replicas: 2, hasSidecars: true };
const options = fc.record({
  seed: fc.nat(2 ** 31 - 1),
  lengthMs: fc.integer({ min: 1_000, max: 600_000 }),
  kinds: fc.subarray([...FAULT_KINDS]),
  replicas: fc.integer({ min: 1, max: 3 }),
  hasSidecars: fc.boolean(),
});

describe("a plan", () => {
  test("is the same for the same seed, and another for another one", () => {
    fc.assert(fc.property(options, (each) => assert.deepEqual(makePlan({ ...each }), makePlan({ ...each }))));
    assert.notEqual(describePlan(makePlan(LONG)), describePlan(makePlan({ ...LONG, seed: 8 })));
  });

  test("asks the same whatever faults are left out, and does only those that are wanted", () => {
    fc.assert(
      fc.property(options, (each) => {
        const { requests, faults } = makePlan(each);
        assert.deepEqual(requests, makePlan({ ...each, kinds: FAULT_KINDS }).requests);
        for (const { action } of faults) assert.ok(each.kinds.includes(action.kind));
      }),
    );
  });

  test("keeps to its length and its replicas, in the order of time", () => {
    fc.assert(
      fc.property(options, (each) => {
        const { requests, faults } = makePlan(each);
        for (const planned of [requests, faults]) {
          const times = planned.map(({ atMs }) => atMs);
          assert.deepEqual(
            times,
            [...times].sort((left, right) => left - right),
          );
          assert.ok(times.every((time) => time < each.lengthMs));
        }
        for (const { action } of faults) {
          if ("target" in action && action.target.kind === "service") assert.ok(action.target.replica <= each.replicas);
        }
      }),
    );
  });

  test("that is long has every kind of request and of fault", () => {
    const { requests, faults } = makePlan(LONG);
    const seen = (values: readonly unknown[]): unknown[] => [...new Set(values)].sort();
    assert.deepEqual(seen(requests.map(({ way }) => way)), ["agent", "frontDoor", "later", "oneGo"]);
    assert.deepEqual(seen(requests.map(({ throughThirdParty }) => throughThirdParty)), [false, true]);
    assert.deepEqual(seen(requests.map(({ providers }) => providers.length)), [1, 2, 3, 4]);
    assert.deepEqual(seen(requests.map(({ format }) => format)), ["arrow", "csv", "json"]);
    assert.deepEqual(seen(requests.map(({ question }) => rowsOf(question.slice))), seen(SLICES.map(rowsOf)));
    assert.deepEqual(
      seen(requests.flatMap(({ ending }) => (ending.kind === "refusal" ? ending.fault : []))),
      seen(Object.keys(REFUSALS)),
    );
    const cancels = requests.flatMap(({ ending }) => (ending.kind === "cancel" ? [ending] : []));
    assert.deepEqual(seen(cancels.map(({ by }) => by)), ["delete", "hangUp"]);
    assert.ok(cancels.some(({ after }) => after === "firstByte"));
    assert.deepEqual(seen(faults.map(({ action }) => action.kind)), seen(FAULT_KINDS));
    assert.deepEqual(seen(faults.map(({ when }) => when)), ["approved", "firstByte", "query", "time"]);
    const targets = faults.flatMap(({ action }) => ("target" in action ? [action.target] : []));
    assert.deepEqual(
      seen(targets.flatMap((target) => (target.kind === "chain" ? target.element : []))),
      seen(CHAIN_ELEMENTS),
    );
    assert.deepEqual(seen(targets.flatMap((target) => (target.kind === "service" ? target.isSidecar : []))), [
      false,
      true,
    ]);
    const parts = seen(targets.flatMap((target) => (target.kind === "service" ? target.part : [])));
    assert.deepEqual(
      parts,
      seen(["orchestrator", "policy-enforcer", "agent-SURF", ...STEWARDS.map((steward) => `agent-${steward}`)]),
    );
  });

  test("that is joined from several has them one after the other, each as it is alone", () => {
    const [first, second] = [3, 4].map((seed) => makePlan({ ...LONG, seed, lengthMs: 60_000 }));
    const joined = joinPlans([first!, second!]);
    assert.equal(joined.options.lengthMs, 120_000);
    const later = (planned: { readonly name: string; readonly atMs: number }) => ({
      ...planned,
      name: `${planned.name}-of-4`,
      atMs: planned.atMs + 60_000,
    });
    assert.deepEqual(joined.requests.slice(first!.requests.length), second!.requests.map(later));
    assert.deepEqual(joined.faults.slice(first!.faults.length), second!.faults.map(later));
    assert.equal(new Set(joined.requests.map(({ name }) => name)).size, joined.requests.length);
  });

  test("of dying providers kills one provider of each request, of a size that takes a while", () => {
    const { requests, faults } = makeDyingProvidersPlan(1);
    assert.deepEqual(makeDyingProvidersPlan(1), makeDyingProvidersPlan(1));
    for (const [index, { providers, throughThirdParty, question }] of requests.entries()) {
      assert.ok(throughThirdParty);
      assert.equal(rowsOf(question.slice), 300_000);
      const action = faults[index]?.action;
      const target = action?.kind === "kill" ? action.target : undefined;
      assert.ok(target?.kind === "service");
      assert.ok(providers.some((provider) => `agent-${provider}` === target.part));
    }
  });

  test("has questions of 10 to 300,000 joined rows per steward", () => {
    const sizes = SLICES.map(rowsOf);
    assert.deepEqual([Math.min(...sizes), Math.max(...sizes)], [10, 300_000]);
  });
});
