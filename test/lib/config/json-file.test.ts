import assert from "node:assert/strict";
import { test } from "node:test";
import { parseJsonFile } from "../../../lib/config/json-file.ts";

test("a JSON text is read as it stands, also behind a byte order mark", () => {
  for (const value of [null, true, -1.5e-7, "a\u{1F642}\n", [], {}, [{ a: [1, { b: null }] }]]) {
    assert.deepEqual(parseJsonFile(JSON.stringify(value, null, 2), "x.json"), value);
    assert.deepEqual(parseJsonFile(`\uFEFF${JSON.stringify(value)}`, "x.json"), value);
  }
});

test("the place from which a text is no JSON is named by line and column", () => {
  const places: Record<string, readonly [number, number]> = {
    "": [1, 1],
    "{": [1, 2],
    '{\n  "a": 1,\n  b: 2\n}': [3, 3],
    '{\r\n"a": 1\r\n"b": 2}': [3, 1],
    "[1, 2,]": [1, 7],
    "{} {}": [1, 4],
    '\uFEFF["tab\tin text"]': [1, 2],
  };
  for (const [text, [line, column]] of Object.entries(places)) {
    assert.throws(() => parseJsonFile(text, "x.json"), {
      code: "configuration_invalid",
      place: { file: "x.json", line, column },
    });
  }
});
