/**
 * About how wide text is in DejaVu Sans. Vega would ask a canvas; without one it takes 0.8 em for every character, a third
 * too much, and then cuts labels that fit.
 */

/** Width in pixels of a text at this font size. Errs to the wide side by a few per cent. */
export function textWidth(text: string, fontSize: number): number {
  let ems = 0;
  for (const character of text) ems += characterWidth(character);
  return ems * fontSize;
}

/** Advance widths of DejaVu Sans 2.37 in em, by kinds of characters. */
function characterWidth(character: string): number {
  if (/[iljI.,:;'|! ]/.test(character)) return 0.35;
  if (/[ftr()[\]\-"/\\]/.test(character)) return 0.43;
  if (/[mwMW@%…—]/.test(character)) return 1;
  if (/[a-z0-9]/.test(character)) return 0.63;
  if (/[A-Z]/.test(character)) return 0.72;
  return character > "\u2e7f" ? 1.05 : 0.75;
}
