import assert from "node:assert/strict";
import { test } from "node:test";
import { dotToSvg, MAX_DOT_CHARACTERS } from "../../../lib/render/dot-svg.ts";

test("a graph becomes an SVG with a node for each microservice and an edge for each step", async () => {
  const svg = await dotToSvg('digraph chain { rankdir=LR; "sql-query" -> "sql-anonymize" -> "sql-algorithm" }');
  assert.match(svg, /<svg[^>]*viewBox/);
  assert.match(svg, /<\/svg>\s*$/);
  assert.equal(svg.match(/class="node"/g)?.length, 3);
  assert.equal(svg.match(/class="edge"/g)?.length, 2);
  const text = svg.replaceAll("&#45;", "-");
  for (const name of ["sql-query", "sql-anonymize", "sql-algorithm"]) assert.ok(text.includes(`>${name}</text>`), name);
});

test("the same graph gives the same SVG", async () => {
  const dot = "digraph { a -> b; a -> c }";
  assert.equal(await dotToSvg(dot), await dotToSvg(dot));
});

test("names are text in the SVG, never markup", async () => {
  const svg = await dotToSvg('digraph { "<script>&" }');
  assert.ok(!svg.includes("<script>"));
  assert.ok(svg.includes("&lt;script&gt;&amp;"));
});

test("what is not DOT is refused with its line", async () => {
  await assert.rejects(dotToSvg("digraph {\n a -> \n}"), { code: "invalid_argument", message: /line \d/ });
});

test("a graph that is too long is refused with the limit", async () => {
  const dot = `digraph { ${"a;".repeat(MAX_DOT_CHARACTERS / 2)} }`;
  await assert.rejects(dotToSvg(dot), { code: "invalid_argument", message: new RegExp(String(MAX_DOT_CHARACTERS)) });
});
