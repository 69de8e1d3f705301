/**
 * What can be told from a statement's text alone: where it ends, and whether it combines several selects. SQLite itself
 * parses it; here only its tokens are told apart (https://www.sqlite.org/lang.html, tokenize.c).
 */

/** A statement as it was written, but for what stands behind its last token. */
export interface StatementText {
  /** Without trailing semicolons, comments and white space. Empty if there is nothing else. */
  readonly sql: string;
  /**
   * Whether it has UNION, INTERSECT, EXCEPT or VALUES anywhere. SQLite then names the origin of a result column by one of
   * the selects, though rows come from all.
   */
  readonly isCompound: boolean;
}

/** These are reserved in SQLite: as names they must stand in quotes. */
const COMPOUND = new Set(["UNION", "INTERSECT", "EXCEPT", "VALUES"]);

/** Space; comments (a block comment may stay open at the end); text and names in quotes (likewise); words; anything else. */
const TOKEN =
  /(?<space>[ \t\n\f\r\uFEFF]+|--[^\n]*|\/\*[^]*?(?:\*\/|$))|(?<quoted>'[^']*(?:''[^']*)*(?:'|$)|"[^"]*(?:""[^"]*)*(?:"|$)|`[^`]*(?:``[^`]*)*(?:`|$)|\[[^\]]*(?:\]|$))|(?<word>[A-Za-z_$\u0080-\uFFFF][A-Za-z0-9_$\u0080-\uFFFF]*)|(?<semicolon>;)|[^]/gy;

/** Reads a statement's tokens. */
export function readStatement(text: string): StatementText {
  let end = 0;
  let isCompound = false;
  for (const match of text.matchAll(TOKEN)) {
    const { space, word, semicolon } = match.groups ?? {};
    if (word !== undefined && COMPOUND.has(word.toUpperCase())) isCompound = true;
    if (space === undefined && semicolon === undefined) end = match.index + match[0].length;
  }
  return { sql: text.slice(0, end), isCompound };
}
