/**
 * Loaded before a program of the exchange (`NODE_OPTIONS=--import=…`): its wall clock is off by as many milliseconds as the file
 * named by CHAOS_CLOCK_FILE says, and follows when that changes, as a clock that is set does. Timers are not touched.
 */
import { readFileSync } from "node:fs";

const LOOK_MS = 250;
const file = process.env["CHAOS_CLOCK_FILE"] ?? "";
const trueNow = Date.now.bind(Date);
let shiftMs = readShift();
setInterval(() => (shiftMs = readShift()), LOOK_MS).unref();

const TrueDate = Date;
globalThis.Date = class extends TrueDate {
  constructor(...values: readonly unknown[]) {
    if (values.length === 0) super(trueNow() + shiftMs);
    else super(...(values as [number]));
  }

  static override now(): number {
    return trueNow() + shiftMs;
  }
} as DateConstructor;

function readShift(): number {
  try {
    return Number(readFileSync(file, "utf8"));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return 0;
    throw error;
  }
}
