/** The doctor's look at this machine: Node.js, settings, configuration, the state folder. Facts in, findings out; pure. */
import type { ErrorPlace } from "../../lib/errors.ts";
import { fault, ok, type Finding } from "./findings.ts";

/** Something that could be read, or what is wrong with it. */
export type Checked =
  | { readonly ok: true; readonly what: string }
  | { readonly ok: false; readonly message: string; readonly place?: ErrorPlace };

/** What was found on this machine. */
export interface MachineFacts {
  readonly nodeVersion: string;
  /** Range in `package.json`: comparators, separated by spaces. */
  readonly nodeRange: string;
  /** Flags, environment and `exchange.json`. */
  readonly settings: Checked;
  /** Documents and parties; absent: no folder was named, and none belongs to this exchange. */
  readonly configuration?: Checked;
  /** The state folder's disk; absent: it is not on this machine. */
  readonly disk?: { readonly path: string; readonly freeBytes: number };
  /** Absent: it is not on this machine. */
  readonly adminKey?: { readonly path: string; readonly mode: number };
}

/** Below it nothing can be written soon; loaded data, kept answers, store and bus all need room. */
const LEAST_FREE_BYTES = 100 * 1024 * 1024;
const LITTLE_FREE_BYTES = 1024 * 1024 * 1024;
const OTHERS = 0o077;

/** Judges this machine. */
export function judgeMachine(facts: MachineFacts): readonly Finding[] {
  return [
    judgeNode(facts),
    judgeChecked("settings.valid", "The settings", facts.settings, "Mend the setting that is named."),
    ...(facts.configuration === undefined
      ? []
      : [
          judgeChecked(
            "configuration.valid",
            "The configuration folder",
            facts.configuration,
            "Mend the file at the place that is named; docs/configuration.md lists every member.",
          ),
        ]),
    ...(facts.disk === undefined ? [] : [judgeDisk(facts.disk)]),
    ...(facts.adminKey === undefined ? [] : [judgeAdminKey(facts.adminKey)]),
  ];
}

function judgeNode({ nodeVersion, nodeRange }: MachineFacts): Finding {
  return satisfies(nodeVersion, nodeRange)
    ? ok("node.version", `Node.js ${nodeVersion} fits ${nodeRange}.`)
    : fault(
        "node.version",
        "fail",
        `Node.js ${nodeVersion} does not fit ${nodeRange}.`,
        `Install a Node.js within ${nodeRange}, for example the latest 22.`,
      );
}

function judgeChecked(id: Finding["id"], what: string, checked: Checked, fix: string): Finding {
  if (checked.ok) return ok(id, checked.what);
  const { file, line, column, pointer } = checked.place ?? {};
  const where = [file, line, column].filter((part) => part !== undefined).join(":");
  const inside = pointer === undefined || pointer === "" ? "" : ` at ${pointer}`;
  return fault(id, "fail", `${what}: ${where === "" ? "" : `${where}${inside}: `}${checked.message}`, fix);
}

function judgeDisk({ path, freeBytes }: NonNullable<MachineFacts["disk"]>): Finding {
  const found = `${megabytes(freeBytes)} are free where ${path} is.`;
  if (freeBytes >= LITTLE_FREE_BYTES) return ok("state.disk", found);
  const isAlmostNone = freeBytes < LEAST_FREE_BYTES;
  const fix = "Make room on this disk, or move the state folder (--state, DYNAMOS_STATE_FOLDER) to a larger one.";
  return fault("state.disk", isAlmostNone ? "fail" : "warn", found, fix);
}

function judgeAdminKey({ path, mode }: NonNullable<MachineFacts["adminKey"]>): Finding {
  const octal = (mode & 0o777).toString(8).padStart(3, "0");
  if ((mode & OTHERS) === 0) return ok("state.admin-key", `Only its owner may read the admin key (mode ${octal}).`);
  return fault(
    "state.admin-key",
    "fail",
    `Others on this machine may read the admin key ${path} (mode ${octal}).`,
    `chmod 600 '${path}'; if somebody may have read it, delete it and restart the orchestrators: they make a new one.`,
  );
}

function megabytes(bytes: number): string {
  return `${(bytes / 1024 / 1024).toFixed(0)} MiB`;
}

/** Whether a version (`v20.20.1`) fits all comparators (`>=20.19 <24.19`). */
export function satisfies(version: string, range: string): boolean {
  const numbers = numbersOf(version);
  return range.split(/\s+/).every((comparator) => {
    const [, operator = "", bound = ""] = /^(>=|<=|>|<|=)?v?(.*)$/.exec(comparator) ?? [];
    const difference = compare(numbers, numbersOf(bound));
    switch (operator) {
      case ">=":
        return difference >= 0;
      case "<=":
        return difference <= 0;
      case ">":
        return difference > 0;
      case "<":
        return difference < 0;
      default:
        return difference === 0;
    }
  });
}

function numbersOf(version: string): readonly number[] {
  return version.replace(/^v/, "").split(".").map(Number);
}

function compare(a: readonly number[], b: readonly number[]): number {
  for (let index = 0; index < Math.max(a.length, b.length); index++) {
    const difference = (a[index] ?? 0) - (b[index] ?? 0);
    if (difference !== 0) return difference;
  }
  return 0;
}
