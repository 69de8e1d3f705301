/** Which kind of chain serves a request: a table of who says what. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Agreement } from "../../../lib/model/agreement.ts";
import type { ChainLifetime } from "../../../lib/model/chain-lifetime.ts";
import { chooseChainLifetime } from "../../../lib/policy/chain-lifetime.ts";

const P = "persistent";
const R = "perRequest";

/** An agreement with one user; what it and his relation say. */
function agreementThatSays(agreement?: ChainLifetime, relation?: ChainLifetime): Agreement {
  return {
    name: "VU",
    relations: {
      "ana@example.org": {
        ID: "1",
        requestTypes: [],
        dataSets: [],
        allowedArchetypes: [],
        allowedComputeProviders: [],
        ...(relation === undefined ? {} : { chainLifetime: relation }),
      },
    },
    computeProviders: [],
    archetypes: [],
    ...(agreement === undefined ? {} : { chainLifetime: agreement }),
  };
}

const cases: readonly (readonly [
  relation: ChainLifetime | undefined,
  agreement: ChainLifetime | undefined,
  configured: ChainLifetime | undefined,
  requestType: ChainLifetime | undefined,
  chosen: ChainLifetime,
])[] = [
  [undefined, undefined, undefined, undefined, R],
  [undefined, undefined, undefined, P, P],
  [undefined, undefined, R, P, R],
  [undefined, undefined, P, R, P],
  [undefined, R, P, P, R],
  [undefined, P, R, R, P],
  [R, P, P, P, R],
  [P, R, R, R, P],
];

for (const [relation, agreement, configured, requestType, chosen] of cases) {
  const said = { relation, agreement, configuration: configured, "request type": requestType };
  const sayings = Object.entries(said).map(([who, what]) => `${who}: ${what ?? "nothing"}`);
  test(`${sayings.join(", ")}: ${chosen}`, () => {
    const lifetime = chooseChainLifetime({
      agreement: agreementThatSays(agreement, relation),
      userName: "ana@example.org",
      configured,
      requestType: requestType === undefined ? {} : { chainLifetime: requestType },
    });
    assert.equal(lifetime, chosen);
  });
}

test("a relation of another user says nothing, and a party without an agreement goes by its configuration", () => {
  const sources = { userName: "bo@example.org", configured: undefined, requestType: {} } as const;
  assert.equal(chooseChainLifetime({ ...sources, agreement: agreementThatSays(undefined, P) }), R);
  assert.equal(chooseChainLifetime({ ...sources, agreement: undefined, configured: P }), P);
});
