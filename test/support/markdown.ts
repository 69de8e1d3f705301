/** Reads the project's documents as data, so that tests can compare them with the code. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { packageRoot } from "../../lib/package-root.ts";

/** One section: its own tables and code, not those of the sections inside it. */
export interface Section {
  readonly title: string;
  readonly tables: readonly Table[];
  readonly code: readonly CodeBlock[];
}

/** A table's rows, by column title. */
export interface Table {
  readonly columns: readonly string[];
  readonly rows: readonly Readonly<Record<string, string>>[];
}

/** A fenced block. */
export interface CodeBlock {
  readonly language: string;
  readonly text: string;
  /** Line of its first line in the document, from 1. */
  readonly line: number;
}

/** The text of a file of this package. */
export function readPackageFile(path: string): Promise<string> {
  return readFile(join(packageRoot, path), "utf8");
}

/** A document's sections in order; what stands before the first heading has the title "". */
export function sectionsOf(markdown: string): readonly Section[] {
  const sections: { title: string; tables: Table[]; code: CodeBlock[] }[] = [{ title: "", tables: [], code: [] }];
  const lines = markdown.split("\n");
  for (let at = 0; at < lines.length; at++) {
    const line = lines[at] ?? "";
    const fence = /^\s*```(\w*)/.exec(line);
    const section = sections.at(-1);
    if (fence !== null) {
      const start = at + 1;
      while (++at < lines.length && !/^\s*```\s*$/.test(lines[at] ?? ""));
      section?.code.push({ language: fence[1] ?? "", text: lines.slice(start, at).join("\n"), line: start + 1 });
    } else if (/^#+ /.test(line)) {
      sections.push({ title: line.replace(/^#+ /, ""), tables: [], code: [] });
    } else if (line.startsWith("|") && /^\|[\s|:-]+\|$/.test(lines[at + 1] ?? "")) {
      const columns = cellsOf(line);
      const rows: Readonly<Record<string, string>>[] = [];
      for (at += 2; (lines[at] ?? "").startsWith("|"); at++) {
        const cells = cellsOf(lines[at] ?? "");
        rows.push(Object.fromEntries(columns.map((column, index) => [column, cells[index] ?? ""])));
      }
      section?.tables.push({ columns, rows });
      at--;
    }
  }
  return sections;
}

/** The table of this section; fails when there is no such section, or no such table in it. */
export function tableOf(markdown: string, title: string, index = 0): Table {
  const table = sectionsOf(markdown).find((section) => section.title === title)?.tables[index];
  if (table === undefined) throw new Error(`The document has no table ${String(index)} under "${title}".`);
  return table;
}

/** What stands between backticks in a text. */
export function codeSpans(text: string): readonly string[] {
  return [...text.matchAll(/`([^`\n]+)`/g)].map((match) => match[1] ?? "");
}

const TOP_FOLDERS = "lib|orchestrator|agent|sidecar|microservices|sdk|cli|configuration|docs|test|bench|proto|charts";
const PATH = new RegExp(
  String.raw`^(?:(?:${TOP_FOLDERS})(?:/[\w.-]+)*/?|[\w.-]+\.(?:md|json|js|cjs)|\.[\w-]+(?:/[\w.-]+)*)$`,
);

/** Paths of this package that a document names between backticks or links to; braces are expanded. */
export function pathsIn(markdown: string): readonly string[] {
  const withoutFences = markdown.replace(/^\s*```[^]*?^\s*```/gm, "");
  const links = [...withoutFences.matchAll(/\]\(([^)#\s]+)[^)]*\)/g)].map((match) => match[1] ?? "");
  const named = [...codeSpans(withoutFences), ...links].flatMap(expandBraces);
  return [...new Set(named.filter((name) => PATH.test(name)))];
}

function expandBraces(path: string): readonly string[] {
  const match = /^([^{}]*)\{([^{}]*)\}(.*)$/.exec(path);
  if (match === null) return [path];
  const [, before = "", choices = "", after = ""] = match;
  return choices.split(",").flatMap((choice) => expandBraces(`${before}${choice.trim()}${after}`));
}

function cellsOf(line: string): readonly string[] {
  return line
    .replace(/^\||\|\s*$/g, "")
    .split(/(?<!\\)\|/)
    .map((cell) => cell.trim().replaceAll("\\|", "|"));
}
