/**
 * The tables of `docs/performance.md`, which stand between `<!-- bench REPORT:TABLE -->` and `<!-- /bench -->`: REPORT is a file of
 * `docs/performance/` without its ending, TABLE the name of one of its tables. Nobody writes them by hand.
 */
import { readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { packageRoot } from "../lib/package-root.ts";
import { describeMachine } from "./machine.ts";
import { markdownTable } from "./print.ts";
import type { Report } from "./report.ts";

const DOCUMENT = join(packageRoot, "docs", "performance.md");
const REPORTS = join(packageRoot, "docs", "performance");
const PLACE = /(<!-- bench ([\w-]+):([\w-]+) -->\n)[\s\S]*?(<!-- \/bench -->)/g;

/** Writes every table of the document anew, from the reports beside it. */
export async function refreshDocument(): Promise<void> {
  const reports = new Map<string, Report>();
  for (const file of (await readdir(REPORTS)).filter((name) => name.endsWith(".json")))
    reports.set(file.replace(/\.json$/, ""), JSON.parse(await readFile(join(REPORTS, file), "utf8")) as Report);
  await writeFormatted(DOCUMENT, withTables(await readFile(DOCUMENT, "utf8"), reports));
}

/** A document with its tables as the reports have them; one that no report has says so. Pure. */
export function withTables(document: string, reports: ReadonlyMap<string, Report>): string {
  return document.replace(PLACE, (_, head: string, report: string, name: string, foot: string) => {
    const table = reports.get(report)?.tables.find((each) => each.name === name);
    if (table === undefined) return `${head}\n_Not measured yet: \`${report}\`, \`${name}\`._\n\n${foot}`;
    return `${head}\n${markdownTable(table)}\n\n_${describeMachine(table.machine)}._\n\n${foot}`;
  });
}

/** Writes a file as `npm run check` wants it. */
export async function writeFormatted(path: string, text: string): Promise<void> {
  // A development dependency, which only this command needs.
  const { format, resolveConfig } = await import("prettier");
  await writeFile(path, await format(text, { ...(await resolveConfig(path)), filepath: path }));
}
