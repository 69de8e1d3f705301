/** Whether the process behind an open bus still lives: what makes recovery after `kill -9` fast. */

import { readFileSync, readlinkSync } from "node:fs";
import { hostname } from "node:os";

/** A process, told apart from a later one with the same number. */
export interface ProcessIdentity {
  /** Where `pid` means something: boot id and process namespace on Linux, else the host's name. */
  readonly host: string;
  readonly pid: number;
  /** Start time in clock ticks since boot (proc(5), field 22); empty where there is no /proc. */
  readonly started: string;
}

/** `unknown`: another process namespace, for example a container that shares the file. */
export type Liveness = "alive" | "gone" | "unknown";

/** This process. */
export function ownProcess(): ProcessIdentity {
  const bootId = readIfThere("/proc/sys/kernel/random/boot_id");
  if (bootId === undefined) return { host: hostname(), pid: process.pid, started: "" };
  return {
    host: `${bootId}/${readlinkSync("/proc/self/ns/pid")}`,
    pid: process.pid,
    started: procStat(process.pid)?.started ?? "",
  };
}

/** Whether `other` lives, as far as `self` can see. */
export function liveness(other: ProcessIdentity, self: ProcessIdentity): Liveness {
  if (other.host !== self.host) return sameBoot(other, self) ? "unknown" : "gone";
  if (self.started === "") return signalReaches(other.pid) ? "alive" : "gone";
  const stat = procStat(other.pid);
  // A zombie has ended; only its parent has not asked yet.
  return stat === undefined || stat.state === "Z" || stat.started !== other.started ? "gone" : "alive";
}

/** Processes of an earlier boot are gone. Without a boot id another host name may be another container. */
function sameBoot(other: ProcessIdentity, self: ProcessIdentity): boolean {
  return self.started === "" || other.started === "" || bootOf(other) === bootOf(self);
}

function bootOf(identity: ProcessIdentity): string | undefined {
  return identity.host.split("/")[0];
}

function procStat(pid: number): { readonly state: string; readonly started: string } | undefined {
  const stat = readIfThere(`/proc/${pid}/stat`);
  if (stat === undefined) return undefined;
  // The name in parentheses may itself hold spaces and parentheses; what follows it starts with field 3.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return { state: fields[0] ?? "", started: fields[19] ?? "" };
}

function readIfThere(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8").trim();
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === "ENOENT" || code === "ESRCH") return undefined;
    throw error;
  }
}

function signalReaches(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}
