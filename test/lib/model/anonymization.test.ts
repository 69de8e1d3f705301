import assert from "node:assert/strict";
import { test } from "node:test";
import { anonymizationFault, columnRule, hasSensitiveColumns } from "../../../lib/model/anonymization.ts";
import type { DataSet } from "../../../lib/model/dataset.ts";

const text = { type: "text" } as const;

const people: DataSet = {
  name: "people",
  type: "csv",
  tables: [{ name: "T", columns: ["open", "listed", "described"].map((name) => ({ name, type: text })) }],
  sensitive_columns: { t: ["LISTED"] },
  anonymization: { T: { described: { method: "mask" } } },
};

test("a column is sensitive when it is listed or has a method, in any case; one without a method is dropped", () => {
  assert.equal(columnRule(people, "T", "open").kind, "open");
  assert.equal(columnRule(people, "T", "rowid").kind, "unknown");
  assert.equal(columnRule(people, "U", "open").kind, "unknown");
  const listed = columnRule(people, "T", "Listed");
  assert.deepEqual(listed.kind === "sensitive" && listed.anonymization, { method: "drop" });
  const described = columnRule(people, "t", "DESCRIBED");
  assert.deepEqual(described.kind === "sensitive" && described.anonymization, { method: "mask" });
});

test("a data set has sensitive columns only if one of the columns that it has here is", () => {
  assert.ok(hasSensitiveColumns(people));
  const granted = { ...people, tables: [{ name: "T", columns: [{ name: "open", type: text }] }] };
  assert.ok(!hasSensitiveColumns(granted));
});

test("widths and ranges have no more digits than their column's type, however they are written", () => {
  const cents = { type: "decimal", precision: 9, scale: 2 } as const;
  assert.equal(anonymizationFault(cents, { method: "generalize", width: 0.05 }), undefined);
  assert.equal(anonymizationFault({ type: "integer" }, { method: "generalize", width: 1e21 }), undefined);
  assert.equal(anonymizationFault({ type: "float" }, { method: "perturb", range: 1e-7 }), undefined);
  assert.match(anonymizationFault(cents, { method: "perturb", range: 1e-7 }) ?? "", /at most 2 digits/);
  assert.match(anonymizationFault({ type: "integer" }, { method: "generalize", width: 2.5 }) ?? "", /at most 0 digits/);
});
