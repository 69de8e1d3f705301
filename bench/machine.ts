/** What a run was made on: numbers of other machines, or of a busy one, say little. */
import { cpus, loadavg, totalmem } from "node:os";
import { chosenBackends, describeBackends, type BackendChoice } from "../test/support/backends.ts";

/** A machine and what runs on it. */
export interface Machine {
  readonly cores: number;
  readonly processor: string;
  readonly memoryGiB: number;
  readonly node: string;
  readonly platform: string;
  readonly backends: BackendChoice;
  /** Of the last minute, before and after the run; 1 per core that is busy. */
  readonly loadBefore: number;
  readonly loadAfter: number;
}

/** The machine now. */
export function thisMachine(loadBefore: number): Machine {
  return {
    cores: cpus().length,
    processor: cpus()[0]?.model.trim() ?? "unknown",
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    node: process.version,
    platform: `${process.platform} ${process.arch}`,
    backends: chosenBackends(),
    loadBefore,
    loadAfter: load(),
  };
}

/** The load average of the last minute. */
export function load(): number {
  return Number((loadavg()[0] ?? 0).toFixed(2));
}

/** In one line. */
export function describeMachine(machine: Machine): string {
  return (
    `${String(machine.cores)} cores (${machine.processor}), ${String(machine.memoryGiB)} GiB, Node ${machine.node}, ${machine.platform}; ` +
    `${describeBackends(machine.backends)}; load average ${String(machine.loadBefore)} before, ${String(machine.loadAfter)} after`
  );
}
