/** A picture of a result that streams by: batches are looked at as they pass, and drawn when they have all passed. */
import type { RecordBatch, Schema } from "apache-arrow";
import { chartSpec } from "./chart.ts";
import { chooseChart, type ChartInput, type ChartKind } from "./chart-choice.ts";
import { planChart } from "./chart-plan.ts";
import { ChartTableBuilder, DEFAULT_LIMITS, type ChartLimits } from "./chart-table.ts";
import { renderPng, renderSvg } from "./render.ts";

/** A finished picture. */
export interface Picture {
  readonly kind: ChartKind;
  readonly svg: string;
  readonly png: Uint8Array;
}

/** Collects one stream's rows, up to its limits, for one picture. */
export class GraphCollector {
  readonly #table: ChartTableBuilder;

  /** Fails with `type_mismatch` for columns of unsupported types. */
  constructor(schema: Schema, limits: ChartLimits = DEFAULT_LIMITS) {
    this.#table = new ChartTableBuilder(schema, limits);
  }

  /** Takes note of a batch's rows. Too many for a picture: `result_too_large`, which names the limits. */
  add(batch: RecordBatch): void {
    this.#table.add(batch);
  }

  /**
   * Draws all rows added so far. Fails with `invalid_argument` for a kind that is unknown or does not suit the columns, and
   * with `column_unknown`; without rows, the picture says so.
   */
  async picture(input: ChartInput = {}): Promise<Picture> {
    const table = this.#table.table();
    const plan = planChart(table, chooseChart(table, input));
    const svg = await renderSvg(chartSpec(plan));
    return { kind: plan.kind, svg, png: await renderPng(svg) };
  }
}
