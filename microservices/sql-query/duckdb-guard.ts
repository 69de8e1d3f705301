/**
 * The gate between an analyst's text and DuckDB, as `guarded-statement.ts` is for SQLite. What may run: exactly one select, whose parsed
 * form names nothing but the world's tables, its own subqueries, and a few table functions that only compute.
 *
 * The first wall is the database: it holds only what is granted, is opened read-only, without access to files and with its settings
 * locked. DuckDB parses the text itself (`json_serialize_sql`, which takes nothing but selects), so that nothing is guessed from it.
 */
import type { DuckDBConnection } from "@duckdb/node-api";
import { AppError } from "../../lib/errors.ts";
import type { DataSet } from "../../lib/model/dataset.ts";

/** A node of the parsed statement. */
type Node = Readonly<Record<string, unknown>>;

/** A statement that passed. */
export interface GuardedSelect {
  /** Its parsed form: what the origins of its columns are told from. */
  readonly select: Node;
}

/** Kinds of what can stand in FROM. `TABLE_FUNCTION` is looked at further. */
const SOURCES = new Set(["BASE_TABLE", "JOIN", "SUBQUERY", "EMPTY", "EXPRESSION_LIST", "TABLE_FUNCTION"]);
/** Table functions that read nothing but their arguments. */
const TABLE_FUNCTIONS = new Set(["range", "generate_series", "unnest"]);
/** Functions that tell of the process or its settings, or that call others by name. */
const DENIED_FUNCTIONS =
  /^(current_setting|set_config|getenv|getvariable|write_log|current_database|current_catalog|current_schemas?|current_query|in_search_path|pg_.*|duckdb_.*|pragma_.*|has_.*_privilege|(obj|col|shobj)_description|nextval|currval|setseed|txid_current|query|query_table|json_execute_serialized_sql|read_.*|glob|sniff_csv|sleep_ms|error|parse_duckdb_log_message|stats)$/;

/** Checks a statement, or throws `query_invalid` that says why it cannot run. */
export async function guardSelect(
  connection: DuckDBConnection,
  text: string,
  dataSets: readonly DataSet[],
): Promise<GuardedSelect> {
  if (text.includes("\0")) throw new AppError("query_invalid", "The query has a NUL character.");
  const parsed = await parse(connection, text);
  const [statement, more] = parsed;
  if (statement === undefined || more !== undefined) {
    throw new AppError("query_invalid", `The query must be one SELECT statement; it has ${String(parsed.length)}.`);
  }
  const select = statement["node"] as Node;
  const tables = new Set(dataSets.flatMap((dataSet) => dataSet.tables.map(({ name }) => name.toLowerCase())));
  walk(select, (node) => checkNode(node, tables, new Set(namesOfSubqueries(select))));
  return { select };
}

/** Calls `visit` for each object in the parsed form, outer ones first. */
export function walk(value: unknown, visit: (node: Node) => void): void {
  if (Array.isArray(value)) {
    for (const entry of value) walk(entry, visit);
  } else if (typeof value === "object" && value !== null) {
    visit(value as Node);
    for (const entry of Object.values(value)) walk(entry, visit);
  }
}

async function parse(connection: DuckDBConnection, text: string): Promise<readonly Node[]> {
  const reader = await connection.runAndReadAll("SELECT json_serialize_sql($1::VARCHAR)", [text]);
  const answer = JSON.parse(String(reader.getRows()[0]?.[0])) as {
    readonly error: boolean;
    readonly error_message?: string;
    readonly statements?: readonly Node[];
  };
  // The parser has seen the text only: it quotes that, and no value.
  if (answer.error) {
    throw new AppError("query_invalid", `The query must be one SELECT statement: ${String(answer.error_message)}`);
  }
  return answer.statements ?? [];
}

function namesOfSubqueries(select: Node): string[] {
  const names: string[] = [];
  walk(select, (node) => {
    const map = (node["cte_map"] as { readonly map?: readonly { readonly key: string }[] } | undefined)?.map ?? [];
    names.push(...map.map(({ key }) => key.toLowerCase()));
    if (typeof node["cte_name"] === "string") names.push(node["cte_name"].toLowerCase());
  });
  return names;
}

function checkNode(node: Node, tables: ReadonlySet<string>, subqueries: ReadonlySet<string>): void {
  if (node["class"] === "FUNCTION") checkFunction(node);
  const isSource = "sample" in node && "alias" in node && "type" in node;
  if (!isSource) return;
  const type = String(node["type"]);
  if (!SOURCES.has(type)) {
    throw new AppError(
      "query_invalid",
      "The query reads from something that is not offered: tables and subqueries are.",
    );
  }
  if (type === "BASE_TABLE") checkTable(node, tables, subqueries);
  if (type !== "TABLE_FUNCTION") return;
  const name = String((node["function"] as Node)["function_name"]).toLowerCase();
  if (!TABLE_FUNCTIONS.has(name)) {
    throw new AppError(
      "query_invalid",
      `The table function ${name} is not offered. Offered: ${[...TABLE_FUNCTIONS].join(", ")}.`,
    );
  }
}

function checkTable(node: Node, tables: ReadonlySet<string>, subqueries: ReadonlySet<string>): void {
  const name = String(node["table_name"]);
  const schema = String(node["schema_name"]).toLowerCase();
  const isOfWorld = (schema === "" || schema === "main") && node["catalog_name"] === "";
  if (isOfWorld && (tables.has(name.toLowerCase()) || (schema === "" && subqueries.has(name.toLowerCase())))) return;
  throw new AppError("query_invalid", `The query cannot be run: there is no table ${name}.`);
}

function checkFunction(node: Node): void {
  const name = String(node["function_name"]).toLowerCase();
  if (DENIED_FUNCTIONS.test(name) || node["catalog"] !== "") {
    throw new AppError("query_invalid", `The function ${name} is not offered.`);
  }
}
