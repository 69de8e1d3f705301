/**
 * `npm run chaos`: see `test/chaos/README.md`. Exit code 0: no violation; 1: at least one; 2: it could not run.
 */
import { appendFileSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { describeEvent, describeHistory, describeViolation } from "./report.ts";
import { describePlan, FAULT_KINDS, makePlan, type FaultKind } from "./plan.ts";
import { runChaos } from "./run.ts";
import { noSmallDisk } from "./small-disk.ts";

const { values } = parseArgs({
  options: {
    seed: { type: "string" },
    minutes: { type: "string", default: "2" },
    only: { type: "string" },
    replicas: { type: "string", default: "2" },
    backends: { type: "string", default: "real" },
    "at-once": { type: "string", default: "3" },
    "plan-only": { type: "boolean", default: false },
    keep: { type: "boolean", default: false },
  },
});

const backends = values.backends === "embedded" ? "embedded" : "real";
const seed = values.seed === undefined ? Math.floor(Math.random() * 2 ** 31) : Number(values.seed);
const plan = makePlan({
  seed,
  lengthMs: Number(values.minutes) * 60_000,
  kinds: kindsOf(values.only),
  replicas: Number(values.replicas),
});
console.log(describePlan(plan));
if (!values["plan-only"]) process.exitCode = await run();

async function run(): Promise<number> {
  const folder = mkdtempSync(join(tmpdir(), "dynamos-chaos-"));
  const begin = Date.now();
  const progress = (line: string): void =>
    console.log(`${((Date.now() - begin) / 1000).toFixed(1).padStart(7)} s ${line}`);
  const result = await runChaos(plan, { folder, progress, backends, maxAtOnce: Number(values["at-once"]) });
  const { history, violations } = result;
  const isKept = values.keep || violations.length > 0;
  console.log(describeHistory(history.events));
  for (const violation of violations) console.log(`VIOLATION ${describeViolation(violation, history.events)}`);
  console.log(
    `${violations.length === 0 ? "no violation" : `${String(violations.length)} violations`}; ` +
      `again: npm run chaos -- --seed ${String(seed)} --minutes ${values.minutes}`,
  );
  if (isKept) {
    for (const event of history.events) appendFileSync(join(folder, "history.log"), `${describeEvent(event)}\n`);
    console.log(`history, logs and state are kept in ${folder}`);
  } else rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
  return violations.length === 0 ? 0 : 1;
}

function kindsOf(only: string | undefined): readonly FaultKind[] {
  if (only === undefined) return FAULT_KINDS.filter((kind) => !isMissing(kind));
  const names = only.split(",").filter((name) => name !== "" && name !== "none");
  for (const name of names) {
    if (!FAULT_KINDS.includes(name as FaultKind)) {
      throw new Error(`--only knows ${FAULT_KINDS.join(", ")} and none, not ${name}.`);
    }
  }
  return names as FaultKind[];
}

/** Files cannot be stopped or cut off, and not every machine lets disks be mounted. */
function isMissing(kind: FaultKind): boolean {
  if (kind === "disk") return noSmallDisk() !== undefined;
  return backends === "embedded" && (kind === "store" || kind === "broker" || kind === "duplicate");
}
