import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { CORE_USER, agentUser, chainUser, requireDistinct, stewardOf } from "../../../lib/access/identities.ts";
import { runLabels } from "../../../lib/model/names.ts";

describe("names of users", () => {
  test("a party is known by its agent's user, and by no other", () => {
    assert.equal(stewardOf(agentUser("VU")), "VU");
    for (const user of [CORE_USER, chainUser("VU"), "dynamos-agent-", "dynamos-agent-V-U", "root"]) {
      assert.equal(stewardOf(user), undefined, user);
    }
  });

  test("a party that has credentials may have new ones", () => {
    requireDistinct("VU", ["VU", "UVA"]);
  });

  test("a name that differs in capitals only would have the same run queues", () => {
    assert.throws(() => requireDistinct("vu", ["UVA", "VU"]), { code: "conflict" });
  });

  test("a name that is what another one is shortened to would have the same run queues", () => {
    const [, short] = runLabels("UniversityOfSomewhere");
    assert.throws(() => requireDistinct(short, ["UniversityOfSomewhere"]), { code: "conflict" });
  });

  for (const name of ["orchestrator", "PolicyEnforcer", "V-U", "1VU", ""]) {
    test(`"${name}" can be no party's`, () => {
      assert.throws(() => requireDistinct(name, []), { code: "invalid_argument" });
    });
  }
});
