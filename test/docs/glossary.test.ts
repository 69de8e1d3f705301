/** `docs/glossary.md` names files and exports that exist. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { codeSpans, readPackageFile, tableOf } from "../support/markdown.ts";

const table = tableOf(await readPackageFile("docs/glossary.md"), "Glossary");

test("every term has a sentence, and stands where the alphabet puts it", () => {
  const terms = table.rows.map((row) => row["Term"] ?? "");
  assert.deepEqual(terms, [...new Set(terms)].sort());
  for (const row of table.rows) assert.match(row["Means"] ?? "", /^[A-Z].*\.$/, row["Term"]);
});

for (const row of table.rows) {
  test(`"${row["Term"] ?? ""}" is in its file under its name`, async () => {
    const [file = ""] = codeSpans(row["File"] ?? "");
    const [name = ""] = codeSpans(row["Called"] ?? "");
    const exported = new RegExp(`^export (?:async )?(?:type|interface|class|const|function\\*?) ${name}\\b`, "m");
    assert.match(await readPackageFile(file), exported);
  });
}
