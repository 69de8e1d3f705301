/**
 * Where the columns of a select come from, and whether it reads sensitive ones, told from its parsed form (docs/decisions/0006, 0024).
 * DuckDB does not say it itself, so only what is certain counts: an origin is given for a column that the outermost select names
 * in a table of its own FROM; anything else has none, which sql-anonymize takes for the worst.
 */
import { SOURCE_COLUMN, SOURCE_TABLE } from "../../lib/data/field-metadata.ts";
import { columnRule } from "../../lib/model/anonymization.ts";
import { findTable, type Column, type DataSet, type Table } from "../../lib/model/dataset.ts";
import { walk, type GuardedSelect } from "./duckdb-guard.ts";

type Node = Readonly<Record<string, unknown>>;

/** Arrow metadata of each result column. */
export type Origins = readonly Readonly<Record<string, string>>[];

interface Source {
  readonly alias: string;
  readonly table: Table;
}

/** The origins of the result's columns; `count` of them. */
export function originsOf({ select }: GuardedSelect, dataSets: readonly DataSet[], count: number): Origins {
  const none = Array.from({ length: count }, () => ({}));
  const sources = plainSources(select["from_table"] as Node, dataSets);
  if (select["type"] !== "SELECT_NODE" || sources === undefined || hasSubqueries(select)) return none;
  const origins: Record<string, string>[] = [];
  for (const entry of select["select_list"] as readonly Node[]) {
    if (entry["type"] === "STAR") {
      const columns = starColumns(entry, sources);
      if (columns === undefined) return none;
      origins.push(...columns);
    } else origins.push(entry["type"] === "COLUMN_REF" ? columnOrigin(entry, sources) : {});
  }
  return origins.length === count ? origins : none;
}

/**
 * Whether a select certainly reads no column that one of the data sets calls sensitive, be it only to choose rows: whether each name that it
 * reads is one of an open column, or one that it gave to something itself. Whatever else is read may be sensitive.
 */
export function selectsNoSensitiveColumn({ select }: GuardedSelect, dataSets: readonly DataSet[]): boolean {
  const tables = tablesOf(select, dataSets);
  const columns = tables.flatMap((table) => table.columns.map(({ name }) => ({ table, name })));
  const sensitive = columns.filter(({ table, name }) => !isOpen(table, name, dataSets));
  if (sensitive.length === 0) return true;
  // Whole rows can be had by a table's name, too.
  const closed = new Set([...sensitive, ...tables].map(({ name }) => name.toLowerCase()));
  const known = new Set(columns.map(({ name }) => name.toLowerCase()));
  let mayRead = false;
  walk(select, (node) => {
    const names = namesGiven(node).map((name) => name.toLowerCase());
    for (const name of names) (node["type"] === "BASE_TABLE" ? closed : known).add(name);
    if (readsUnnamed(node)) mayRead = true;
  });
  walk(select, (node) => {
    const read = namesRead(node).map((name) => name.toLowerCase());
    if (read.some((name) => closed.has(name) || !known.has(name))) mayRead = true;
  });
  return !mayRead;
}

function isOpen(table: Table, column: string, dataSets: readonly DataSet[]): boolean {
  const rules = dataSets.map((dataSet) => columnRule(dataSet, table.name, column).kind);
  return rules.includes("open") && !rules.includes("sensitive");
}

/** Names that a node gives to what stands in it, and is looked at there. */
function namesGiven(node: Node): readonly string[] {
  const { alias, aliases, column_name_alias: columns, type, lhs } = node;
  const given = [alias, ...((aliases ?? []) as readonly unknown[]), ...((columns ?? []) as readonly unknown[])];
  // A table function's column is called as it is.
  if (type === "TABLE_FUNCTION") given.push((node["function"] as Node)["function_name"]);
  if (node["class"] === "LAMBDA") given.push(...((lhs as Node)["column_names"] as readonly unknown[]));
  return given.filter((name): name is string => typeof name === "string" && name !== "");
}

/** Whether a node reads columns that it does not name, or gives a table's columns other names. */
function readsUnnamed(node: Node): boolean {
  if (node["type"] === "BASE_TABLE") return (node["column_name_alias"] as readonly unknown[]).length > 0;
  if (node["type"] === "JOIN") return !["REGULAR", "CROSS"].includes(String(node["ref_type"]));
  return node["type"] === "STAR" || node["class"] === "POSITIONAL_REFERENCE";
}

function namesRead(node: Node): readonly string[] {
  const using = (node["using_columns"] as readonly string[] | undefined) ?? [];
  const names = (node["column_names"] as readonly string[] | undefined) ?? [];
  // In `t.column` the first name is the table's; alone it is the whole row.
  return [...using, ...(names.length > 1 ? names.slice(1) : names)];
}

/** The tables that are joined by conditions; undefined where FROM has anything else. */
function plainSources(from: Node | undefined, dataSets: readonly DataSet[]): readonly Source[] | undefined {
  if (from?.["type"] === "JOIN") {
    const using = (from["using_columns"] as readonly string[] | undefined) ?? [];
    if (using.length > 0 || !["REGULAR", "CROSS"].includes(String(from["ref_type"]))) return undefined;
    const left = plainSources(from["left"] as Node, dataSets);
    const right = plainSources(from["right"] as Node, dataSets);
    return left && right && [...left, ...right];
  }
  if (from?.["type"] !== "BASE_TABLE" || (from["column_name_alias"] as readonly unknown[]).length > 0) return undefined;
  const name = String(from["table_name"]);
  const table = dataSets.map((dataSet) => findTable(dataSet, name)).find((found) => found !== undefined);
  const alias = String(from["alias"]) || name;
  return table && [{ alias: alias.toLowerCase(), table }];
}

/** A name of WITH may hide a table; a subquery elsewhere changes no origin, but this is simpler to be sure of. */
function hasSubqueries(select: Node): boolean {
  let count = 0;
  walk(select, (node) => {
    if (node["type"] === "SELECT_NODE" || node["type"] === "SET_OPERATION_NODE") count++;
  });
  return count > 1;
}

function starColumns(star: Node, sources: readonly Source[]): readonly Record<string, string>[] | undefined {
  const isPlain =
    star["columns"] === false &&
    star["expr"] === null &&
    ["exclude_list", "replace_list", "qualified_exclude_list", "rename_list"].every(
      (list) => ((star[list] as readonly unknown[] | undefined) ?? []).length === 0,
    );
  if (!isPlain) return undefined;
  const relation = String(star["relation_name"]).toLowerCase();
  const chosen = sources.filter(({ alias }) => relation === "" || alias === relation);
  return chosen.flatMap(({ table }) => table.columns.map((column) => metadataOf(table, column)));
}

function columnOrigin(reference: Node, sources: readonly Source[]): Record<string, string> {
  const names = reference["column_names"] as readonly string[];
  const [first = "", second] = names.map((name) => name.toLowerCase());
  if (names.length > 2) return {};
  const [name, relation] = second === undefined ? [first, undefined] : [second, first];
  const found = sources
    .filter(({ alias }) => relation === undefined || alias === relation)
    .flatMap(({ table }) => {
      const column = table.columns.find((candidate) => candidate.name.toLowerCase() === name);
      return column ? [metadataOf(table, column)] : [];
    });
  return (found.length === 1 ? found[0] : undefined) ?? {};
}

function metadataOf(table: Table, column: Column): Record<string, string> {
  return { [SOURCE_TABLE]: table.name, [SOURCE_COLUMN]: column.name };
}

function tablesOf(select: Node, dataSets: readonly DataSet[]): readonly Table[] {
  const tables: Table[] = [];
  walk(select, (node) => {
    if (node["type"] !== "BASE_TABLE") return;
    for (const dataSet of dataSets) {
      const table = findTable(dataSet, String(node["table_name"]));
      if (table) tables.push(table);
    }
  });
  return tables;
}
