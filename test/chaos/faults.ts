/** Does the faults of the plan, and undoes them. */
import { setTimeout as sleep } from "node:timers/promises";
import { processName } from "../../cli/exchange/parts.ts";
import type { History } from "./history.ts";
import { describeFault, type FaultAction, type PlannedFault, type Step, type Target } from "./plan.ts";
import { chainProcesses } from "./processes.ts";
import type { Supervisor } from "./supervisor.ts";

/** What faults act on. */
export interface FaultContext {
  readonly history: History;
  readonly supervisor: Supervisor;
  readonly stateFolder: string;
  /** Resolves at the next such step of a request. */
  readonly nextStep: (step: Exclude<Step, "time">, signal: AbortSignal) => Promise<void>;
}

/** A step that does not come in this time is waited for no longer. */
const STEP_LIMIT_MS = 10_000;
/** Chains live briefly: one is looked for so long, so often. */
const CHAIN_LIMIT_MS = 12_000;
const LOOK_MS = 40;

/** One fault from its beginning to its end; the history has both. */
export async function injectFault(planned: PlannedFault, context: FaultContext): Promise<void> {
  const { history } = context;
  if (planned.when !== "time") await context.nextStep(planned.when, AbortSignal.timeout(STEP_LIMIT_MS));
  const begin = (): void => history.add({ kind: "faultBegan", fault: planned.name, what: describeFault(planned) });
  const found = await act(planned.action, begin, context);
  history.add({ kind: "faultEnded", fault: planned.name, found });
}

/** Resolves when the fault is over, with whether there was anything to act on; `begin` is called just before it begins. */
async function act(action: FaultAction, begin: () => void, context: FaultContext): Promise<boolean> {
  switch (action.kind) {
    case "kill":
      return kill(action.target, action.downMs, begin, context);
    case "stop":
      return stopForAWhile(action.target, action.forMs, begin, context);
    case "store":
    case "broker":
    case "cut":
    case "duplicate":
    case "disk":
    case "clock":
      throw new Error(`Faults of kind ${action.kind} cannot be done yet.`);
  }
}

async function kill(target: Target, downMs: number, begin: () => void, context: FaultContext): Promise<boolean> {
  if (target.kind === "service") {
    begin();
    return context.supervisor.kill(processName(target.part, target.replica), downMs);
  }
  const pid = await findChainProcess(target, context.stateFolder);
  if (pid === undefined) return false;
  begin();
  return signalProcess(pid, "SIGKILL");
}

async function stopForAWhile(
  target: Target,
  forMs: number,
  begin: () => void,
  context: FaultContext,
): Promise<boolean> {
  const pid =
    target.kind === "service"
      ? context.supervisor.living(processName(target.part, target.replica))?.pid
      : await findChainProcess(target, context.stateFolder);
  if (pid === undefined) return false;
  begin();
  if (!signalProcess(pid, "SIGSTOP")) return false;
  await sleep(forMs);
  signalProcess(pid, "SIGCONT");
  return true;
}

async function findChainProcess(
  { party, element }: Extract<Target, { kind: "chain" }>,
  stateFolder: string,
): Promise<number | undefined> {
  for (const giveUpAt = Date.now() + CHAIN_LIMIT_MS; Date.now() < giveUpAt; await sleep(LOOK_MS)) {
    const [found] = chainProcesses(stateFolder, party, element);
    if (found !== undefined) return found.pid;
  }
  return undefined;
}

function signalProcess(pid: number, signal: NodeJS.Signals): boolean {
  try {
    process.kill(pid, signal);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ESRCH") return false;
    throw error;
  }
}
