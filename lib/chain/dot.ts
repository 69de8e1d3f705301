/** A chain as a picture: Graphviz DOT, which `lib/render/dot-svg.ts` turns into SVG. Pure. */
import type { Chain } from "./chain.ts";

/** One party's chain with the title to draw above it. */
export interface TitledChain {
  readonly title: string;
  readonly chain: Chain;
}

/**
 * The chains as one DOT digraph, a box around each; an arrow from the last service of a data provider's chain to the
 * first of the third party's, where there are two. Unused edges are drawn dashed. The same chains give the same text.
 */
export function chainsToDot(title: string, chains: readonly TitledChain[]): string {
  const clusters = chains.map(({ title: party, chain }, index) => clusterLines(index, party, chain));
  return [
    `digraph ${quote(title)} {`,
    `  rankdir=LR; fontname="DejaVu Sans"; labelloc=t; label=${quote(title)};`,
    `  node [shape=box, style="rounded,filled", fillcolor="#eef3fb", fontname="DejaVu Sans"];`,
    ...clusters.flat(),
    ...chains.slice(1).map(({ chain }, index) => {
      const last = chains[index]?.chain.services.at(-1)?.name ?? "";
      return `  ${nodeId(index, last)} -> ${nodeId(index + 1, chain.services[0]?.name ?? "")} [penwidth=2];`;
    }),
    "}",
    "",
  ].join("\n");
}

function clusterLines(index: number, title: string, chain: Chain): string[] {
  const names = chain.services.map(({ name }) => name);
  const onPath = new Set(names.slice(1).map((name, position) => `${names[position] ?? ""} ${name}`));
  return [
    `  subgraph cluster_${String(index)} {`,
    `    label=${quote(title)}; color="#8aa1c4";`,
    ...names.map((name) => `    ${nodeId(index, name)} [label=${quote(name)}];`),
    ...chain.edges.map(([from, to]) => {
      const style = onPath.has(`${from} ${to}`) ? "" : " [style=dashed, color=gray]";
      return `    ${nodeId(index, from)} -> ${nodeId(index, to)}${style};`;
    }),
    "  }",
  ];
}

function nodeId(cluster: number, name: string): string {
  return quote(`${String(cluster)}/${name}`);
}

function quote(text: string): string {
  return `"${text.replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\n", " ")}"`;
}
