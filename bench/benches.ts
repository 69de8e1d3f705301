/** Every measurement by its name. */
import { ARCHETYPES_BENCH } from "./archetypes.ts";
import { CEILINGS } from "./ceilings.ts";
import { DECISIONS } from "./decisions.ts";
import { IDLE } from "./idle.ts";
import { measureJobStart } from "./job-start.ts";
import { measureLoad } from "./load.ts";
import { measureMemory } from "./memory.ts";
import { QUERY_PATH } from "./query-path.ts";
import { RATE } from "./rate.ts";
import { ROWS } from "./rows.ts";
import { soak } from "./soak.ts";
import { START_CLUSTER } from "./start-cluster.ts";
import { START_UP } from "./start-up.ts";
import { START } from "./start.ts";
import type { TableBench } from "./table.ts";

/** A measurement that prints for itself, and fails where something is wrong. */
export interface CommandBench {
  readonly name: string;
  readonly about: string;
  readonly run: (...numbers: number[]) => Promise<void>;
}

/** Those that give tables, in the order in which they run. */
export const TABLE_BENCHES: readonly TableBench[] = [
  ARCHETYPES_BENCH,
  CEILINGS,
  START,
  START_UP,
  DECISIONS,
  IDLE,
  RATE,
  QUERY_PATH,
  ROWS,
  START_CLUSTER,
];

/** The others: they run only when they are named. */
export const COMMAND_BENCHES: readonly CommandBench[] = [
  { name: "load", about: "[requests] [users]: many requests at once, how evenly users were served", run: measureLoad },
  {
    name: "memory",
    about: "300,000 and 1,500,000 joined rows side by side; fails above its limits",
    run: measureMemory,
  },
  { name: "soak", about: "[minutes]: memory and handles over a long time; fails where they grow", run: soak },
  {
    name: "job-start",
    about: "[rounds] [microservices]: a chain's first batch on the cluster of KUBECONFIG, beside bare Jobs",
    run: measureJobStart,
  },
];
