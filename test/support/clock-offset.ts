/** A program whose clock is off: a file for Node's `--import` that moves `Date`, and nothing else. */
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { temporaryFolder } from "./temporary-folder.ts";

/** The environment of a process whose clock is ahead by so much (behind, if negative). */
export async function clockOffset(ms: number): Promise<Readonly<Record<string, string>>> {
  const file = join(await temporaryFolder(), "clock.mjs");
  const program = `
const RealDate = Date;
const now = () => RealDate.now() + ${String(ms)};
globalThis.Date = class Date extends RealDate {
  constructor(...time) { super(...(time.length === 0 ? [now()] : time)); }
  static now() { return now(); }
};
`;
  await writeFile(file, program);
  return { NODE_OPTIONS: `--import=${file}` };
}
