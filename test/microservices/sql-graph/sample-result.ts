/** Results for the tests of pictures. */
import type { RecordBatch } from "apache-arrow";
import { BatchBuilder } from "../../../lib/data/batch-builder.ts";
import type { CellValue, FieldType } from "../../../lib/data/field-types.ts";
import { ChartTableBuilder, type ChartTable } from "../../../microservices/sql-graph/chart-table.ts";
import { GraphCollector, type Picture } from "../../../microservices/sql-graph/graph.ts";
import type { ChartInput } from "../../../microservices/sql-graph/chart-choice.ts";

export const TYPES = {
  text: { kind: "text" },
  integer: { kind: "integer" },
  float: { kind: "float" },
  date: { kind: "date" },
  timestamp: { kind: "timestamp" },
  boolean: { kind: "boolean" },
  money: { kind: "decimal", precision: 12, scale: 2 },
} as const satisfies Record<string, FieldType>;

/** Columns as `name: type`, in order. */
export type Columns = Readonly<Record<string, keyof typeof TYPES>>;

/** What sql-algorithm writes beside its result. */
export function groupedBy(...columns: string[]): ReadonlyMap<string, string> {
  return new Map([
    ["dynamos.groupColumns", JSON.stringify(columns)],
    ["dynamos.algorithm", "average"],
  ]);
}

export function resultBatch(
  columns: Columns,
  rows: readonly CellValue[][],
  metadata: ReadonlyMap<string, string> = new Map(),
): RecordBatch {
  const fields = Object.entries(columns).map(([name, type]) => ({ name, type: TYPES[type], nullable: true }));
  const builder = new BatchBuilder(fields, { metadata });
  for (const row of rows) builder.append(row);
  return builder.build();
}

export function chartTable(batch: RecordBatch): ChartTable {
  const builder = new ChartTableBuilder(batch.schema);
  builder.add(batch);
  return builder.table();
}

export async function pictureOf(batch: RecordBatch, input: ChartInput = {}): Promise<Picture> {
  const collector = new GraphCollector(batch.schema);
  collector.add(batch);
  return collector.picture(input);
}

/** Texts in an SVG, in order. */
export function textsIn(svg: string): string[] {
  return [...svg.matchAll(/<text[^>]*>([^<]*)<\/text>/g)].map((match) =>
    (match[1] ?? "").replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&amp;", "&"),
  );
}

/** Descriptions of the marks, such as `Geslacht: V; average_HOOPgeb: 48712.98`, in order. */
export function marksIn(svg: string): string[] {
  return [...svg.matchAll(/aria-label="([^"]*)" role="graphics-symbol" aria-roledescription="[^"]*"/g)]
    .map((match) => match[1] ?? "")
    .filter((label) => !/axis|legend|^Title|^Subtitle/.test(label));
}
