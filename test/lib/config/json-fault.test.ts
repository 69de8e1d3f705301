import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { jsonFaultPlace } from "../../../lib/config/json-fault.ts";

const FAULTS: readonly (readonly [text: string, line: number, column: number])[] = [
  ['{\n "a": oops}', 2, 7],
  ['{"a":1,}', 1, 8],
  ["", 1, 1],
  ["[1 2]", 1, 4],
  ['{"a":"x\ny"}', 1, 6],
  ["[1]x", 1, 4],
  ['["\\x"]', 1, 2],
  ["01", 1, 2],
  ['[{"a"}]', 1, 6],
  ["[\r\n  true,\r\n  ]", 3, 3],
  ["[".repeat(200_000), 1, 200_001],
];

for (const [text, line, column] of FAULTS) {
  test(`${JSON.stringify(text).slice(0, 40)} stops being JSON at ${String(line)}:${String(column)}`, () => {
    assert.throws(() => JSON.parse(text), SyntaxError);
    assert.deepEqual(jsonFaultPlace(text), { line, column });
  });
}

test("what is JSON has its fault at its end, and at the place where it is broken otherwise", () => {
  fc.assert(
    fc.property(fc.json(), fc.nat(), (text, random) => {
      assert.deepEqual(jsonFaultPlace(text), { line: 1, column: text.length + 1 });
      const at = random % (text.length + 1);
      const isInString = (text.slice(0, at).match(/(?<!\\)(?:\\\\)*"/g) ?? []).length % 2 === 1;
      if (!isInString) assert.ok(jsonFaultPlace(`${text.slice(0, at)}#${text.slice(at)}`).column <= at + 1);
    }),
  );
});
