/** Memory of several processes together, from Linux's /proc. */
import { readdirSync, readFileSync } from "node:fs";

/**
 * Bytes that a process and all its descendants hold together: the sum of their proportional shares (PSS), so that what they share
 * counts once. Processes that end while this looks count as nothing.
 */
export function familyMemory(root: number): number {
  const children = new Map<number, number[]>();
  for (const entry of readdirSync("/proc")) {
    if (!/^\d+$/.test(entry)) continue;
    // The parent is the second field after the name, which stands in parentheses and may hold anything.
    const fields = readOrNothing(`/proc/${entry}/stat`)
      .replace(/^.*\) /s, "")
      .split(" ");
    const parent = Number(fields[1]);
    children.set(parent, [...(children.get(parent) ?? []), Number(entry)]);
  }
  const sum = (pid: number): number =>
    pssOf(pid) + (children.get(pid) ?? []).reduce((bytes, child) => bytes + sum(child), 0);
  return sum(root);
}

function pssOf(pid: number): number {
  const kilobytes = /^Pss:\s+(\d+) kB$/m.exec(readOrNothing(`/proc/${String(pid)}/smaps_rollup`))?.[1];
  return Number(kilobytes ?? 0) * 1024;
}

function readOrNothing(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? "";
    if (["ENOENT", "ESRCH", "EACCES"].includes(code)) return "";
    throw error;
  }
}
