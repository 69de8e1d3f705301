/** Measurements of the whole system: `npm run bench -- NAME [arguments]`. */
import { measureJobStart } from "./job-start.ts";
import { measureLoad } from "./load.ts";
import { measureMemory } from "./memory.ts";
import { soak } from "./soak.ts";

const BENCHES: Readonly<Record<string, (...numbers: number[]) => Promise<void>>> = {
  "job-start": measureJobStart,
  load: measureLoad,
  memory: measureMemory,
  soak,
};

const [name = "", ...rest] = process.argv.slice(2);
const bench = BENCHES[name];
if (bench === undefined) {
  console.error(`There is no measurement "${name}"; there are: ${Object.keys(BENCHES).join(", ")}.`);
  process.exitCode = 1;
} else {
  await bench(...rest.map(Number));
}
