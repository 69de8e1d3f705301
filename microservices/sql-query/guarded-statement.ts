/**
 * The one gate between an analyst's text and SQLite. What may run: exactly one statement that returns rows, writes
 * nothing, can stand inside another select, and whose compiled program touches nothing but the world's tables.
 *
 * The world holds only what is granted, so this is the second wall. Three looks, because each alone has holes: `ATTACH` and
 * PRAGMA count as read-only in SQLite, but are no subselects; the table-valued functions of PRAGMAs (which tell the file's
 * path) and of virtual tables are subselects, but show in the program as `VOpen`.
 */
import type Database from "better-sqlite3";
import { AppError } from "../../lib/errors.ts";
import { readStatement } from "./sql-text.ts";

/** One instruction of a compiled statement (https://www.sqlite.org/opcode.html). */
export interface Instruction {
  readonly addr: number;
  readonly opcode: string;
  readonly p1: number;
  readonly p2: number;
  readonly p3: number;
  readonly p4: string | null;
  readonly p5: number;
}

/** A statement that passed. */
export interface GuardedStatement {
  readonly statement: Database.Statement<[], unknown[]>;
  /** As written, without what stands behind its last token. */
  readonly sql: string;
  /** See `StatementText`. */
  readonly isCompound: boolean;
  readonly program: readonly Instruction[];
}

/** Prepares a statement, or throws `query_invalid` that says why it cannot run. */
export function guardStatement(database: Database.Database, text: string): GuardedStatement {
  if (text.includes("\0")) throw new AppError("query_invalid", "The query has a NUL character.");
  const { sql, isCompound } = readStatement(text);
  if (sql === "") throw new AppError("query_invalid", "The query is empty: one SELECT statement is expected.");
  const statement = prepare(database, sql);
  if (!statement.reader || !statement.readonly) {
    throw new AppError("query_invalid", "The query must be one SELECT statement: this one writes, or returns no rows.");
  }
  try {
    database.prepare(asSubselect(sql));
  } catch (error) {
    throw new AppError(
      "query_invalid",
      "The query must be one SELECT statement: PRAGMA, EXPLAIN and the like cannot run.",
      {
        cause: error,
      },
    );
  }
  const program = compile(database, sql);
  checkProgram(database, program);
  return { statement: statement as Database.Statement<[], unknown[]>, sql, isCompound, program };
}

/** A statement as the source of another. The line break ends a comment; the parentheses admit nothing but a select. */
export function asSubselect(sql: string, rest = ""): string {
  return `SELECT * FROM (${sql}\n) ${rest}`;
}

function prepare(database: Database.Database, sql: string): Database.Statement {
  try {
    return database.prepare(sql);
  } catch (error) {
    throw queryFault(error);
  }
}

/**
 * What SQLite or its binding says against a statement that it compiles, as the analyst's error: it quotes the statement, and
 * no value, for no row was read and no function called (what fails later: `query-faults.ts`). Out of memory stays what it is.
 */
function queryFault(error: unknown): unknown {
  if (!(error instanceof Error) || (error as { code?: string }).code === "SQLITE_NOMEM") return error;
  return new AppError("query_invalid", `The query cannot be run: ${error.message}.`, { cause: error });
}

function compile(database: Database.Database, sql: string): Instruction[] {
  return database.prepare<[], Instruction>(`EXPLAIN ${sql}`).all();
}

/** Virtual tables that only compute: they read their arguments. */
const ALLOWED_TABLE_FUNCTIONS = ["json_each", "json_tree"];

/** Functions that reach outside the world if the library was built so; ours refuses them too. */
const DENIED_FUNCTIONS = new Set(["load_extension", "fts3_tokenizer", "readfile", "writefile", "edit"]);

function checkProgram(database: Database.Database, program: readonly Instruction[]): void {
  const virtualTables = program.filter(({ opcode }) => opcode === "VOpen").map(({ p4 }) => p4);
  if (virtualTables.length > 0) {
    // A connection has one object per table function: the same address is the same function.
    const allowed = new Set(
      ALLOWED_TABLE_FUNCTIONS.map(
        (name) => compile(database, `SELECT * FROM ${name}('[]')`).find(({ opcode }) => opcode === "VOpen")?.p4,
      ),
    );
    if (virtualTables.some((address) => !allowed.has(address))) {
      throw new AppError(
        "query_invalid",
        `The query uses a table-valued function or virtual table that is not offered. Offered: ${ALLOWED_TABLE_FUNCTIONS.join(", ")}.`,
      );
    }
  }
  for (const { opcode, p4 } of program) {
    const name = /Function|Agg/.test(opcode) ? p4?.replace(/\(.*$/, "").toLowerCase() : undefined;
    if (name !== undefined && DENIED_FUNCTIONS.has(name)) {
      throw new AppError("query_invalid", `The function ${name} is not offered.`);
    }
  }
}
