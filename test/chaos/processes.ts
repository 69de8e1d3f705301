/** The processes of the exchange under test, seen from outside (Linux: /proc). */
import { readdirSync, readFileSync } from "node:fs";

/** One living process of the exchange. */
export interface SeenProcess {
  readonly pid: number;
  readonly parentPid: number;
  /** Its program in short: `agent`, `sidecar`, `sql-query`, `query-child`, `guard`. */
  readonly program: string;
  /** Whose chain it belongs to, where it belongs to one. */
  readonly party: string | undefined;
  /** Most memory so far, in MiB. */
  readonly mostMebibytes: number;
}

const PROGRAMS: readonly (readonly [RegExp, string])[] = [
  [/dynamos-guard/, "guard"],
  [/query-child\./, "query-child"],
  [/world-child\./, "world-child"],
  [/microservices\/([a-z-]+)\/main\./, "$1"],
  [/sidecar\/messaging-main\./, "messaging-sidecar"],
  [/sidecar\/main\./, "sidecar"],
  [/policy-enforcer\/main\./, "policy-enforcer"],
  [/orchestrator\/main\./, "orchestrator"],
  [/agent\/main\./, "agent"],
];

/**
 * All processes that carry the exchange's state folder in their command line or environment, and the guards that agents started
 * (which carry nothing).
 */
export function processesOf(stateFolder: string): readonly SeenProcess[] {
  const found: SeenProcess[] = [];
  const parties = new Map<number, string>();
  const guards: SeenProcess[] = [];
  for (const entry of readdirSync("/proc")) {
    if (!/^\d+$/.test(entry) || Number(entry) === process.pid) continue;
    const commandLine = readOrNothing(`/proc/${entry}/cmdline`).replaceAll("\0", " ");
    const program = programOf(commandLine);
    if (program === undefined) continue;
    const environment = readOrNothing(`/proc/${entry}/environ`);
    const status = readOrNothing(`/proc/${entry}/status`);
    if (/^State:\s+Z/m.test(status) || status === "") continue;
    const marks = `${commandLine}\0${environment}`;
    const party = partyOf(marks, stateFolder);
    const seen: SeenProcess = {
      pid: Number(entry),
      parentPid: Number(/^PPid:\s+(\d+)$/m.exec(status)?.[1] ?? 0),
      program,
      party,
      mostMebibytes: Math.round(Number(/^VmHWM:\s+(\d+) kB$/m.exec(status)?.[1] ?? 0) / 1024),
    };
    if (program === "guard") guards.push(seen);
    else if (marks.includes(stateFolder)) found.push(seen);
    if (program === "agent" && party !== undefined) parties.set(seen.pid, party);
  }
  const known = new Set(found.map(({ pid }) => pid));
  for (const guard of guards) {
    const party = parties.get(guard.parentPid);
    if (known.has(guard.parentPid)) found.push({ ...guard, party });
  }
  return found;
}

/** Whether the process is part of a chain, and so must go with it. */
export function isOfChain({ program }: SeenProcess): boolean {
  return program === "sidecar" || program === "query-child" || program === "world-child" || program.startsWith("sql-");
}

function programOf(commandLine: string): string | undefined {
  for (const [pattern, name] of PROGRAMS) {
    const match = pattern.exec(commandLine);
    if (match !== null) return name === "$1" ? match[1] : name;
  }
  return undefined;
}

function partyOf(marks: string, stateFolder: string): string | undefined {
  const own = marks.includes(stateFolder) ? marks : "";
  return (
    /\/jobs\/jobs\/([A-Za-z0-9]+)\//.exec(own)?.[1] ??
    /\/agent-([A-Za-z0-9]+)\/worlds\//.exec(own)?.[1] ??
    /\0DYNAMOS_STEWARD=([A-Za-z0-9]+)/.exec(own)?.[1]
  );
}

function readOrNothing(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? "";
    if (["ENOENT", "ESRCH", "EACCES", "EPERM"].includes(code)) return "";
    throw error;
  }
}
