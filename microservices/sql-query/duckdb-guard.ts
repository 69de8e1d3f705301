/**
 * The gate between an analyst's text and DuckDB, as `guarded-statement.ts` is for SQLite. What may run: exactly one select, whose parsed
 * form names nothing but the world's tables, its own subqueries where they hold, and functions that only compute. What is not known to be
 * harmless is refused.
 *
 * The first wall is the database: it holds only what is granted, is opened read-only, without access to files and with its settings
 * locked. DuckDB parses the text itself (`json_serialize_sql`, which takes nothing but selects), so that nothing is guessed from it.
 */
import type { DuckDBConnection } from "@duckdb/node-api";
import { AppError } from "../../lib/errors.ts";
import type { DataSet } from "../../lib/model/dataset.ts";
import { isOfferedFunction } from "./duckdb-functions.ts";

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
/** Kinds of expressions. Each is looked at by what it holds; a kind that is not here is one that nobody has thought about. */
const EXPRESSIONS = new Set([
  ...[
    "BETWEEN",
    "CASE",
    "CAST",
    "COLLATE",
    "COLUMN_REF",
    "COMPARISON",
    "CONJUNCTION",
    "CONSTANT",
    "FUNCTION",
    "LAMBDA",
  ],
  ...["OPERATOR", "PARAMETER", "POSITIONAL_REFERENCE", "STAR", "SUBQUERY", "WINDOW"],
]);
/** Names that call a function where no column has them (DuckDB's "SQL value functions"), and tell of the database or the process. */
const TELLING_NAMES = new Set([
  ...["current_catalog", "current_role", "current_schema", "current_user", "session_user", "user"],
]);
/** What DuckDB's own views begin with. */
const SYSTEM_NAMES = /^(duckdb_|pragma_|sqlite_|pg_|information_schema)/;

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
  check(select, { tables, subqueries: new Set() });
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

/** What a name in FROM may mean at some place of the statement. In small letters. */
interface Scope {
  readonly tables: ReadonlySet<string>;
  /** Names of WITH that hold here. Elsewhere the same name is something else: a view of the system, say. */
  readonly subqueries: ReadonlySet<string>;
}

/** Checks all of a value of the parsed form. */
function check(value: unknown, scope: Scope): void {
  if (Array.isArray(value)) {
    for (const entry of value) check(entry, scope);
  } else if (typeof value === "object" && value !== null) checkObject(value as Node, scope);
}

/** A name of WITH holds in the names after it and in the select that it stands before; in itself only where it recurs. */
function checkObject(node: Node, scope: Scope): void {
  checkNode(node, scope);
  const { cte_map: names, ...rest } = node;
  let inner = scope;
  for (const entry of (names as { readonly map?: readonly Node[] } | undefined)?.map ?? []) {
    const name = String(entry["key"]).toLowerCase();
    if (SYSTEM_NAMES.test(name)) {
      throw new AppError(
        "query_invalid",
        `The query calls a subquery ${name}, as DuckDB calls a view. Name it otherwise.`,
      );
    }
    check(entry, inner);
    inner = withSubquery(inner, name);
  }
  if (rest["type"] !== "RECURSIVE_CTE_NODE") return checkValues(rest, inner);
  const { right, ...first } = rest;
  checkValues(first, inner);
  check(right, withSubquery(inner, String(rest["cte_name"]).toLowerCase()));
}

function checkValues(node: Node, scope: Scope): void {
  for (const value of Object.values(node)) check(value, scope);
}

function withSubquery({ tables, subqueries }: Scope, name: string): Scope {
  return { tables, subqueries: new Set([...subqueries, name]) };
}

function checkNode(node: Node, scope: Scope): void {
  if (typeof node["class"] === "string" && !EXPRESSIONS.has(node["class"])) {
    throw new AppError(
      "query_invalid",
      `The query has an expression of a kind that is not offered (${node["class"]}).`,
    );
  }
  if (typeof node["function_name"] === "string") checkFunction(node, node["function_name"].toLowerCase());
  if (node["class"] === "COLUMN_REF") checkColumn(node["column_names"] as readonly string[]);
  const isSource = "sample" in node && "alias" in node && "type" in node;
  if (!isSource) return;
  const type = String(node["type"]);
  if (!SOURCES.has(type)) {
    throw new AppError(
      "query_invalid",
      "The query reads from something that is not offered: tables and subqueries are.",
    );
  }
  if (type === "BASE_TABLE") checkTable(node, scope);
  if (type !== "TABLE_FUNCTION") return;
  const name = String((node["function"] as Node)["function_name"]).toLowerCase();
  if (!TABLE_FUNCTIONS.has(name)) {
    throw new AppError(
      "query_invalid",
      `The table function ${name} is not offered. Offered: ${[...TABLE_FUNCTIONS].join(", ")}.`,
    );
  }
}

function checkTable(node: Node, { tables, subqueries }: Scope): void {
  const name = String(node["table_name"]);
  const schema = String(node["schema_name"]).toLowerCase();
  const isOfWorld = (schema === "" || schema === "main") && node["catalog_name"] === "";
  if (isOfWorld && (tables.has(name.toLowerCase()) || (schema === "" && subqueries.has(name.toLowerCase())))) return;
  throw new AppError("query_invalid", `The query cannot be run: there is no table ${name}.`);
}

function checkFunction(node: Node, name: string): void {
  // `column.f()` is f(column), with the column in the place of a schema.
  const isPlain = node["catalog"] === "" && (node["schema"] === "" || node["schema"] === "main");
  if (!isPlain) {
    throw new AppError("query_invalid", `The function ${name} has something before its name. Write ${name}(…).`);
  }
  if (!isOfferedFunction(name)) throw new AppError("query_invalid", `The function ${name} is not offered.`);
}

function checkColumn([name = "", ...more]: readonly string[]): void {
  if (more.length > 0 || !TELLING_NAMES.has(name.toLowerCase())) return;
  throw new AppError(
    "query_invalid",
    `${name} is not offered. Write a column of that name with its table's: table.${name}.`,
  );
}
