/** The process of `world-file.ts`: copies granted tables and columns into a new database, and ends. */
import { accessSync, readFileSync } from "node:fs";
import { dirname } from "node:path";
import Database from "better-sqlite3";
import { openDuckdb } from "../../lib/data/duckdb.ts";
import { quoteName } from "../../lib/data/sqlite-tables.ts";
import type { Table } from "../../lib/model/dataset.ts";
import type { WorldFileRequest } from "./world-file.ts";

/** What copying may take of memory; the rest goes to disk beside the file that is made. */
const COPY_BYTES = 256 * 1024 * 1024;

const request = JSON.parse(readFileSync(0, "utf8") || '{"parts":[]}') as WorldFileRequest;
if (request.parts.some(({ path }) => path.endsWith(".duckdb"))) void copyFromDuckdb(request);
else if (request.parts.length > 0) copyFromSqlite(request);

function copyFromSqlite({ target, parts }: WorldFileRequest): void {
  const world = new Database(target);
  // It is aside until it is complete: a crash loses nothing but time.
  world.pragma("journal_mode = OFF");
  world.pragma("synchronous = OFF");
  for (const part of parts) {
    // ATTACH would make a file that is not there.
    accessSync(part.path);
    world.prepare("ATTACH ? AS source").run(part.path);
    for (const table of part.tables) copyTable(world, table);
    world.exec("DETACH source");
  }
  world.close();
}

async function copyFromDuckdb({ target, parts, temporaryBytes }: WorldFileRequest): Promise<void> {
  const database = await openDuckdb({
    path: target,
    readOnly: false,
    memoryBytes: COPY_BYTES,
    temporaryFolder: dirname(target),
    temporaryBytes,
    externalAccess: true,
  });
  for (const part of parts) {
    await database.connection.run(`ATTACH '${part.path.replaceAll("'", "''")}' AS source (READ_ONLY)`);
    for (const { name, columns } of part.tables) {
      const chosen = columns.map((column) => quoteName(column.name)).join(", ");
      const table = quoteName(name);
      await database.connection.run(`CREATE TABLE ${table} AS SELECT ${chosen} FROM source.${table}`);
    }
    await database.connection.run("DETACH source");
  }
  await database.connection.run("CHECKPOINT");
  database.close();
}

/** With the source's own column types: how SQLite stores and compares values is then as in the source itself. */
function copyTable(database: Database.Database, table: Table): void {
  const sourceColumns = database.pragma(`source.table_xinfo(${quoteName(table.name)})`) as {
    name: string;
    type: string;
  }[];
  const columns = table.columns.map(({ name }) => {
    const source = sourceColumns.find((column) => column.name.toLowerCase() === name.toLowerCase());
    return { name: quoteName(name), type: source?.type.replace(/ *GENERATED ALWAYS$/, "") ?? "" };
  });
  const definitions = columns.map(({ name, type }) => `${name} ${type}`).join(", ");
  const names = columns.map(({ name }) => name).join(", ");
  const name = quoteName(table.name);
  database.exec(`CREATE TABLE main.${name} (${definitions})`);
  database.exec(`INSERT INTO main.${name} (${names}) SELECT ${names} FROM source.${name}`);
}
