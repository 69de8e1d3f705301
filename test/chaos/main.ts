/**
 * `npm run chaos`: see `test/chaos/README.md`. Exit code 0: no violation, or with `--mutant`: the mutant was noticed; 2:
 * otherwise; 1: it could not be run.
 */
import { spawnSync } from "node:child_process";
import { appendFileSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { noRealBackends } from "./backends.ts";
import { buildMutant, isMutantName, MUTANTS } from "./mutants.ts";
import {
  describePlan,
  FAULT_KINDS,
  joinPlans,
  makeDyingProvidersPlan,
  makePlan,
  type ChaosPlan,
  type FaultKind,
} from "./plan.ts";
import { describeEvent, describeHistory, describeViolation } from "./report.ts";
import { REQUESTS_ALONE, runChaos, WHOLE, type RunOptions } from "./run.ts";
import { noSmallDisk } from "./small-disk.ts";

const DEFAULTS = { only: undefined, replicas: "2", backends: "real", slowness: "1", "at-once": "3" };
/** Options that a run must be given again to be the same. */
const CHANGED_BY_VALUE = ["only", "replicas", "backends", "slowness", "at-once"] as const;

const { values } = parseArgs({
  options: {
    seed: { type: "string" },
    minutes: { type: "string", default: "2" },
    only: { type: "string" },
    replicas: { type: "string", default: DEFAULTS.replicas },
    sidecars: { type: "boolean", default: false },
    backends: { type: "string", default: DEFAULTS.backends },
    slowness: { type: "string", default: DEFAULTS.slowness },
    "at-once": { type: "string", default: DEFAULTS["at-once"] },
    short: { type: "boolean", default: false },
    "dying-providers": { type: "boolean", default: false },
    mutant: { type: "string" },
    "plan-only": { type: "boolean", default: false },
    keep: { type: "boolean", default: false },
  },
});

/** The one that every short run has; the other is new each time. */
const SHORT_SEED = 17;
const SHORT_MINUTES = 0.75;
/** Exit code that a fault of the harness itself does not have. */
const FOUND = 2;

const backends = values.backends === "embedded" ? "embedded" : "real";
const given = values.seed === undefined ? Math.floor(Math.random() * 2 ** 31) : Number(values.seed);
process.exit(values.mutant === undefined ? await runPlan(planOf(given)) : runMutant(values.mutant));

/** What the options ask for. */
function planOf(seed: number): ChaosPlan {
  if (values["dying-providers"]) return makeDyingProvidersPlan(seed);
  const minutes = values.short ? SHORT_MINUTES : Number(values.minutes);
  const seeds = values.short && values.seed === undefined ? [SHORT_SEED, seed] : [seed];
  const options = {
    lengthMs: minutes * 60_000,
    kinds: kindsOf(values.only),
    replicas: Number(values.replicas),
    hasSidecars: values.sidecars,
  };
  return joinPlans(seeds.map((each) => makePlan({ ...options, seed: each })));
}

async function runPlan(plan: ChaosPlan): Promise<number> {
  console.log(describePlan(plan));
  if (values["plan-only"]) return 0;
  const missing = backends === "real" ? noRealBackends() : undefined;
  if (missing !== undefined) throw new Error(`${missing}; or do without servers: --backends embedded`);
  const folder = mkdtempSync(join(tmpdir(), "dynamos-chaos-"));
  const { history, violations } = await runChaos(plan, runOptions(folder));
  console.log(describeHistory(history.events));
  for (const violation of violations) console.log(`VIOLATION ${describeViolation(violation, history.events)}`);
  const count = violations.length === 0 ? "no violation" : `${String(violations.length)} violations`;
  console.log(`${count}; the same again: npm run chaos -- ${sameAgain(plan)}`);
  if (values.keep || violations.length > 0) {
    for (const event of history.events) appendFileSync(join(folder, "history.log"), `${describeEvent(event)}\n`);
    console.log(`history, logs and state are kept in ${folder}`);
  } else rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
  return violations.length === 0 ? 0 : FOUND;
}

function runOptions(folder: string): RunOptions {
  const begin = Date.now();
  const isFocused = values["dying-providers"];
  return {
    folder,
    progress: (line) => console.log(`${((Date.now() - begin) / 1000).toFixed(1).padStart(7)} s ${line}`),
    backends,
    slowness: Number(values.slowness),
    // Each of the focused plan's faults is meant for the one request that is under way.
    maxAtOnce: isFocused ? 1 : Number(values["at-once"]),
    depth: isFocused ? REQUESTS_ALONE : WHOLE,
  };
}

function sameAgain({ requests }: ChaosPlan): string {
  if (values["dying-providers"]) return `--dying-providers --seed ${String(given)}`;
  const isJoined = requests[0]?.name.includes("-of-") === true;
  const length = values.short
    ? `--short${isJoined ? " (its second half alone, with --seed)" : ""}`
    : `--minutes ${values.minutes}`;
  const changed = CHANGED_BY_VALUE.filter((name) => values[name] !== undefined && values[name] !== DEFAULTS[name]).map(
    (name) => `--${name} ${String(values[name])}`,
  );
  return [length, `--seed ${String(given)}`, ...changed, ...(values.sidecars ? ["--sidecars"] : [])].join(" ");
}

/** Runs the focused plan on a build that is wrong on purpose: the harness must find violations. */
function runMutant(name: string): number {
  if (!isMutantName(name)) throw new Error(`--mutant knows ${Object.keys(MUTANTS).join(" and ")}, not ${name}.`);
  const folder = mkdtempSync(join(tmpdir(), "dynamos-mutant-"));
  try {
    console.log(`mutant ${name}: ${MUTANTS[name].what}`);
    const program = buildMutant(name, folder);
    const options = ["--dying-providers", "--seed", String(given), "--slowness", values.slowness];
    const { status } = spawnSync(process.execPath, ["--enable-source-maps", program, ...options], { stdio: "inherit" });
    console.log(status === FOUND ? `the mutant ${name} was noticed` : `the mutant ${name} was NOT noticed`);
    return status === FOUND ? 0 : FOUND;
  } finally {
    rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
  }
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

/** Whether a kind of fault is left out, which is said: files cannot be stopped, and not every machine lets disks be mounted. */
function isMissing(kind: FaultKind): boolean {
  const isOfServers = kind === "store" || kind === "broker" || kind === "duplicate";
  const reason =
    kind === "disk" ? noSmallDisk() : backends === "embedded" && isOfServers ? "the backends are files" : undefined;
  if (reason !== undefined) console.log(`left out: ${kind} (${reason})`);
  return reason !== undefined;
}
