/**
 * Runs first in every process that is profiled (`profiles.ts`): children are started by the same script, and one that is to be
 * killed has a second to end by itself, since a process that is killed writes no profile.
 */
import { ChildProcess } from "node:child_process";

const TIME_TO_WRITE_MS = 1_500;

const script = process.env["DYNAMOS_BENCH_NODE"];
if (script !== undefined) process.execPath = script;

type Kill = ChildProcess["kill"];
// eslint-disable-next-line @typescript-eslint/unbound-method -- it is called with the process it is of.
const kill: Kill = ChildProcess.prototype.kill;
ChildProcess.prototype.kill = function (this: ChildProcess, signal) {
  if (signal !== "SIGKILL" || this.exitCode !== null) return kill.call(this, signal);
  setTimeout(() => kill.call(this, signal), TIME_TO_WRITE_MS).unref();
  return true;
};
