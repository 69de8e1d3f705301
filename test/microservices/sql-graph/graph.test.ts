import assert from "node:assert/strict";
import { test } from "node:test";
import { GraphCollector } from "../../../microservices/sql-graph/graph.ts";
import { groupedBy, marksIn, pictureOf, resultBatch, textsIn } from "./sample-result.ts";

const bars = resultBatch(
  { Geslacht: "text", average_HOOPgeb: "money" },
  [
    ["M", 5323445n],
    ["V", 4871298n],
  ],
  groupedBy("Geslacht"),
);

test("bars carry their values, their names and thousands separators", async () => {
  const { kind, svg } = await pictureOf(bars);
  assert.equal(kind, "bar");
  assert.deepEqual(marksIn(svg), [
    "Geslacht: M; average_HOOPgeb: 53,234.45",
    "Geslacht: V; average_HOOPgeb: 48,712.98",
  ]);
  const texts = textsIn(svg);
  for (const text of ["average_HOOPgeb by Geslacht", "Geslacht", "M", "V", "53,234", "48,713", "50,000"]) {
    assert.ok(texts.includes(text), `"${text}" is not among: ${texts.join(" | ")}`);
  }
});

test("an SVG is 800 by 500, and its PNG has two pixels for each of these", async () => {
  const { svg, png } = await pictureOf(bars);
  assert.match(svg, /^<svg[^>]* width="800" height="500"/);
  assert.match(svg, /font-family="DejaVu Sans, sans-serif"/);
  const header = Buffer.from(png);
  assert.equal(header.subarray(0, 8).toString("hex"), "89504e470d0a1a0a");
  assert.deepEqual([header.readUInt32BE(16), header.readUInt32BE(20)], [1600, 1000]);
});

test("text is drawn in the PNG without any font of the machine", async () => {
  const named = await pictureOf(bars);
  const { renderPng } = await import("../../../microservices/sql-graph/render.ts");
  const textless = await renderPng(named.svg.replaceAll(/<text[^>]*>[^<]*<\/text>/g, ""));
  assert.ok(named.png.length > textless.length + 5000, `${named.png.length} and ${textless.length} bytes`);
});

test("the same rows give the same bytes, also after other pictures and in other batches", async () => {
  const first = await pictureOf(bars);
  await pictureOf(
    resultBatch({ a: "float", b: "float" }, [
      [1, 2],
      [3, 4],
    ]),
  );
  const collector = new GraphCollector(bars.schema);
  collector.add(bars.slice(0, 1));
  collector.add(bars.slice(1, 2));
  const second = await collector.picture();
  assert.equal(second.svg, first.svg);
  assert.deepEqual(second.png, first.png);

  const cloud = Array.from({ length: 5000 }, (_, row) => [row, (row * row) % 997]);
  const density = resultBatch({ a: "float", b: "float" }, cloud);
  // Its legend is a gradient, whose id must not count up from picture to picture.
  assert.equal((await pictureOf(density)).svg, (await pictureOf(density)).svg);
});

test("each kind draws its marks", async () => {
  const rows = Array.from({ length: 40 }, (_, row) => [row % 2 === 0 ? "M" : "V", row, row * row, row * 30]);
  const batch = resultBatch({ Geslacht: "text", a: "float", b: "float", day: "date" }, rows);
  const box = await pictureOf(batch, { kind: "box", y: "b" });
  assert.equal(marksIn(box.svg).filter((mark) => mark.startsWith("Geslacht:")).length >= 2, true);
  const scatter = await pictureOf(batch, { kind: "scatter", x: "a", y: "b" });
  assert.equal(marksIn(scatter.svg).length, 40);
  assert.equal(marksIn(scatter.svg)[3], "a: 3; b: 9; Geslacht: V");
  const line = await pictureOf(batch, { kind: "line", x: "day", y: "a" });
  assert.ok(marksIn(line.svg).some((mark) => mark.includes("a: 7")));
  const histogram = await pictureOf(batch, { kind: "histogram", x: "a", series: "Geslacht" });
  assert.match(histogram.svg, /mark-area/);
});

test("30 categories have 30 labels, none above another", async () => {
  const rows = Array.from({ length: 30 }, (_, row) => [`Functiecategorie nummer ${row + 1}`, 1000 + row]);
  const { svg } = await pictureOf(resultBatch({ Functcat: "text", sum_x: "float" }, rows));
  const places = [...svg.matchAll(/translate\((-?[\d.]+),(-?[\d.]+)\)" [^>]*>Functiecategorie nummer \d+</g)];
  assert.equal(places.length, 30);
  const heights = places.map((place) => Number(place[2])).sort((a, b) => a - b);
  for (let index = 1; index < heights.length; index++) {
    assert.ok((heights[index] ?? 0) - (heights[index - 1] ?? 0) >= 11, "labels of 10 pixels need 11 each");
  }
});

test("tens of thousands of points become cells that say how many there are", async () => {
  const rows = Array.from({ length: 20_000 }, (_, row) => [Math.sin(row), Math.cos(row * 1.7)]);
  const { svg } = await pictureOf(resultBatch({ a: "float", b: "float" }, rows));
  assert.ok(svg.length < 1_500_000, `${svg.length} characters`);
  assert.ok(textsIn(svg).includes("rows"));
});

test("without rows the picture says so, whatever kind was asked for", async () => {
  for (const input of [{}, { kind: "line" }, { kind: "histogram" }, { kind: "box" }]) {
    const empty = resultBatch({ Peildat: "date", Geslacht: "text", v: "float" }, []);
    assert.ok(textsIn((await pictureOf(empty, input)).svg).includes("no rows"));
  }
});

test("names and values are text, never markup or expressions", async () => {
  const batch = resultBatch({ "a.b[0] <b>&'": "text", 'datum["x"]': "float" }, [
    ["</text><script>alert(1)</script>", 1],
    ["ok", 2],
  ]);
  const { svg } = await pictureOf(batch);
  assert.ok(!svg.includes("<script"));
  assert.ok(textsIn(svg).includes("a.b[0] <b>&'"));
});

test("numbers that hardly differ, are huge, tiny, negative or zero are drawn", async () => {
  for (const values of [
    [1e300, -1e300],
    [1e289, -1e289],
    [1e-300, 2e-300],
    [5, 5],
    [0, 0],
    [-3, -1],
    [1e15 + 1, 1e15 + 2],
  ]) {
    const rows = values.map((value, index) => [`n${index}`, value]);
    const { svg } = await pictureOf(resultBatch({ a: "text", v: "float" }, rows));
    assert.ok(!svg.includes("NaN"), String(values));
    const scatter = resultBatch(
      { a: "float", v: "float" },
      values.map((value) => [value, value]),
    );
    assert.ok(!(await pictureOf(scatter, { kind: "scatter" })).svg.includes("NaN"), String(values));
    assert.ok(!(await pictureOf(scatter, { kind: "histogram" })).svg.includes("NaN"), String(values));
  }
});

test("more rows than a picture is drawn from are refused with the limits", () => {
  const collector = new GraphCollector(bars.schema, { maxRows: 3, maxValues: 100 });
  collector.add(bars);
  assert.throws(() => collector.add(bars), { code: "result_too_large", message: /at most 3 rows and 100 values/ });
  const narrow = new GraphCollector(bars.schema, { maxRows: 100, maxValues: 3 });
  assert.throws(() => narrow.add(bars), { code: "result_too_large" });
});
