/**
 * What a messaging sidecar costs: `node dist/bench/messaging-sidecar.js [rounds]`. Chunks of 256 KiB and round trips between two
 * processes on the embedded bus, alone and with a sidecar beside each (`bench/embedded-bus.ts`), in turn; then what an idle
 * sidecar holds in memory. Prints lines of JSON; a ratio above 1 means that the sidecars are slower.
 */
import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { startSidecar } from "./start-sidecar.ts";

/** The members of interest of what `bench/embedded-bus.ts` prints. */
interface Measured {
  readonly megabytesPerSecond: number;
  readonly roundTripMedianMs: number;
}

const CHUNKS = 1000;
const run = promisify(execFile);

async function measure(...words: readonly string[]): Promise<Measured> {
  const program = fileURLToPath(new URL("embedded-bus.js", import.meta.url));
  const { stdout } = await run(process.execPath, [program, `${CHUNKS}`, `${256 * 1024}`, "16", ...words]);
  return JSON.parse(stdout) as Measured;
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? NaN;
}

const alone: Measured[] = [];
const throughSidecars: Measured[] = [];
for (let round = 0; round < Number(process.argv[2] ?? 3); round++) {
  alone.push(await measure());
  throughSidecars.push(await measure("sidecar"));
  console.log(JSON.stringify({ alone: alone.at(-1), throughSidecars: throughSidecars.at(-1) }));
}
const ratio = (of: (each: Measured) => number): number =>
  Number((median(throughSidecars.map(of)) / median(alone.map(of))).toFixed(2));

const folder = await mkdtemp(join(tmpdir(), "dynamos-bench-"));
const sidecar = await startSidecar(`embedded:${join(folder, "bus.sqlite")}`, folder, "idle");
const kilobytes = async (file: string, name: string): Promise<number> =>
  Number(new RegExp(`^${name}:\\s+(\\d+)`, "m").exec(await readFile(`/proc/${sidecar.pid}/${file}`, "utf8"))?.[1]);
console.log(
  JSON.stringify({
    secondsPerByteRatio: ratio(({ megabytesPerSecond }) => 1 / megabytesPerSecond),
    roundTripRatio: ratio(({ roundTripMedianMs }) => roundTripMedianMs),
    idleRssMegabytes: Math.round((await kilobytes("status", "VmRSS")) / 1000),
    idlePssMegabytes: Math.round((await kilobytes("smaps_rollup", "Pss")) / 1000),
  }),
);
await sidecar.stop();
await rm(folder, { recursive: true });
