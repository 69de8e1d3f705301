/** Does the faults of the plan, and undoes them. */
import { setTimeout as sleep } from "node:timers/promises";
import { processName, sidecarName } from "../../cli/exchange/parts.ts";
import type { Switchable } from "./backends.ts";
import { sendAgain } from "./duplicates.ts";
import type { History } from "./history.ts";
import { describeFault, type FaultAction, type PlannedFault, type Target } from "./plan.ts";
import { processesOf, type SeenProcess } from "./processes.ts";
import { STEWARDS } from "./questions.ts";
import type { ToldStep } from "./step-signal.ts";
import type { Supervisor } from "./supervisor.ts";
import type { World } from "./world.ts";

/** What faults act on. */
export interface FaultContext {
  readonly history: History;
  readonly supervisor: Supervisor;
  readonly world: World;
  /** Resolves at the next such step of a request. */
  readonly nextStep: (step: ToldStep, signal: AbortSignal) => Promise<void>;
  /** What a fault is at work on: another one leaves it alone. */
  readonly busy: Set<unknown>;
}

/** A step that does not come in this time is waited for no longer. */
const STEP_LIMIT_MS = 30_000;
/** Chains live briefly: one is looked for so long, so often. */
const CHAIN_LIMIT_MS = 30_000;
const LOOK_MS = 40;

/** One fault from its beginning to its end; the history has both. */
export async function injectFault(planned: PlannedFault, context: FaultContext): Promise<void> {
  const { history } = context;
  await untilStep(planned, context);
  const begin = (): void => history.add({ kind: "faultBegan", fault: planned.name, what: describeFault(planned) });
  const found = await act(planned, begin, context);
  history.add({ kind: "faultEnded", fault: planned.name, found });
}

async function untilStep({ when, action }: PlannedFault, { nextStep, world }: FaultContext): Promise<void> {
  switch (when) {
    case "time":
      return;
    case "approved":
    case "firstByte":
      return nextStep(when, AbortSignal.timeout(STEP_LIMIT_MS));
    case "query": {
      const part = "target" in action && action.target.kind === "service" ? action.target.part : "";
      const party = /^agent-(.*)/.exec(part)?.[1];
      // A third party has no query: its providers' count.
      const own = STEWARDS.find((steward) => steward === party);
      await findProcess((seen) => seen.program === "query-child" && (own === undefined || seen.party === own), world);
    }
  }
}

/** Resolves when the fault is over, with whether there was anything to act on; `begin` is called just before it begins. */
async function act({ name, action }: PlannedFault, begin: () => void, context: FaultContext): Promise<boolean> {
  const { supervisor, world } = context;
  switch (action.kind) {
    case "kill":
      return kill(action.target, action.downMs, begin, context);
    case "stop":
      return stopForAWhile(action.target, action.forMs, begin, context);
    case "store":
      return alone(world.backends.store, begin, context, (server) => switchOff(server, action));
    case "broker":
      return alone(world.backends.broker, begin, context, (server) => switchOff(server, action));
    case "cut": {
      const link = world.links.get(processName(action.from.part, action.from.replica))?.get(action.to);
      return alone(link, begin, context, async (cut) => {
        cut.cut(action.how);
        await sleep(action.forMs);
        cut.heal();
      });
    }
    case "duplicate":
      return alone(
        DOUBLING,
        () => undefined,
        context,
        async () => {
          const seed = Number(/\d+/.exec(name)?.[0] ?? 0);
          const end = await sendAgain(world.backends.busUrl, { ...action, seed });
          if (end === undefined) return false;
          begin();
          await sleep(action.forMs);
          await end();
          return true;
        },
      );
    case "disk":
      return alone(world.disks.get(action.part), begin, context, async (disk) => {
        await disk.fill();
        await sleep(action.forMs);
        await disk.free();
      });
    case "clock": {
      const process = processName(action.part, action.replica);
      const living = supervisor.living(process) === undefined ? undefined : `clock of ${process}`;
      return alone(living, begin, context, async () => {
        await world.setClock(process, action.byMs);
        await sleep(action.forMs);
        await world.setClock(process, 0);
      });
    }
  }
}

const DOUBLING = "messages that are sent again";

/** Acts on something that is there and that no other fault is at work on; false where it was not, or where `work` says so. */
async function alone<Thing>(
  thing: Thing | undefined,
  begin: () => void,
  { busy }: FaultContext,
  work: (thing: Thing) => Promise<boolean | void>,
): Promise<boolean> {
  if (thing === undefined || busy.has(thing)) return false;
  busy.add(thing);
  begin();
  try {
    return (await work(thing)) !== false;
  } finally {
    busy.delete(thing);
  }
}

async function switchOff(
  server: Switchable,
  { how, forMs }: Extract<FaultAction, { kind: "store" | "broker" }>,
): Promise<void> {
  if (how === "pause") {
    await server.pause();
    await sleep(forMs);
    server.resume();
    return;
  }
  await (how === "kill" ? server.kill() : server.stop());
  await sleep(forMs);
  await server.start();
}

async function kill(target: Target, downMs: number, begin: () => void, context: FaultContext): Promise<boolean> {
  if (target.kind === "service") {
    begin();
    return context.supervisor.kill(serviceName(target), downMs);
  }
  const pid = await findProcess(isElement(target), context.world);
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
      ? context.supervisor.living(serviceName(target))?.pid
      : await findProcess(isElement(target), context.world);
  if (pid === undefined) return false;
  begin();
  if (!signalProcess(pid, "SIGSTOP")) return false;
  await sleep(forMs);
  signalProcess(pid, "SIGCONT");
  return true;
}

function serviceName({ part, replica, isSidecar }: Extract<Target, { kind: "service" }>): string {
  const name = processName(part, replica);
  return isSidecar ? sidecarName(name) : name;
}

/** The first process that is looked for, as soon as there is one. */
async function findProcess(
  isWanted: (seen: SeenProcess) => boolean,
  { stateFolder }: World,
): Promise<number | undefined> {
  for (const giveUpAt = Date.now() + CHAIN_LIMIT_MS; Date.now() < giveUpAt; await sleep(LOOK_MS)) {
    const found = processesOf(stateFolder).find(isWanted);
    if (found !== undefined) return found.pid;
  }
  return undefined;
}

function isElement({ party, element }: Extract<Target, { kind: "chain" }>): (seen: SeenProcess) => boolean {
  return (seen) => seen.program === element && seen.party === party;
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
