import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { algorithmNamed, ALGORITHMS } from "../../lib/algorithms/registry.ts";
import { packageRoot } from "../../lib/package-root.ts";

test("docs/algorithms.md lists each algorithm with its other names, and whether it pools", () => {
  const text = readFileSync(join(packageRoot, "docs/algorithms.md"), "utf8");
  const rows = text.split("\n").filter((line) => /^\| `/.test(line) && line.split("|").length === 7);
  const listed = rows.map((line) => {
    const [name = "", aliases = "", , , pools = ""] = line
      .split("|")
      .slice(1)
      .map((cell) => cell.trim());
    return {
      name: name.replaceAll("`", ""),
      aliases: [...aliases.matchAll(/`(\w+)`/g)].map(([, alias]) => alias ?? ""),
      pools,
    };
  });
  assert.deepEqual(
    listed.map(({ name, pools }) => ({ name, pools })),
    ALGORITHMS.map(({ name, mergeable }) => ({ name, pools: mergeable ? "yes" : "no" })),
  );
  for (const { name, aliases } of listed) {
    for (const alias of aliases) assert.equal(algorithmNamed(alias).name, name);
  }
});
