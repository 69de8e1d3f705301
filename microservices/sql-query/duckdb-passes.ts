/**
 * Whether a select of DuckDB gives the same rows again, told from its parsed form: each grouping is a pass of its own, and where the
 * rows of a pass go to an aggregation, DuckDB may read and join them in another order than where they are the result.
 */
import { walk, type GuardedSelect } from "./duckdb-guard.ts";

type Node = Readonly<Record<string, unknown>>;

/**
 * Whether which rows it gives follows from the tables alone, not from an order among them: it chooses by conditions, and may make its rows
 * distinct. A limit, a sample, DISTINCT ON, a window or an aggregation (`first`, or a sum of floats in HAVING) may choose others.
 */
export function choosesByConditions({ select }: GuardedSelect): boolean {
  const isPlain =
    select["type"] === "SELECT_NODE" &&
    ["having", "qualify"].every((part) => (select[part] ?? null) === null) &&
    ["group_expressions", "group_sets"].every((part) => ((select[part] ?? []) as readonly unknown[]).length === 0) &&
    select["aggregate_handling"] === "STANDARD_HANDLING" &&
    (select["modifiers"] as readonly Node[]).every(leavesRows);
  let isSampled = false;
  walk(select, (node) => {
    if ((node["sample"] ?? null) !== null) isSampled = true;
  });
  return isPlain && !isSampled;
}

/** By a mere column nothing can fail: where the order does not matter, DuckDB leaves it out, and with it what would. */
function leavesRows(modifier: Node): boolean {
  if (modifier["type"] === "DISTINCT_MODIFIER") {
    return (modifier["distinct_on_targets"] as readonly unknown[]).length === 0;
  }
  if (modifier["type"] !== "ORDER_MODIFIER") return false;
  return (modifier["orders"] as readonly Node[]).every(({ expression }) =>
    ["COLUMN_REF", "CONSTANT"].includes(String((expression as Node)["class"])),
  );
}

/** Whether a second pass may see other rows than the first, for it asks chance or the clock. */
export function mayChange({ select }: GuardedSelect): boolean {
  let changes = false;
  walk(select, (node) => {
    const { function_name: name, column_names: names } = node;
    if (typeof name === "string" && isChangingFunction(name.toLowerCase())) changes = true;
    // A name by itself calls a function where no column has it.
    if (Array.isArray(names) && names.length === 1 && CLOCK_NAMES.has(String(names[0]).toLowerCase())) changes = true;
  });
  return changes;
}

/** Whether the same arguments may give another value in another pass. `name` in small letters. */
export function isChangingFunction(name: string): boolean {
  return CHANGING_FUNCTIONS.has(name);
}

const CLOCK_NAMES = new Set(["current_date", "current_time", "current_timestamp", "localtime", "localtimestamp"]);

/** Of those that are offered. Aggregations of lists are called by a text, which may name one of chance. */
const CHANGING_FUNCTIONS = new Set([
  ...["gen_random_uuid", "random", "reservoir_quantile", "uuid", "uuidv4", "uuidv7"],
  ...["age", "ago", "current_date", "current_localtime", "current_localtimestamp", "get_current_time"],
  ...["get_current_timestamp", "now", "today", "transaction_timestamp"],
  ...["array_aggr", "array_aggregate", "list_aggr", "list_aggregate"],
]);
