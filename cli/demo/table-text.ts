/** Rows as aligned text. */
import type { AnswerRow } from "../client.ts";

/** A table of at most `limit` rows, its columns aligned, numbers to the right; says how many rows were left out. */
export function tableText(rows: readonly AnswerRow[], limit = 10): string {
  const shown = rows.slice(0, limit);
  const names = Object.keys(shown[0] ?? {});
  const cells = shown.map((row) => names.map((name) => cellText(row[name])));
  const widths = names.map((name, index) => Math.max(name.length, ...cells.map((row) => (row[index] ?? "").length)));
  const isNumber = names.map((name) => shown.every((row) => row[name] === null || typeof row[name] === "number"));
  const line = (row: readonly string[]): string =>
    row
      .map((cell, index) => (isNumber[index] ? cell.padStart(widths[index] ?? 0) : cell.padEnd(widths[index] ?? 0)))
      .join("  ")
      .trimEnd();
  const left = rows.length - shown.length;
  return [line(names), ...cells.map(line), ...(left > 0 ? [`… and ${String(left)} more`] : [])].join("\n");
}

function cellText(value: AnswerRow[string] | undefined): string {
  if (value === null || value === undefined) return "";
  return typeof value === "number" && !Number.isInteger(value) ? value.toFixed(2) : String(value);
}
