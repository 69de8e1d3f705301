import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { ERROR_KINDS } from "../../lib/errors.ts";
import { REFUSAL_CODES } from "../../lib/messages.ts";
import { packageRoot } from "../../lib/package-root.ts";

const text = readFileSync(join(packageRoot, "docs", "errors.md"), "utf8");

/** Cells of the rows that begin with a code, in the section of this heading. */
function rowsOf(heading: string): string[][] {
  const section = text.split(/^## /m).find((part) => part.startsWith(`${heading}\n`)) ?? "";
  return section
    .split("\n")
    .filter((line) => /^\| `/.test(line))
    .map((line) =>
      line
        .split("|")
        .slice(1, -1)
        .map((cell) => cell.trim().replaceAll("`", "")),
    );
}

test("docs/errors.md has each code with its status and whether to repeat, and no other", () => {
  const documented = rowsOf("Codes").map(([code, status, retryable]) => [code, status, retryable]);
  const actual = Object.entries(ERROR_KINDS).map(([code, { status, retryable }]) => [
    code,
    String(status),
    retryable ? "yes" : "no",
  ]);
  assert.deepEqual(documented, actual);
});

test("docs/errors.md has each refusal code, and no other", () => {
  assert.deepEqual(
    rowsOf("Refusal codes").map(([code]) => code),
    [...REFUSAL_CODES],
  );
});

test("each code says what it means and what to do", () => {
  for (const cells of [...rowsOf("Codes"), ...rowsOf("Refusal codes")]) {
    for (const cell of cells) assert.notEqual(cell, "", cells[0]);
  }
});
