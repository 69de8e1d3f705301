/** `docs/decisions/README.md` lists every record, and every record says what a reader comes for. */
import assert from "node:assert/strict";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { packageRoot } from "../../lib/package-root.ts";
import { readPackageFile } from "../support/markdown.ts";

const records = (await readdir(join(packageRoot, "docs/decisions"))).filter((name) => name !== "README.md").sort();

test("the index lists every record once, in order, and their numbers have no gap", async () => {
  const index = await readPackageFile("docs/decisions/README.md");
  assert.deepEqual(
    [...index.matchAll(/\]\(([^)]+)\)/g)].map(([, path]) => path),
    records,
  );
  assert.deepEqual(
    records.map((name) => Number(name.slice(0, 4))),
    records.map((_, place) => place + 1),
  );
});

for (const name of records) {
  test(`${name} has a context, a decision, consequences, and what would reopen it`, async () => {
    const text = await readPackageFile(`docs/decisions/${name}`);
    for (const part of [/context/i, /decision/i, /consequences/i, /reopen/i]) {
      assert.match(text, new RegExp(`^(## .*|\\*\\*)(${part.source})`, "im"), part.source);
    }
  });
}
