/** Graphviz DOT to SVG, for pictures of chains. Graphviz runs as WebAssembly: nothing needs to be installed. */
import { AppError } from "../errors.ts";

/** Characters of DOT that are drawn. A chain's picture has a few hundred; layout time grows much faster than size. */
export const MAX_DOT_CHARACTERS = 64 * 1024;

/**
 * Draws a graph as a standalone SVG document. The same DOT gives the same SVG.
 * DOT that Graphviz cannot read fails with `invalid_argument` (its message names the line), as does DOT that is too long.
 */
export async function dotToSvg(dot: string): Promise<string> {
  if (dot.length > MAX_DOT_CHARACTERS) {
    throw new AppError(
      "invalid_argument",
      `A graph of ${dot.length} characters is not drawn: at most ${MAX_DOT_CHARACTERS} are. Draw a part of it.`,
      { details: { limit: MAX_DOT_CHARACTERS } },
    );
  }
  // Loaded when first needed: few requests ask for a picture.
  const { instance } = await import("@viz-js/viz");
  const result = (await instance()).render(dot, { format: "svg", engine: "dot" });
  if (result.status === "success") return result.output;
  const reasons = result.errors.map((error) => error.message).join("; ");
  throw new AppError("invalid_argument", `The graph cannot be drawn: ${reasons}`);
}
