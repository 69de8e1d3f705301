/**
 * Flame graphs of profiles (Gregg, https://www.brendangregg.com/flamegraphs.html): wide is what takes time, below it what called it.
 *
 *     node dist/bench/flame-graph.js PROGRAM OUT.svg PROFILE.cpuprofile …
 *
 * Takes of the profiles those whose program's path ends with PROGRAM (such as `query-program`), all together, and writes one
 * picture. With `-` as OUT it prints the functions that took most time themselves instead.
 */
import { writeFile } from "node:fs/promises";
import { hottest, readCpuProfile, type FrameNode } from "./cpu-profile.ts";

const WIDTH = 1200;
const ROW = 17;
const MARGIN = 10;
const HEAD = 40;
/** Narrower ones are left out: nobody could read them. */
const LEAST_WIDTH = 0.6;
const LETTER = 6.3;
const SHOWN = 25;

const [program = "", out = "-", ...files] = process.argv.slice(2);
const root: FrameNode = { name: "all", selfUs: 0, totalUs: 0, children: new Map() };
for (const file of files) {
  const profile = await readCpuProfile(file);
  if (profile.program.endsWith(program)) merge(root, profile.root);
}
if (root.totalUs === 0) {
  console.error(`None of the ${String(files.length)} profiles is of "${program}".`);
  process.exitCode = 1;
} else if (out === "-") {
  for (const [name, selfUs] of hottest(root).slice(0, SHOWN))
    console.log(`${((100 * selfUs) / root.totalUs).toFixed(1).padStart(5)} %  ${name}`);
} else await writeFile(out, svg(root, program));

function merge(into: FrameNode, from: FrameNode): void {
  into.selfUs += from.selfUs;
  into.totalUs += from.totalUs;
  for (const [name, child] of from.children) {
    const known = into.children.get(name) ?? { name, selfUs: 0, totalUs: 0, children: new Map<string, FrameNode>() };
    into.children.set(name, known);
    merge(known, child);
  }
}

function svg(node: FrameNode, of: string): string {
  const scale = (WIDTH - 2 * MARGIN) / node.totalUs;
  const boxes: string[] = [];
  let depth = 0;
  const draw = (frame: FrameNode, left: number, level: number): void => {
    const width = frame.totalUs * scale;
    if (width < LEAST_WIDTH) return;
    depth = Math.max(depth, level);
    boxes.push(box(frame, left, level, width, node.totalUs));
    let at = left;
    for (const child of [...frame.children.values()].sort((a, b) => a.name.localeCompare(b.name))) {
      draw(child, at, level + 1);
      at += child.totalUs * scale;
    }
  };
  draw(node, MARGIN, 0);
  const height = HEAD + (depth + 1) * ROW + MARGIN;
  const title = `${of}: ${(node.totalUs / 1e6).toFixed(1)} s of sampled time in which a thread was not idle, what called above what was called`;
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${String(WIDTH)}" height="${String(height)}" viewBox="0 0 ${String(WIDTH)} ${String(height)}" font-family="monospace" font-size="11">`,
    `<rect width="100%" height="100%" fill="#ffffff"/>`,
    `<text x="${String(MARGIN)}" y="24" font-size="14">${escaped(title)}</text>`,
    ...boxes,
    "</svg>\n",
  ].join("\n");
}

function box(frame: FrameNode, left: number, level: number, width: number, allUs: number): string {
  const top = HEAD + level * ROW;
  const share = `${((100 * frame.totalUs) / allUs).toFixed(1)} %`;
  const letters = Math.floor((width - 4) / LETTER);
  const text = letters < 3 ? "" : frame.name.length <= letters ? frame.name : `${frame.name.slice(0, letters - 1)}…`;
  const label = text === "" ? "" : `<text x="${(left + 3).toFixed(1)}" y="${String(top + 12)}">${escaped(text)}</text>`;
  return `<g><title>${escaped(`${frame.name}: ${share}`)}</title><rect x="${left.toFixed(1)}" y="${String(top)}" width="${width.toFixed(1)}" height="${String(ROW - 1)}" fill="${colour(frame.name)}"/>${label}</g>`;
}

/** Of the project's own code warm, of packages and of Node itself cold. */
function colour(name: string): string {
  const shade = [...name].reduce((sum, letter) => (sum * 31 + letter.charCodeAt(0)) % 40, 7);
  const isOwn = /\((?:agent|sidecar|microservices|sdk|lib|orchestrator)\//.test(name);
  return isOwn
    ? `hsl(${String(20 + (shade % 25))},85%,${String(62 + (shade % 12))}%)`
    : `hsl(${String(195 + (shade % 25))},40%,${String(72 + (shade % 12))}%)`;
}

function escaped(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;");
}
