/** Tables as text for a terminal, and as Markdown for `docs/performance.md`. */
import { isMet, type Cell, type Column, type Table, type Target } from "./table.ts";

/** For a terminal: columns side by side. */
export function textTable(table: Table): string {
  const [head, ...body] = textCells(table);
  const widths = (head ?? []).map((_, place) =>
    Math.max(...[head ?? [], ...body].map((row) => row[place]?.length ?? 0)),
  );
  const line = (row: readonly string[]): string =>
    row
      .map((cell, place) => (place === 0 ? cell.padEnd(widths[place] ?? 0) : cell.padStart(widths[place] ?? 0)))
      .join("  ");
  const lines = [head ?? [], widths.map((width) => "─".repeat(width)), ...body].map((row) => line(row).trimEnd());
  return [`\n${table.title}`, ...lines, ...targetLines(table), ...(table.notes ?? [])].join("\n");
}

/** For documents. */
export function markdownTable(table: Table): string {
  const [head = [], ...body] = textCells(table);
  const line = (row: readonly string[]): string => `| ${row.map((cell) => cell.replaceAll("|", "\\|")).join(" | ")} |`;
  const ruler = head.map((_, place) => (place === 0 ? "---" : "---:"));
  const targets = targetLines(table).map((text) => `- ${text}`);
  const notes = (table.notes ?? []).map((text) => `- ${text}`);
  const list = [...targets, ...notes];
  return [
    `**${table.title}**`,
    "",
    line(head),
    line(ruler),
    ...body.map(line),
    ...(list.length > 0 ? ["", ...list] : []),
  ].join("\n");
}

/** A number as people read it: three figures that count. */
export function figure(value: number): string {
  if (!Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size >= 100) return Math.round(value).toLocaleString("en-US");
  return String(Number(value.toPrecision(size >= 1 ? 3 : 2)));
}

function textCells({ columns, rows }: Table): string[][] {
  return [columns.map(columnHead), ...rows.map((row) => row.map(cellText))];
}

function columnHead({ name, unit }: Column): string {
  return unit === undefined ? name : `${name} (${unit})`;
}

function cellText(cell: Cell): string {
  if (cell === null) return "–";
  if (typeof cell === "string") return cell;
  if (typeof cell === "number") return figure(cell);
  return cell.n === 1
    ? figure(cell.median)
    : `${figure(cell.median)} (${figure(cell.min)}…${figure(cell.max)}, ${String(cell.n)})`;
}

function targetLines({ targets = [] }: Table): string[] {
  return targets.map(
    (target) =>
      `Target: ${target.what} ${limitText(target)}: ${figure(target.measured)}, ${isMet(target) ? "met" : "not met"}.`,
  );
}

function limitText({ atMost, atLeast, unit = "" }: Target): string {
  const [sign, limit] = atMost === undefined ? ["≥", atLeast ?? 0] : ["≤", atMost];
  return `${sign} ${figure(limit)}${unit === "" ? "" : ` ${unit}`}`;
}
