import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { test } from "node:test";
import fc from "fast-check";
import { inOrderOfChoice } from "../../orchestrator/agent-instances.ts";

const instances = fc
  .uniqueArray(fc.string({ minLength: 1, maxLength: 8 }), { minLength: 1, maxLength: 8 })
  .map((names) => names.map((instance) => ({ instance })));
const order = (requestId: string, some: readonly { readonly instance: string }[]) =>
  inOrderOfChoice(requestId, some).map(({ instance }) => instance);

test("every replica finds the same order, in whichever order it learnt of the instances", () => {
  fc.assert(
    fc.property(fc.uuid(), instances, (requestId, some) => {
      assert.deepEqual(order(requestId, [...some].reverse()), order(requestId, some));
      assert.deepEqual(order(requestId, some).sort(), some.map(({ instance }) => instance).sort());
    }),
  );
});

test("an instance that goes moves only its own requests, and those to their second choice", () => {
  fc.assert(
    fc.property(fc.uuid(), instances, fc.nat(), (requestId, some, index) => {
      const gone = some[index % some.length]?.instance ?? "";
      const rest = some.filter(({ instance }) => instance !== gone);
      assert.deepEqual(
        order(requestId, rest),
        order(requestId, some).filter((instance) => instance !== gone),
      );
    }),
  );
});

test("requests spread over the instances", () => {
  const some = ["a", "b", "c"].map((instance) => ({ instance }));
  const counts = new Map<string, number>();
  for (let index = 0; index < 3_000; index++) {
    const [first = ""] = order(randomUUID(), some);
    counts.set(first, (counts.get(first) ?? 0) + 1);
  }
  // Ten standard deviations of a fair draw: 10 * sqrt(3000 * 1/3 * 2/3).
  for (const count of counts.values()) assert.ok(Math.abs(count - 1_000) < 260, JSON.stringify([...counts]));
  assert.equal(counts.size, 3);
});
