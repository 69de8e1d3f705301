/** What sql-query rehearses over: the SDK's made-up data set, as a file that is there as long as that takes. */
import { mkdtempSync } from "node:fs";
import { rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import Database from "better-sqlite3";
import { formatCell } from "../../lib/data/field-types.ts";
import { createTableSql, quoteName } from "../../lib/data/sqlite-tables.ts";
import type { DataRequest } from "../../lib/model/data-request.ts";
import type { Rehearsal, RehearsalData } from "../../sdk/typescript/handler.ts";
import {
  GROUPS_QUESTION,
  REHEARSAL_DATA_SET,
  REHEARSAL_FIELDS,
  REHEARSAL_ROWS,
  rehearsalRow,
  ROWS_QUESTION,
} from "../../sdk/typescript/rehearsal-data.ts";
import type { REHEARSED_QUERIES } from "./query-protocol.ts";

/** As many as the query's process expects. */
const QUESTIONS: readonly DataRequest[] & { readonly length: typeof REHEARSED_QUERIES } = [
  ROWS_QUESTION,
  GROUPS_QUESTION,
];

/** See the file comment. */
export const QUERY_REHEARSAL: Rehearsal = { requests: QUESTIONS, openData: writeData };

/** In the job's own folder for temporary files, with which it goes in any case. */
function writeData(): Promise<RehearsalData> {
  const folder = mkdtempSync(join(tmpdir(), "rehearsal-"));
  const path = join(folder, "rehearsal.sqlite");
  for (const table of REHEARSAL_DATA_SET.tables) {
    const database = new Database(path);
    try {
      database.pragma("journal_mode = OFF");
      database.pragma("synchronous = OFF");
      database.exec(createTableSql(table));
      const places = REHEARSAL_FIELDS.map(() => "?").join(", ");
      const insert = database.prepare(`INSERT INTO ${quoteName(table.name)} VALUES (${places})`);
      database.transaction(() => {
        for (let index = 0; index < REHEARSAL_ROWS; index++) insert.run(...sqlValues(index));
      })();
    } finally {
      database.close();
    }
  }
  return Promise.resolve({
    locations: { [REHEARSAL_DATA_SET.name]: { path, contentHash: "rehearsal" } },
    close: () => rm(folder, { recursive: true, force: true }),
  });
}

function sqlValues(index: number): readonly unknown[] {
  return rehearsalRow(index).map((cell, place) => {
    const type = REHEARSAL_FIELDS[place]?.type;
    if (cell === null || type === undefined) return null;
    const text = formatCell(type, cell);
    return type.kind === "decimal" ? Number(text) : type.kind === "date" ? text : cell;
  });
}
