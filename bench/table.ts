/** What a measurement gives: tables, for people and for machines alike. */
import type { Measured } from "./measured.ts";

/** One cell; null where there is nothing to measure. */
export type Cell = string | number | Measured | null;

/** A column. */
export interface Column {
  readonly name: string;
  /** Of its numbers, such as `ms` or `MiB`; absent where they count something, or are ratios. */
  readonly unit?: string;
}

/** What was promised of a figure, and what it is. */
export interface Target {
  /** In words, such as `30,000 rows by computeToData, warm`. */
  readonly what: string;
  readonly unit?: string;
  readonly measured: number;
  readonly atMost?: number;
  readonly atLeast?: number;
}

/** A table. */
export interface Table {
  /** Lower case with dashes; unique. */
  readonly name: string;
  readonly title: string;
  readonly columns: readonly Column[];
  /** Cells in the order of the columns. */
  readonly rows: readonly (readonly Cell[])[];
  readonly targets?: readonly Target[];
  /** What one needs to know to read it. */
  readonly notes?: readonly string[];
}

/** How a measurement is run. */
export interface RunOptions {
  /** How often each thing is measured; absent: as often as the table thinks right. */
  readonly rounds: number | undefined;
  /** Chains of this lifetime alone; absent: all that the measurement compares. */
  readonly lifetime?: string | undefined;
  /** The smallest sizes, once: to see that it works, not to learn anything. */
  readonly quick: boolean;
  /** Numbers after the name; what they mean is the measurement's. */
  readonly numbers: readonly number[];
  /** Folder for the processes' profiles; absent: none are taken. */
  readonly profiles: string | undefined;
  /** Says how far it is. */
  readonly progress: (line: string) => void;
}

/** A measurement that gives tables. */
export interface TableBench {
  readonly name: string;
  /** One line, for the list. */
  readonly about: string;
  /** It takes long, or needs what not everybody has: it runs only when it is named. */
  readonly onlyByName?: boolean;
  readonly run: (options: RunOptions) => Promise<readonly Table[]>;
}

/** How many rounds, given the table's own default. */
export function roundsOf({ rounds, quick }: RunOptions, usual: number): number {
  return rounds ?? (quick ? 1 : usual);
}

/** Whether a target is met. */
export function isMet({ measured, atMost, atLeast }: Target): boolean {
  return (atMost === undefined || measured <= atMost) && (atLeast === undefined || measured >= atLeast);
}
