/** Where a text is not JSON (RFC 8259). `JSON.parse` says so only for some faults, and not in Node 20. */

/** Line and column, both from 1, at which a text stops being the beginning of a JSON text. */
export function jsonFaultPlace(text: string): { readonly line: number; readonly column: number } {
  const before = text.slice(0, faultOffset(text)).split(/\r\n|\r|\n/);
  return { line: before.length, column: (before.at(-1) ?? "").length + 1 };
}

type Expected = "value" | "value or ]" | "name" | "name or }" | ":" | ", or end" | "nothing";

const STRING = /"(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9A-Fa-f]{4}))*"/y;
const NUMBER_OR_WORD = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null/y;
const SPACE = /[ \t\n\r]*/y;

/** A loop and not a recursion: texts come from anybody, nested as deep as they like. */
function faultOffset(text: string): number {
  const open: string[] = [];
  let at = 0;
  let expected: Expected = "value";
  const take = (token: RegExp | string): boolean => {
    const length =
      typeof token === "string" ? (text.startsWith(token, at) ? token.length : -1) : matched(token, text, at);
    at += Math.max(length, 0);
    return length >= 0;
  };
  const takeOpen = (bracket: string, close: string): boolean => take(bracket) && open.push(close) > 0;
  const takeClose = (): boolean => open.length > 0 && take(open.at(-1) ?? "") && open.pop() !== undefined;
  for (;;) {
    take(SPACE);
    switch (expected) {
      case "value":
      case "value or ]":
        if (takeOpen("{", "}")) expected = "name or }";
        else if (takeOpen("[", "]")) expected = "value or ]";
        else if (take(STRING) || take(NUMBER_OR_WORD) || (expected === "value or ]" && takeClose()))
          expected = ", or end";
        else return at;
        break;
      case "name":
      case "name or }":
        if (take(STRING)) expected = ":";
        else if (expected === "name or }" && takeClose()) expected = ", or end";
        else return at;
        break;
      case ":":
        if (!take(":")) return at;
        expected = "value";
        break;
      case ", or end":
        if (open.length === 0) expected = "nothing";
        else if (take(",")) expected = open.at(-1) === "}" ? "name" : "value";
        else if (!takeClose()) return at;
        break;
      case "nothing":
        return at;
    }
  }
}

/** Length of the token at this place; -1 if it is not there. */
function matched(token: RegExp, text: string, at: number): number {
  token.lastIndex = at;
  return token.exec(text)?.[0].length ?? -1;
}
