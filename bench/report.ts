/** A run for machines: what `--json` writes. */
import type { Machine } from "./machine.ts";
import { isMet, type RunOptions, type Table, type Target } from "./table.ts";

/** Raised when a member changes its meaning or goes. */
export const REPORT_FORMAT = 1;

/** See the file comment. */
export interface Report {
  readonly format: typeof REPORT_FORMAT;
  readonly tables: readonly ReportedTable[];
}

/** A table with what it was measured on; its targets say whether they are met. */
export interface ReportedTable extends Table {
  readonly targets: readonly (Target & { readonly isMet: boolean })[];
  readonly notes: readonly string[];
  readonly machine: Machine;
  /** Absent: as often as the table thinks right. */
  readonly rounds?: number;
  readonly quick: boolean;
}

/** Makes it. */
export function toReport(
  machine: Machine,
  { rounds, quick }: Pick<RunOptions, "rounds" | "quick">,
  tables: readonly Table[],
): Report {
  return {
    format: REPORT_FORMAT,
    tables: tables.map((table) => ({
      ...table,
      targets: (table.targets ?? []).map((target) => ({ ...target, isMet: isMet(target) })),
      notes: table.notes ?? [],
      machine,
      ...(rounds === undefined ? {} : { rounds }),
      quick,
    })),
  };
}

/** An earlier report with the tables of a later one in the place of its own, and what is new at its end. */
export function mergedReports(earlier: Report, later: Report): Report {
  const replaced = earlier.tables.map((table) => later.tables.find(({ name }) => name === table.name) ?? table);
  const added = later.tables.filter(({ name }) => !earlier.tables.some((table) => table.name === name));
  return { format: REPORT_FORMAT, tables: [...replaced, ...added] };
}
