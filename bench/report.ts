/** A run for machines: what `--json` writes. */
import type { Machine } from "./machine.ts";
import { isMet, type RunOptions, type Table, type Target } from "./table.ts";

/** Raised when a member changes its meaning or goes. */
export const REPORT_FORMAT = 1;

/** See the file comment. */
export interface Report {
  readonly format: typeof REPORT_FORMAT;
  readonly machine: Machine;
  /** Absent: as often as each table thinks right. */
  readonly rounds?: number;
  readonly quick: boolean;
  readonly tables: readonly ReportedTable[];
}

/** A table whose targets say whether they are met. */
export interface ReportedTable extends Table {
  readonly targets: readonly (Target & { readonly isMet: boolean })[];
  readonly notes: readonly string[];
}

/** Makes it. */
export function toReport(
  machine: Machine,
  { rounds, quick }: Pick<RunOptions, "rounds" | "quick">,
  tables: readonly Table[],
): Report {
  return {
    format: REPORT_FORMAT,
    machine,
    ...(rounds === undefined ? {} : { rounds }),
    quick,
    tables: tables.map((table) => ({
      ...table,
      targets: (table.targets ?? []).map((target) => ({ ...target, isMet: isMet(target) })),
      notes: table.notes ?? [],
    })),
  };
}
