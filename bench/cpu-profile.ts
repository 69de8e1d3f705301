/**
 * Reads a `.cpuprofile` (V8's CPU profiler, as `--cpu-prof` writes it) into a tree of frames whose names are the project's: places
 * in bundles go back to their sources by the source maps beside them, and no path is of the machine.
 */
import { existsSync, readFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { SourceMap } from "node:module";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { packageRoot } from "../lib/package-root.ts";

/** A function as it was called from where its parents say. */
export interface FrameNode {
  /** Such as `append (lib/data/batch-builder.ts)`. */
  readonly name: string;
  /** Microseconds in the function itself, and with all that it called. */
  selfUs: number;
  totalUs: number;
  readonly children: Map<string, FrameNode>;
}

interface CallFrame {
  readonly functionName: string;
  readonly url: string;
  readonly lineNumber: number;
  readonly columnNumber: number;
}

interface CpuProfile {
  readonly nodes: readonly {
    readonly id: number;
    readonly callFrame: CallFrame;
    readonly children?: readonly number[];
  }[];
  readonly samples: readonly number[];
  readonly timeDeltas: readonly number[];
}

/** What a profile is of. */
export interface ProcessProfile {
  /** Such as `microservices/sql-query/main`. */
  readonly program: string;
  readonly root: FrameNode;
}

/** Waiting is no work. */
const NOT_WORK = new Set(["(idle)", "(program)", "(root)"]);

/** Reads one. */
export async function readCpuProfile(path: string): Promise<ProcessProfile> {
  const profile = JSON.parse(await readFile(path, "utf8")) as CpuProfile;
  const selfUs = new Map<number, number>();
  profile.samples.forEach((id, index) => selfUs.set(id, (selfUs.get(id) ?? 0) + (profile.timeDeltas[index] ?? 0)));
  const byId = new Map(profile.nodes.map((node) => [node.id, node]));
  const places = new Places();
  const root: FrameNode = { name: "all", selfUs: 0, totalUs: 0, children: new Map() };
  const add = (id: number, parent: FrameNode): void => {
    const node = byId.get(id);
    if (node === undefined || NOT_WORK.has(node.callFrame.functionName)) return;
    const name = places.nameOf(node.callFrame);
    const frame = parent.children.get(name) ?? { name, selfUs: 0, totalUs: 0, children: new Map<string, FrameNode>() };
    parent.children.set(name, frame);
    frame.selfUs += selfUs.get(id) ?? 0;
    for (const child of node.children ?? []) add(child, frame);
  };
  for (const child of profile.nodes[0]?.children ?? []) add(child, root);
  sumUp(root);
  return { program: programOf(profile), root };
}

/** Microseconds of each function itself, wherever it was called from; the most first. */
export function hottest(root: FrameNode): [name: string, selfUs: number][] {
  const sums = new Map<string, number>();
  const visit = (node: FrameNode): void => {
    sums.set(node.name, (sums.get(node.name) ?? 0) + node.selfUs);
    for (const child of node.children.values()) visit(child);
  };
  visit(root);
  return [...sums].sort(([, a], [, b]) => b - a);
}

function sumUp(node: FrameNode): number {
  node.totalUs = node.selfUs;
  for (const child of node.children.values()) node.totalUs += sumUp(child);
  return node.totalUs;
}

function programOf({ nodes }: CpuProfile): string {
  for (const { callFrame } of nodes) {
    const program = /dist\/(?:bundle\/)?((?:[\w-]+\/)*(?:main|query-child|world-child|messaging-main))\.js$/.exec(
      callFrame.url,
    )?.[1];
    if (program !== undefined) return program;
    const chunk = /dist\/bundle\/(query-program|watchdog|world-program)-\w+\.js$/.exec(callFrame.url)?.[1];
    if (chunk !== undefined) return `microservices/sql-query/${chunk}`;
  }
  return "other";
}

/** Places in built files as places in sources. */
class Places {
  readonly #maps = new Map<string, SourceMap | undefined>();

  nameOf({ functionName, url, lineNumber, columnNumber }: CallFrame): string {
    const name = functionName === "" ? "(anonymous)" : functionName;
    if (url === "") return name;
    if (!url.startsWith("file:")) return `${name} (${url})`;
    const path = fileURLToPath(url);
    const entry = this.#mapOf(path)?.findEntry(lineNumber, columnNumber);
    const source = entry !== undefined && "originalSource" in entry ? join(dirname(path), entry.originalSource) : path;
    return `${name} (${projectPath(source)})`;
  }

  #mapOf(path: string): SourceMap | undefined {
    if (!this.#maps.has(path)) {
      const file = `${path}.map`;
      const payload = existsSync(file)
        ? (JSON.parse(readFileSync(file, "utf8")) as ConstructorParameters<typeof SourceMap>[0])
        : undefined;
      this.#maps.set(path, payload && new SourceMap(payload));
    }
    return this.#maps.get(path);
  }
}

function projectPath(path: string): string {
  const modules = path.lastIndexOf("node_modules/");
  if (modules >= 0) return path.slice(modules + "node_modules/".length);
  return relative(packageRoot, path)
    .replace(/^(?:\.\.\/)+/, "")
    .replace(/^dist\//, "");
}
