/** Vega-Lite specifications to SVG and PNG, without a canvas, a browser or fonts of the machine. */
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { AppError } from "../../lib/errors.ts";
import type { VegaLiteSpec } from "./chart.ts";
import { textWidth } from "./text-width.ts";

/** PNG pixels per CSS pixel. */
export const PIXEL_RATIO = 2;

/**
 * Draws a specification as SVG text. The same specification gives the same bytes. A fault in it fails with `internal`,
 * since specifications are made here; what Vega remarks on the data (a box without outliers) does not.
 */
export async function renderSvg(spec: VegaLiteSpec): Promise<string> {
  // Loaded when first needed: they take a third of a second and 60 MB, and most chains draw nothing.
  const [vega, vegaLite] = await Promise.all([import("vega"), import("vega-lite")]);
  const compiling = complaints("warnings");
  const { spec: compiled } = vegaLite.compile(spec as never, { logger: compiling });
  compiling.check();
  // Vega's own switch for how text is measured (its types leave it out), set to the same function each time.
  const { textMetrics } = vega as unknown as { textMetrics: { width: (item: TextItem, text?: string) => number } };
  textMetrics.width = (item, text) =>
    Math.min(textWidth(text ?? "", item.fontSize ?? 11), item.limit ? item.limit : Infinity);
  // Ids inside the SVG count up through the process otherwise.
  vega.resetSVGDefIds();
  const drawing = complaints("errors");
  const view = new vega.View(vega.parse(compiled), { renderer: "none", logger: drawing });
  try {
    const svg = await view.toSVG();
    drawing.check();
    return svg;
  } finally {
    view.finalize();
  }
}

/** Rasterizes an SVG at {@link PIXEL_RATIO}, with the DejaVu fonts that come with this package. */
export async function renderPng(svg: string): Promise<Uint8Array> {
  const { Resvg } = await import("@resvg/resvg-js");
  const resvg = new Resvg(svg, {
    fitTo: { mode: "zoom", value: PIXEL_RATIO },
    font: { loadSystemFonts: false, fontFiles: fontFiles(), defaultFontFamily: "DejaVu Sans" },
  });
  return resvg.render().asPng();
}

function fontFiles(): string[] {
  const folder = dirname(createRequire(import.meta.url).resolve("dejavu-fonts-ttf/package.json"));
  return ["DejaVuSans.ttf", "DejaVuSans-Bold.ttf"].map((file) => join(folder, "ttf", file));
}

interface TextItem {
  readonly fontSize?: number;
  /** Vega cuts the text at this many pixels. */
  readonly limit?: number;
}

/** A Vega logger that keeps what it is told and prints nothing; `check` throws for errors, and for warnings if asked. */
function complaints(least: "warnings" | "errors"): VegaLogger {
  const heard: string[] = [];
  const hear = (...said: unknown[]): VegaLogger => {
    heard.push(said.map(String).join(" "));
    return logger;
  };
  const ignore = (): VegaLogger => logger;
  const logger: VegaLogger = {
    error: hear,
    warn: least === "warnings" ? hear : ignore,
    info: ignore,
    debug: ignore,
    level: () => 2,
    check: () => {
      if (heard.length > 0) throw new AppError("internal", `The picture could not be drawn: ${heard.join("; ")}`);
    },
  };
  return logger;
}

interface VegaLogger {
  error(...said: unknown[]): VegaLogger;
  warn(...said: unknown[]): VegaLogger;
  info(...said: unknown[]): VegaLogger;
  debug(...said: unknown[]): VegaLogger;
  level(): number;
  check(): void;
}
