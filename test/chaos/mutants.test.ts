import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { packageRoot } from "../../lib/package-root.ts";
import { isMutantName, mutate, MUTANTS } from "./mutants.ts";

describe("a mutant", () => {
  for (const [name, mutant] of Object.entries(MUTANTS)) {
    test(`${name} has its one place in today's code`, () => {
      const source = readFileSync(join(packageRoot, mutant.file), "utf8");
      const changed = mutate(source, mutant);
      assert.ok(changed.includes(mutant.instead));
      assert.notEqual(changed, source);
    });
  }

  test("is refused where its place is missing, or is there twice", () => {
    const mutant = { what: "", file: "a.ts", text: "one", instead: "two" };
    assert.throws(() => mutate("none", { ...mutant, text: "other" }), /a\.ts is there 0 times/);
    assert.throws(() => mutate("one and one", mutant), /is there 2 times/);
    assert.equal(mutate("only one here", mutant), "only two here");
  });

  test("has a name that the command knows", () => {
    assert.ok(isMutantName("ack-on-receipt"));
    assert.ok(!isMutantName("toString"));
  });
});
