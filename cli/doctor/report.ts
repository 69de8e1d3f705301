/** Findings as people and scripts read them. */
import type { Finding, Level } from "./findings.ts";

/** What was found, in all. */
export type Summary = Readonly<Record<Level, number>>;

const MARKS: Readonly<Record<Level, string>> = { ok: "ok  ", warn: "warn", fail: "FAIL", skip: "–   " };

/** One finding in one line, and its fix in another. */
export function findingLines({ level, id, found, fix }: Finding): readonly string[] {
  const line = `  ${MARKS[level]}  ${found}${level === "ok" || level === "skip" ? "" : ` [${id}]`}`;
  return fix === undefined ? [line] : [line, `        → ${fix}`];
}

/** How many findings there are of each level. */
export function summarize(findings: readonly Finding[]): Summary {
  const summary = { ok: 0, warn: 0, fail: 0, skip: 0 };
  for (const { level } of findings) summary[level] += 1;
  return summary;
}

/** The last line. */
export function summaryLine({ fail, warn, ok }: Summary): string {
  if (fail === 0 && warn === 0) return `All is well: ${String(ok)} things were looked at.`;
  const warnings = warn === 0 ? "" : `${String(warn)} ${warn === 1 ? "warning" : "warnings"}`;
  const faults = fail === 0 ? "" : `${String(fail)} ${fail === 1 ? "fault" : "faults"}`;
  return `${[faults, warnings].filter((part) => part !== "").join(" and ")}; each has its remedy above.`;
}
